//! Hooks that treat a score as a number: the arithmetic that stages of `diagnose` chain, and that `attend` takes as weights.

use super::hook;
use crate::hook::{ArgRow, ArgValue, Hook, Row, Twin};
use crate::kernel::key::ScalarType;
use crate::plan::Ref;

/// A number, or a table of f32 that broadcasts to (B, H, Lq, Lk).
#[derive(Clone, Debug)]
pub enum Number {
    /// The same everywhere.
    Value(f32),
    /// One a pair.
    Table(Ref),
}

impl From<f32> for Number {
    fn from(value: f32) -> Self {
        Number::Value(value)
    }
}

impl From<&Ref> for Number {
    fn from(table: &Ref) -> Self {
        Number::Table(table.clone())
    }
}

impl From<Ref> for Number {
    fn from(table: Ref) -> Self {
        Number::Table(table)
    }
}

impl Number {
    fn arg(self) -> ArgValue {
        match self {
            Number::Value(x) => ArgValue::F32(x),
            Number::Table(r) => ArgValue::Table(r, ScalarType::F32),
        }
    }
}

/// `s = change(s, argument 0 at the key)` of every key.
fn each(s: &mut [f32], row: &Row, args: &[ArgRow], change: impl Fn(f32, f32) -> f32) {
    match args[0] {
        ArgRow::Number(x) => s.iter_mut().for_each(|s| *s = change(*s, x as f32)),
        table => s.iter_mut().zip(row.keys).for_each(|(s, &j)| *s = change(*s, table.f32(j))),
    }
}

/// `s · value`.
pub fn times(value: impl Into<Number>) -> Hook {
    let twin = Twin::Score(|s, row, args| each(s, row, args, |s, x| s * x));
    hook!(Score, "number", "times", twin).arg("value", value.into().arg())
}

/// `s + factor · value`.
pub fn plus(value: impl Into<Number>, factor: f32) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let factor = args[1].f32(0);
        each(s, row, args, |s, x| s + factor * x);
    });
    hook!(Score, "number", "plus", twin).arg("value", value.into().arg()).arg("factor", ArgValue::F32(factor))
}

/// `s / value`, 0 where the value is 0.
pub fn over(value: impl Into<Number>) -> Hook {
    let twin = Twin::Score(|s, row, args| each(s, row, args, |s, x| if x == 0.0 { 0.0 } else { s / x }));
    hook!(Score, "number", "over", twin).arg("value", value.into().arg())
}

/// `factor · value`, whatever the score was.
pub fn take(value: impl Into<Number>, factor: f32) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let factor = args[1].f32(0);
        each(s, row, args, |_, x| factor * x);
    });
    hook!(Score, "number", "take", twin).arg("value", value.into().arg()).arg("factor", ArgValue::F32(factor))
}

/// `e^(s − lse)`.
pub fn probability(lse: impl Into<Number>) -> Hook {
    let twin = Twin::Score(|s, row, args| each(s, row, args, |s, lse| (s - lse).exp()));
    hook!(Score, "number", "probability", twin).arg("lse", lse.into().arg())
}

/// `s · e^(row − key)`: what is left of a key at a row, from the sums of log decays (B, H, L, 1) up to each token.
pub fn faded(sums: &Ref) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let own = args[0].f32(0);
        s.iter_mut().zip(row.keys).for_each(|(s, &j)| *s *= (own - args[1].f32(j)).exp());
    });
    let [batch, heads, length, _] = sums.shape[..] else { unreachable!("sums have four axes") };
    let full = [batch, heads, length, length];
    hook!(Score, "number", "faded", twin)
        .arg("row", ArgValue::Table(sums.broadcast(&full), ScalarType::F32))
        .arg("key", ArgValue::Table(sums.permute(&[0, 1, 3, 2]).broadcast(&full), ScalarType::F32))
}

/// 1 where `s > threshold`, else `low`.
pub fn above(threshold: impl Into<Number>, low: f32) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let low = args[1].f32(0);
        each(s, row, args, |s, x| if s > x { 1.0 } else { low });
    });
    hook!(Score, "number", "above", twin).arg("threshold", threshold.into().arg()).arg("low", ArgValue::F32(low))
}

/// `max(s, least)`.
pub fn at_least(least: f32) -> Hook {
    let twin = Twin::Score(|s, row, args| each(s, row, args, f32::max));
    hook!(Score, "number", "at_least", twin).arg("least", ArgValue::F32(least))
}

