//! The executor of [`Program`]s: operations over [`LANES`] keys at a time.

use super::program::{Binary, LANES, One, Op, Program, Reg, Source, Unary};
use super::{ArgRow, Row};
use crate::kernel::key::ScalarType;
use crate::tensor::HostData;
use std::cell::RefCell;

/// Lanes are worked on by multiples of this.
const VECTOR: usize = 16;

/// One register: a word a lane. Booleans are 0 and 1, masks 0 and all ones.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Lanes([u32; LANES]);

const ZERO: Lanes = Lanes([0; LANES]);
const ON: u32 = u32::MAX;

/// What a hook changes, in place.
pub(super) enum Values<'a> {
    Floats(&'a mut [f32]),
    Bools(&'a mut [bool]),
}

impl Values<'_> {
    fn len(&self) -> usize {
        match self {
            Values::Floats(v) => v.len(),
            Values::Bools(v) => v.len(),
        }
    }
}

thread_local! {
    // Registers of the thread, so that a row allocates nothing.
    static REGISTERS: RefCell<Vec<Lanes>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn run(program: &Program, row: &Row, args: &[ArgRow], values: Values) {
    REGISTERS.with_borrow_mut(|registers| {
        // Two more: which lanes are on, and which have left.
        registers.resize(registers.len().max(program.registers + 2), ZERO);
        rows(program, row, args, values, registers);
    });
}

fn rows(program: &Program, row: &Row, args: &[ArgRow], mut values: Values, registers: &mut [Lanes]) {
    let count = values.len();
    // Whole vectors: lanes past the keys hold what they held.
    let whole = |n: usize| n.next_multiple_of(VECTOR).min(LANES);
    let most = whole(count);
    for &(reg, bits) in &program.constants {
        registers[reg as usize].0[0] = bits;
    }
    for &(source, reg) in &program.sources {
        let bits = match source {
            Source::Batch => row.batch as u32,
            Source::Head => row.head as u32,
            Source::Row => row.row as u32,
            Source::Query => row.query as u32,
            Source::Arg(n) if !program.args[n].along_keys => word(args[n].get(0), program.args[n].kind),
            _ => continue,
        };
        registers[reg as usize].0[0] = bits;
    }
    execute(&program.row, program.registers, registers, 1);
    for &reg in &program.spread {
        let lanes = &mut registers[reg as usize].0;
        let bits = lanes[0];
        lanes[..most].fill(bits);
    }
    for first in (0..count).step_by(LANES) {
        let some = first..(first + LANES).min(count);
        for &(source, reg) in &program.sources {
            let to = &mut registers[reg as usize].0[..some.len()];
            match source {
                Source::Score => {
                    if let Values::Floats(v) = &values {
                        to.iter_mut().zip(&v[some.clone()]).for_each(|(to, x)| *to = x.to_bits());
                    }
                }
                Source::Key => {
                    to.iter_mut().zip(&row.keys[some.clone()]).for_each(|(to, key)| *to = *key as u32);
                }
                Source::Arg(n) if program.args[n].along_keys => {
                    gather(to, &row.keys[some.clone()], args[n], program.args[n].kind);
                }
                _ => {}
            }
        }
        if program.branches {
            let (on, left) = registers[program.registers..].split_at_mut(1);
            on[0].0.fill(0);
            on[0].0[..some.len()].fill(ON);
            left[0].0.fill(0);
        }
        execute(&program.code, program.registers, registers, whole(some.len()));
        let result = &registers[program.result as usize].0;
        match &mut values {
            Values::Floats(v) => v[some].iter_mut().zip(result).for_each(|(x, bits)| *x = f32::from_bits(*bits)),
            Values::Bools(v) => v[some].iter_mut().zip(result).for_each(|(x, bits)| *x &= *bits != 0),
        }
    }
}

/// A number as a word of a type; a table's i32 read as u32 keeps its bits.
fn word(x: f64, kind: ScalarType) -> u32 {
    match kind {
        ScalarType::F32 => (x as f32).to_bits(),
        ScalarType::I32 | ScalarType::U32 => x as i64 as u32,
        ScalarType::Bool => u32::from(x != 0.0),
    }
}

/// The elements of an argument for a row of keys.
fn gather(to: &mut [u32], keys: &[i32], arg: ArgRow, kind: ScalarType) {
    let (data, base, step) = match arg {
        ArgRow::Number(x) => return to.fill(word(x, kind)),
        ArgRow::Table { data, base, step } => (data, base, step),
        // A user's function looks nothing up.
        ArgRow::Whole { .. } => return to.fill(0),
    };
    let side_by_side =
        step == 1 && keys.iter().zip(keys[0]..).fold(true, |all, (key, expected)| all & (*key == expected));
    match (data, kind) {
        (HostData::F32(v), ScalarType::F32) if side_by_side => {
            let from = &v[base + keys[0] as usize..];
            to.iter_mut().zip(from).for_each(|(to, x)| *to = x.to_bits());
        }
        (HostData::I32(v), ScalarType::I32 | ScalarType::U32) if side_by_side => {
            let from = &v[base + keys[0] as usize..];
            to.iter_mut().zip(from).for_each(|(to, x)| *to = *x as u32);
        }
        (HostData::F32(v), ScalarType::F32) => {
            to.iter_mut().zip(keys).for_each(|(to, key)| *to = v[base + *key as usize * step].to_bits());
        }
        (HostData::I32(v), ScalarType::I32 | ScalarType::U32) => {
            to.iter_mut().zip(keys).for_each(|(to, key)| *to = v[base + *key as usize * step] as u32);
        }
        _ => to.iter_mut().zip(keys).for_each(|(to, key)| *to = word(data.get(base + *key as usize * step), kind)),
    }
}

fn execute(code: &[Op], masks: usize, registers: &mut [Lanes], len: usize) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the features.
        return unsafe { execute_avx2(code, masks, registers, len) };
    }
    execute_all(code, masks, registers, len);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn execute_avx2(code: &[Op], masks: usize, registers: &mut [Lanes], len: usize) {
    execute_all(code, masks, registers, len);
}

