//! Lists of keys, and hooks.

use super::{Array, Case};
use crate::hook::{ArgValue, Hook, Twin};
use crate::kernel::attend::{Keys, Normaliser};
use crate::kernel::key::{Point, ScalarType};
use crate::plan::{Ref, SlotId};
use crate::tensor::DType;

fn chance(n: usize, seed: u64) -> Vec<u32> {
    super::noise(n, seed).iter().map(|x| x.to_bits() >> 3).collect()
}

#[test]
fn block_masks() {
    for (queries, keys) in [(16, 16), (64, 64), (7, 30), (1, 8)] {
        for [h, hk, list] in [[2, 2, 2], [4, 2, 2], [4, 2, 1], [4, 1, 4], [8, 1, 2]] {
            for (causal, prefix, left) in [(false, 0, None), (true, 0, None), (true, 9, Some(20))] {
                let mut case = Case::new([2, h, hk, 100, 130, 16, 16]).with(|op| {
                    op.keys = Keys::Blocks { queries, keys };
                    op.causal = causal;
                    op.prefix = prefix;
                    op.window_left = left;
                });
                let shape = [2, list, 100usize.div_ceil(queries), 130usize.div_ceil(keys)];
                let mask: Vec<u8> = chance(shape.iter().product(), 5).iter().map(|x| u8::from(x % 3 != 0)).collect();
                case.indices = Some(Array::new(&shape, mask));
                case.check(&format!("block mask {queries}x{keys}, {h}/{hk} heads, {list} lists, causal {causal}"));
            }
        }
    }
}

#[test]
fn block_lists() {
    for (queries, keys) in [(16, 16), (64, 64), (40, 30)] {
        for causal in [false, true] {
            let mut case = Case::new([1, 4, 2, 100, 130, 16, 16]).with(|op| {
                op.keys = Keys::Blocks { queries, keys };
                op.causal = causal;
            });
            let (rows, blocks) = (100usize.div_ceil(queries), 130usize.div_ceil(keys));
            let (mut indptr, mut indices) = (Vec::new(), Vec::new());
            for head in 0..2usize {
                let mut at = 0;
                for r in 0..=rows {
                    indptr.push(at);
                    at += if r < rows { (r + head) as i32 % 4 } else { 0 };
                }
                // In no order, with places that are empty or out of range.
                indices.extend((0..40).map(|n| (n * 7 + head as i32) % (blocks as i32 + 2) - 1));
            }
            case.indptr = Some(Array::new(&[1, 2, rows + 1], indptr));
            case.indices = Some(Array::new(&[1, 2, 40], indices));
            case.check(&format!("block lists {queries}x{keys}, causal {causal}"));
        }
    }
}

#[test]
fn token_lists_with_gaps_repeats_and_strays() {
    for [h, hk, list] in [[2, 2, 2], [4, 2, 2], [4, 2, 1], [4, 2, 4], [16, 1, 1], [24, 1, 1]] {
        for block in [1, 4, 16] {
            for causal in [false, true] {
                let mut case = Case::new([2, h, hk, 9, 100, 16, 16]).with(|op| {
                    op.keys = Keys::Tokens { block };
                    op.causal = causal;
                });
                let bound = 100 / block as u32 + 3;
                let data: Vec<i32> = chance(2 * list * 9 * 21, 7).iter().map(|x| (x % bound) as i32 - 1).collect();
                case.indices = Some(Array::new(&[2, list, 9, 21], data));
                case.check(&format!("token lists, {h}/{hk} heads, {list} lists, {block} keys, causal {causal}"));
            }
        }
    }
    let mut case = Case::new([1, 2, 1, 2, 3000, 16, 16]).with(|op| op.keys = Keys::Tokens { block: 1 });
    let data: Vec<i32> = chance(2 * 2000, 9).iter().map(|x| (x % 3000) as i32).collect();
    case.indices = Some(Array::new(&[1, 1, 2, 2000], data));
    case.check("long token lists");
}

fn table(kind: ScalarType) -> ArgValue {
    ArgValue::Table(Ref { slot: SlotId(0), views: Vec::new(), dtype: DType::F32, shape: vec![1; 4] }, kind)
}