/// `s^exponent`, s above 0.
pub fn power(exponent: f32) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        each(s, row, args, |s, e| match e {
            -1.0 => 1.0 / s,
            -0.5 => 1.0 / s.sqrt(),
            0.5 => s.sqrt(),
            e => s.powf(e),
        });
    });
    hook!(Score, "number", "power", twin).arg("exponent", ArgValue::F32(exponent))
}

/// `|s|`.
pub fn magnitude() -> Hook {
    hook!(Score, "number", "magnitude", Twin::Score(|s, _, _| s.iter_mut().for_each(|s| *s = s.abs())))
}

/// `tanh s`.
pub fn hyperbolic() -> Hook {
    hook!(Score, "number", "hyperbolic", Twin::Score(|s, _, _| s.iter_mut().for_each(|s| *s = s.tanh())))
}

/// `1 / (1 + e^−s)`.
pub fn logistic() -> Hook {
    let twin = Twin::Score(|s, _, _| {
        s.iter_mut().for_each(|s| {
            let e = (-s.abs()).exp();
            *s = if *s < 0.0 { e } else { 1.0 } / (1.0 + e);
        });
    });
    hook!(Score, "number", "logistic", twin)
}

/// `ln σ(s) = −ln(1 + e^−s)`.
pub fn log_sigmoid() -> Hook {
    let twin = Twin::Score(|s, _, _| s.iter_mut().for_each(|s| *s = s.min(0.0) - (-s.abs()).exp().ln_1p()));
    hook!(Score, "number", "log_sigmoid", twin)
}

/// `max(1 − |s|, 0)`.
pub fn hat() -> Hook {
    hook!(Score, "number", "hat", Twin::Score(|s, _, _| s.iter_mut().for_each(|s| *s = (1.0 - s.abs()).max(0.0))))
}

/// Adds a number where the key's index is the row's.
pub fn diagonal(value: impl Into<Number>) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        for (s, &j) in s.iter_mut().zip(row.keys).filter(|(_, j)| **j == row.row as i32) {
            *s += args[0].f32(j);
        }
    });
    hook!(Score, "number", "diagonal", twin).arg("value", value.into().arg())
}

/// 0 at the key that an i32 table names.
pub fn except(key: Ref) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        s.iter_mut().zip(row.keys).filter(|(_, j)| args[0].i32(**j) == **j).for_each(|(s, _)| *s = 0.0);
    });
    hook!(Score, "number", "except", twin).arg("key", ArgValue::Table(key, ScalarType::I32))
}

/// 1 where s comes before the row's own number in descending order, ties by index: its sum over the keys is the row's rank.
pub fn ahead(own: Ref) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        for (s, &j) in s.iter_mut().zip(row.keys) {
            let own = args[0].f32(j);
            *s = f32::from(u8::from(*s > own || (*s == own && j < row.row as i32)));
        }
    });
    hook!(Score, "number", "ahead", twin).arg("own", ArgValue::Table(own, ScalarType::F32))
}

/// 1 where s is the number, else 0.
pub fn equals(value: impl Into<Number>) -> Hook {
    let twin = Twin::Score(|s, row, args| each(s, row, args, |s, x| f32::from(u8::from(s == x))));
    hook!(Score, "number", "equals", twin).arg("value", value.into().arg())
}

/// `1 / ln s`, 0 where s is below 2.
pub fn inverse_log() -> Hook {
    let twin =
        Twin::Score(|s, _, _| s.iter_mut().for_each(|s| *s = if *s > 1.5 { 1.0 / s.max(2.0).ln() } else { 0.0 }));
    hook!(Score, "number", "inverse_log", twin)
}

/// `s + value · |s|` in rows from `first`.
pub fn gain(value: Ref, first: usize) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        if row.row >= args[1].i32(0) as usize {
            each(s, row, args, |s, x| s + x * s.abs());
        }
    });
    hook!(Score, "number", "gain", twin)
        .arg("value", Number::Table(value).arg())
        .arg("first", ArgValue::U32(first as u32))
}

/// `s + ln factor`; a factor of 0 hides the pair.
pub fn log_factor(factor: Ref) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        each(s, row, args, |s, f| if f > 0.0 { s + f.max(1e-38).ln() } else { -1e30 });
    });
    hook!(Score, "number", "log_factor", twin).arg("factor", Number::Table(factor).arg())
}