#[inline(always)]
fn execute_all(code: &[Op], masks: usize, registers: &mut [Lanes], len: usize) {
    assert!(registers.len() >= masks + 2 && len <= LANES, "the caller makes room");
    let base = registers.as_mut_ptr();
    // SAFETY: `Assembler::finish` checked that registers are below `masks` (and the slice is longer), and that a pure operation does
    // not write what it reads; references live for one operation.
    let read = |r: Reg| unsafe { &(&(*base.add(r as usize)).0)[..len] };
    let write = |r: Reg| unsafe { &mut (&mut (*base.add(r as usize)).0)[..len] };
    // SAFETY: as above; the two masks are no registers.
    let (on, left) = unsafe { (&mut (&mut (*base.add(masks)).0)[..len], &mut (&mut (*base.add(masks + 1)).0)[..len]) };
    let mut at = 0;
    while let Some(op) = code.get(at) {
        at += 1;
        match *op {
            Op::Unary { op, to, a } => unary(op, write(to), read(a)),
            Op::Binary { op, to, a, b, one } => binary(op, write(to), Pair { a: read(a), b: read(b), one }),
            Op::Fma { to, a, b, c } => {
                let (to, a, b, c) = (write(to), read(a), read(b), read(c));
                for n in 0..len {
                    to[n] = f32::from_bits(a[n]).mul_add(f32::from_bits(b[n]), f32::from_bits(c[n])).to_bits();
                }
            }
            Op::Select { to, no, yes, condition } => {
                let (to, no, yes, condition) = (write(to), read(no), read(yes), read(condition));
                for n in 0..len {
                    to[n] = if condition[n] != 0 { yes[n] } else { no[n] };
                }
            }
            Op::Copy { to, from } => write(to).copy_from_slice(read(from)),
            Op::Index { to, first, step, count, index } => {
                let (to, index) = (write(to), read(index));
                for (n, (to, index)) in to.iter_mut().zip(index).enumerate() {
                    let from = first + step * (*index).min(u32::from(count) - 1) as Reg;
                    *to = read(from)[n];
                }
            }
            Op::Move { to, from } => {
                if to != from {
                    let (to, from) = (write(to), read(from));
                    for n in 0..len {
                        to[n] = from[n] & on[n] | to[n] & !on[n];
                    }
                }
            }
            Op::Enter { saved } => write(saved).copy_from_slice(on),
            Op::Only { condition, none } => {
                let condition = read(condition);
                for n in 0..len {
                    on[n] &= 0u32.wrapping_sub(condition[n]);
                }
                if is_empty(on) {
                    at = none as usize;
                }
            }
            Op::Others { saved, condition, none } => {
                let (saved, condition) = (read(saved), read(condition));
                for n in 0..len {
                    on[n] = saved[n] & !0u32.wrapping_sub(condition[n]) & !left[n];
                }
                if is_empty(on) {
                    at = none as usize;
                }
            }
            Op::Restore { saved } => {
                let saved = read(saved);
                for n in 0..len {
                    on[n] = saved[n] & !left[n];
                }
            }
            Op::Clear { set } => write(set).fill(0),
            Op::Leave { set } => {
                let set = write(set);
                for n in 0..len {
                    set[n] |= on[n];
                    left[n] |= on[n];
                    on[n] = 0;
                }
            }
            Op::Return { set } => {
                let set = write(set);
                for n in 0..len {
                    left[n] &= !set[n];
                    set[n] = 0;
                }
            }
            Op::Again { head } => {
                if !is_empty(on) {
                    at = head as usize;
                }
            }
        }
    }
}

