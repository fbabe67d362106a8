//! Register code of hooks, instruction by instruction.

use wgpu_attention::hook::{ArgRow, Assembler, Binary, Parameter, Row, Source};
use wgpu_attention::kernel::key::{Point, ScalarType};

/// Bit patterns at which a quotient could go wrong: around zero, powers of two, the ends, and numbers without a pattern.
fn words() -> Vec<u32> {
    let around = |x: u32| [x.wrapping_sub(1), x, x.wrapping_add(1)];
    let mut list: Vec<u32> = [0, 3, 1 << 16, 1 << 31, 1_000_000_007].into_iter().flat_map(around).collect();
    let mut state = 1u32;
    list.extend((0..60).map(|n| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> (n % 31)
    }));
    list
}

/// What WGSL says of a / b and a % b.
fn wanted(op: Binary, a: u32, b: u32) -> u32 {
    let (x, y) = (a as i32, b as i32);
    match op {
        Binary::DivU => a.checked_div(b).unwrap_or(a),
        Binary::RemU => a.checked_rem(b).unwrap_or(0),
        Binary::DivI => x.checked_div(y).unwrap_or(x) as u32,
        _ => x.checked_rem(y).unwrap_or(0) as u32,
    }
}

#[test]
fn quotients_are_exact_whichever_operand_is_the_same_for_a_row() {
    let (list, ops) = (words(), [Binary::DivI, Binary::DivU, Binary::RemI, Binary::RemU]);
    let keys: Vec<i32> = (0..list.len() as i32).collect();
    let row = Row { batch: 0, head: 0, row: 0, query: 0, keys: &keys };
    for op in ops {
        for swapped in [false, true] {
            // The score's bits are one operand; an argument of the row, or a constant, is the other.
            let program = |constant: Option<u32>| {
                let parameter = Parameter { kind: ScalarType::U32, along_rows: true, along_keys: false };
                let mut code = Assembler::new(Point::Score, vec![parameter]);
                let score = code.source(Source::Score);
                let other = match constant {
                    Some(bits) => code.constant(bits),
                    None => code.source(Source::Arg(0)),
                };
                let result = if swapped { code.binary(op, other, score) } else { code.binary(op, score, other) };
                code.finish(result).expect("a short program")
            };
            let by_argument = program(None);
            for &other in &list {
                let want: Vec<u32> =
                    list.iter().map(|&x| if swapped { wanted(op, other, x) } else { wanted(op, x, other) }).collect();
                for program in [&by_argument, &program(Some(other))] {
                    let mut scores: Vec<f32> = list.iter().map(|&x| f32::from_bits(x)).collect();
                    program.score(&mut scores, &row, &[ArgRow::Number(f64::from(other))]);
                    let got: Vec<u32> = scores.iter().map(|x| x.to_bits()).collect();
                    assert_eq!(want, got, "{op:?} with {other}, swapped: {swapped}");
                }
            }
        }
    }
}

#[test]
fn what_is_the_same_for_a_row_runs_once() {
    let mut code = Assembler::new(Point::Score, Vec::new());
    let (score, query, two) = (code.source(Source::Score), code.source(Source::Query), code.constant(2));
    let half = code.binary(Binary::DivI, query, two);
    let sum = code.binary(Binary::AddI, half, score);
    let only_row = {
        let mut code = Assembler::new(Point::Mask, Vec::new());
        let (query, five) = (code.source(Source::Query), code.constant(5));
        let result = code.binary(Binary::LessI, query, five);
        code.finish(result).expect("a short program")
    };
    let program = code.finish(sum).expect("a short program");
    assert_eq!((program.len(), only_row.len()), ((1, 1), (1, 0)));
    // More keys than one chunk has; a result that no key changes; no key at all.
    for count in [0, 1, 15, 256, 300] {
        let keys: Vec<i32> = (0..count).collect();
        for query in [4, 9] {
            let row = Row { batch: 0, head: 0, row: 0, query, keys: &keys };
            let mut scores: Vec<f32> = (0..count as u32).map(f32::from_bits).collect();
            program.score(&mut scores, &row, &[]);
            assert!(scores.iter().zip(0..).all(|(x, n)| x.to_bits() == n + query as u32 / 2));
            let mut allowed = vec![true; count as usize];
            only_row.mask(&mut allowed, &row, &[]);
            assert!(allowed.iter().all(|a| *a == (query < 5)));
        }
    }
}