fn biased(case: Case) -> Case {
    let [b, h, _, lq, lk, ..] = case.sizes();
    let score = Twin::Score(|s, row, args| {
        let slope = args[0].f32(0);
        for (s, &j) in s.iter_mut().zip(row.keys) {
            *s += slope * (row.query - j) as f32 + args[1].f32(j);
        }
    });
    let bias: Vec<f32> =
        (0..lq * lk).map(|n| if n.is_multiple_of(11) { f32::NEG_INFINITY } else { (n % 7) as f32 * 0.25 }).collect();
    let hook = Hook::new(Point::Score, "biased", "", score);
    let hook = hook.arg("slope", ArgValue::F32(0.03125)).arg("bias", table(ScalarType::F32));
    let n = case.hooks.len();
    assert!(n == 0 && (lk == 90 || lk == 1500) && b * h > 0);
    case.table("h0_bias", ScalarType::F32, &[1, 1, lq, lk], bias).hook(
        hook,
        if lk == 90 {
            |s, at, query, j| s + biases(90, at[2], query, j)
        } else {
            |s, at, query, j| s + biases(1500, at[2], query, j)
        },
    )
}

fn biases(lk: usize, i: usize, query: i32, j: usize) -> f64 {
    let n = i * lk + j;
    let bias = if n.is_multiple_of(11) { f64::NEG_INFINITY } else { (n % 7) as f64 * 0.25 };
    0.03125 * f64::from(query - j as i32) + bias
}

fn sieved(case: Case) -> Case {
    let [_, h, ..] = case.sizes();
    let mask = Twin::Mask(|m, row, args| {
        for (m, &j) in m.iter_mut().zip(row.keys) {
            *m &= (row.row + j as usize + row.batch) % 3 != args[0].i32(j) as usize;
        }
    });
    let hook = Hook::new(Point::Mask, "sieved", "", mask).arg("rest", table(ScalarType::I32));
    let n = case.hooks.len();
    let rests: Vec<i32> = (0..h as i32).map(|h| h % 3).collect();
    case.table(&format!("h{n}_rest"), ScalarType::I32, &[h, 1, 1], rests)
        .hook(hook, |_, [b, h, i], _, j| f64::from(u8::from((i + j + b) % 3 != h % 3)))
}

#[test]
fn hooks_change_scores_and_hide_pairs() {
    for (lq, lk) in [(1, 90), (50, 90), (2, 1500)] {
        for causal in [false, true] {
            let case = || Case::new([1, 4, 2, lq, lk, 16, 16]).with(|op| op.causal = causal);
            biased(case()).check("score hook");
            sieved(case()).check("mask hook");
            sieved(biased(case())).check("score and mask hooks");
        }
    }
}

#[test]
fn hooks_run_on_lists() {
    let mut case = sieved(biased(Case::new([1, 4, 2, 50, 90, 16, 16]).with(|op| {
        op.keys = Keys::Blocks { queries: 16, keys: 16 };
        op.causal = true;
    })));
    case.indices = Some(Array::new(&[1, 1, 4, 6], (0..24).map(|n| u8::from(n % 3 != 1)).collect::<Vec<u8>>()));
    case.check("blocks");
    let mut case = sieved(biased(Case::new([1, 4, 2, 50, 90, 16, 16]).with(|op| op.keys = Keys::Tokens { block: 2 })));
    let data: Vec<i32> = chance(50 * 30, 3).iter().map(|x| (x % 46) as i32).collect();
    case.indices = Some(Array::new(&[1, 1, 50, 30], data));
    case.check("tokens");
}

#[test]
fn weight_hooks_take_the_place_of_softmax() {
    let sigmoid = Twin::Score(|s, _, args| s.iter_mut().for_each(|s| *s = 1.0 / (1.0 + (args[0].f32(0) - *s).exp())));
    for lq in [1, 50] {
        for causal in [false, true] {
            let case = Case::new([1, 4, 2, lq, 90, 16, 16]).with(|op| {
                op.causal = causal;
                op.normaliser = Normaliser::Weights;
            });
            let hook = Hook::new(Point::Weight, "sigmoid", "", sigmoid.clone()).arg("shift", ArgValue::F32(1.5));
            let case = sieved(biased(case)).hook(hook, |s, _, _, _| 1.0 / (1.0 + (1.5 - s).exp()));
            case.check("sigmoid weights");
        }
    }
}