#[inline(always)]
fn is_empty(mask: &[u32]) -> bool {
    mask.iter().fold(0, |any, lane| any | lane) == 0
}

type Words = [u32];

#[inline(always)]
fn each(to: &mut Words, a: &Words, of: impl Fn(u32) -> u32) {
    to.iter_mut().zip(a).for_each(|(to, a)| *to = of(*a));
}

#[inline(always)]
fn floats(to: &mut Words, a: &Words, of: impl Fn(f32) -> f32) {
    each(to, a, |a| of(f32::from_bits(a)).to_bits());
}

/// Two operands.
#[derive(Clone, Copy)]
struct Pair<'a> {
    a: &'a Words,
    b: &'a Words,
    one: One,
}

#[inline(always)]
fn both(to: &mut Words, Pair { a, b, one }: Pair, of: impl Fn(u32, u32) -> u32) {
    match one {
        One::Neither => to.iter_mut().zip(a).zip(b).for_each(|((to, a), b)| *to = of(*a, *b)),
        One::A => {
            let a = a[0];
            each(to, b, |b| of(a, b));
        }
        One::B => {
            let b = b[0];
            each(to, a, |a| of(a, b));
        }
    }
}

#[inline(always)]
fn two(to: &mut Words, x: Pair, of: impl Fn(f32, f32) -> f32) {
    both(to, x, |a, b| of(f32::from_bits(a), f32::from_bits(b)).to_bits());
}

#[inline(always)]
fn test(to: &mut Words, x: Pair, of: impl Fn(f32, f32) -> bool) {
    both(to, x, |a, b| u32::from(of(f32::from_bits(a), f32::from_bits(b))));
}

/// The largest f32 in an i32 and in a u32.
const MOST_I: f32 = 2_147_483_520.0;
const MOST_U: f32 = 4_294_967_040.0;

/// NaN stays, and becomes 0 in the conversion.
#[inline(always)]
fn at_most(x: f32, most: f32) -> f32 {
    if x > most { most } else { x }
}

