//! Hooks that change a score.

use super::hook;
use crate::hook::{ArgValue, Hook, Twin};
use crate::kernel::key::ScalarType;
use crate::plan::Ref;

/// Bounds scores to (−cap, cap).
pub fn softcap(cap: f32) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let cap = args[0].f32(0);
        let _ = row;
        s.iter_mut().for_each(|s| {
            let e = (-2.0 * (*s / cap).abs()).exp();
            *s = s.signum() * cap * (1.0 - e) / (1.0 + e);
        });
    });
    hook!(Score, "score", "softcap", twin).arg("cap", ArgValue::F32(cap))
}

/// Adds a tensor that broadcasts to (B, H, Lq, Lk).
pub fn bias(value: Ref) -> Hook {
    added(ArgValue::Table(value, ScalarType::F32))
}

/// Adds a number.
pub fn shift(value: f32) -> Hook {
    added(ArgValue::F32(value))
}

fn added(value: ArgValue) -> Hook {
    let twin = Twin::Score(|s, row, args| s.iter_mut().zip(row.keys).for_each(|(s, &j)| *s += args[0].f32(j)));
    hook!(Score, "score", "bias", twin).arg("value", value)
}

/// Subtracts slope · |i' − j|; slopes are (1, H, 1, 1).
pub fn alibi(slopes: Ref) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let slope = args[0].f32(0);
        s.iter_mut().zip(row.keys).for_each(|(s, &j)| *s -= slope * (row.query - j).abs() as f32);
    });
    hook!(Score, "score", "alibi", twin).arg("slope", ArgValue::Table(slopes, ScalarType::F32))
}

/// 0 where a flag that broadcasts to (B, H, Lq, Lk) is set.
pub fn silence(flag: Ref) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        s.iter_mut().zip(row.keys).filter(|(_, j)| args[0].bool(**j)).for_each(|(s, _)| *s = 0.0);
    });
    hook!(Score, "score", "silence", twin).arg("flag", ArgValue::Table(flag, ScalarType::Bool))
}

/// `ln s`, s above 0.
pub fn logarithm() -> Hook {
    hook!(Score, "score", "logarithm", Twin::Score(|s, _, _| s.iter_mut().for_each(|s| *s = s.ln())))
}

/// Subtracts ln max(count, 1); counts broadcast to (B, H, Lq, 1).
pub fn neg_log(count: Ref) -> Hook {
    let twin = Twin::Score(|s, _, args| {
        let shift = args[0].f32(0).max(1.0).ln();
        s.iter_mut().for_each(|s| *s -= shift);
    });
    hook!(Score, "score", "neg_log", twin).arg("count", ArgValue::Table(count, ScalarType::F32))
}