#[inline(always)]
fn unary(op: Unary, to: &mut Words, a: &Words) {
    match op {
        Unary::NegF => floats(to, a, |x| -x),
        Unary::NegI => each(to, a, |x| 0u32.wrapping_sub(x)),
        Unary::NotB => each(to, a, |x| x ^ 1),
        Unary::NotBits => each(to, a, |x| !x),
        Unary::AbsF => floats(to, a, f32::abs),
        Unary::AbsI => each(to, a, |x| (x as i32).wrapping_abs() as u32),
        Unary::SignF => floats(to, a, |x| {
            let positive = if x > 0.0 { 1.0 } else { 0.0 };
            if x < 0.0 { -1.0 } else { positive }
        }),
        Unary::SignI => each(to, a, |x| (x as i32).signum() as u32),
        Unary::Floor => floats(to, a, f32::floor),
        Unary::Ceil => floats(to, a, f32::ceil),
        Unary::Trunc => floats(to, a, f32::trunc),
        Unary::Round => floats(to, a, f32::round_ties_even),
        Unary::Exp => floats(to, a, f32::exp),
        Unary::Exp2 => floats(to, a, f32::exp2),
        Unary::Log => floats(to, a, f32::ln),
        Unary::Log2 => floats(to, a, f32::log2),
        Unary::Sqrt => floats(to, a, f32::sqrt),
        Unary::InverseSqrt => floats(to, a, |x| 1.0 / x.sqrt()),
        Unary::Sin => floats(to, a, f32::sin),
        Unary::Cos => floats(to, a, f32::cos),
        Unary::Tan => floats(to, a, f32::tan),
        Unary::Sinh => floats(to, a, f32::sinh),
        Unary::Cosh => floats(to, a, f32::cosh),
        Unary::Tanh => floats(to, a, f32::tanh),
        Unary::Asin => floats(to, a, f32::asin),
        Unary::Acos => floats(to, a, f32::acos),
        Unary::Atan => floats(to, a, f32::atan),
        Unary::Asinh => floats(to, a, f32::asinh),
        Unary::Acosh => floats(to, a, f32::acosh),
        Unary::Atanh => floats(to, a, f32::atanh),
        // `as` saturates; the clamp is that of WGSL, to a number that f32 has.
        Unary::FToI => each(to, a, |x| at_most(f32::from_bits(x), MOST_I) as i32 as u32),
        Unary::FToU => each(to, a, |x| at_most(f32::from_bits(x), MOST_U) as u32),
        Unary::IToF => each(to, a, |x| (x as i32 as f32).to_bits()),
        Unary::UToF => each(to, a, |x| (x as f32).to_bits()),
        Unary::FToB => each(to, a, |x| u32::from(f32::from_bits(x) != 0.0)),
        Unary::IToB => each(to, a, |x| u32::from(x != 0)),
        Unary::BToF => each(to, a, |x| (x as f32).to_bits()),
        Unary::CountOneBits => each(to, a, u32::count_ones),
        Unary::CountLeadingZeros => each(to, a, u32::leading_zeros),
        Unary::CountTrailingZeros => each(to, a, u32::trailing_zeros),
        Unary::ReverseBits => each(to, a, u32::reverse_bits),
        // All ones where there is no such bit.
        Unary::FirstLeadingBitI => {
            each(to, a, |x| 31u32.wrapping_sub((if (x as i32) < 0 { !x } else { x }).leading_zeros()));
        }
        Unary::FirstLeadingBitU => each(to, a, |x| 31u32.wrapping_sub(x.leading_zeros())),
        Unary::FirstTrailingBit => each(to, a, |x| if x == 0 { u32::MAX } else { x.trailing_zeros() }),
    }
}

/// WGSL's x / 0 is x, and x % 0 is 0.
#[inline(always)]
fn divisor(b: u32) -> u32 {
    if b == 0 { 1 } else { b }
}

/// The whole part of a quotient, modulo 2^32: the sum with 3 · 2^51 leaves it in the low bits.
#[inline(always)]
fn whole_part(x: f64) -> u32 {
    (x.trunc() + 6_755_399_441_055_744.0).to_bits() as u32
}

/// `of` a, b and a / b truncated. Vectors of processors have no division of integers. In f64 it is exact: a quotient that is not whole is
/// at least 2^-32 of it away from the next whole number. One divisor of many is a factor, a little too large rather than too small, so
/// that a whole quotient does not fall below itself.
#[inline(always)]
fn divide(to: &mut Words, x: Pair, real: impl Fn(u32) -> f64, of: impl Fn(u32, u32, u32) -> u32) {
    if x.one == One::B {
        let b = divisor(x.b[0]);
        let inverse = (1.0 + 4.0 * f64::EPSILON) / real(b);
        each(to, x.a, |a| of(a, b, whole_part(real(a) * inverse)));
    } else {
        both(to, x, |a, b| {
            let b = divisor(b);
            of(a, b, whole_part(real(a) / real(b)))
        });
    }
}

#[inline(always)]
fn binary(op: Binary, to: &mut Words, x: Pair) {
    let signed = |x: u32| f64::from(x as i32);
    let rest = |a: u32, b: u32, quotient: u32| a.wrapping_sub(quotient.wrapping_mul(b));
    match op {
        Binary::AddF => two(to, x, |a, b| a + b),
        Binary::SubF => two(to, x, |a, b| a - b),
        Binary::MulF => two(to, x, |a, b| a * b),
        Binary::DivF => two(to, x, |a, b| a / b),
        // x - y trunc(x / y), in which Rust is exact.
        Binary::RemF => two(to, x, |a, b| a % b),
        Binary::MinF => two(to, x, |a, b| if b < a { b } else { a }),
        Binary::MaxF => two(to, x, |a, b| if a < b { b } else { a }),
        Binary::Pow => two(to, x, f32::powf),
        Binary::Atan2 => two(to, x, f32::atan2),
        Binary::AddI => both(to, x, u32::wrapping_add),
        Binary::SubI => both(to, x, u32::wrapping_sub),
        Binary::MulI => both(to, x, u32::wrapping_mul),
        Binary::DivI => divide(to, x, signed, |_, _, quotient| quotient),
        Binary::DivU => divide(to, x, f64::from, |_, _, quotient| quotient),
        Binary::RemI => divide(to, x, signed, rest),
        Binary::RemU => divide(to, x, f64::from, rest),
        Binary::MinI => both(to, x, |a, b| (a as i32).min(b as i32) as u32),
        Binary::MinU => both(to, x, u32::min),
        Binary::MaxI => both(to, x, |a, b| (a as i32).max(b as i32) as u32),
        Binary::MaxU => both(to, x, u32::max),
        Binary::And => both(to, x, |a, b| a & b),
        Binary::Or => both(to, x, |a, b| a | b),
        Binary::Xor => both(to, x, |a, b| a ^ b),
        Binary::ShiftLeft => both(to, x, |a, b| a << (b & 31)),
        Binary::ShiftRightI => both(to, x, |a, b| (a as i32 >> (b & 31)) as u32),
        Binary::ShiftRightU => both(to, x, |a, b| a >> (b & 31)),
        Binary::EqualF => test(to, x, |a, b| a == b),
        Binary::NotEqualF => test(to, x, |a, b| a != b),
        Binary::LessF => test(to, x, |a, b| a < b),
        Binary::LessEqualF => test(to, x, |a, b| a <= b),
        Binary::Equal => both(to, x, |a, b| u32::from(a == b)),
        Binary::NotEqual => both(to, x, |a, b| u32::from(a != b)),
        Binary::LessI => both(to, x, |a, b| u32::from((a as i32) < b as i32)),
        Binary::LessEqualI => both(to, x, |a, b| u32::from(a as i32 <= b as i32)),
        Binary::LessU => both(to, x, |a, b| u32::from(a < b)),
        Binary::LessEqualU => both(to, x, |a, b| u32::from(a <= b)),
    }
}
