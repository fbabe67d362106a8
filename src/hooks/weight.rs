//! Hooks that make a weight of a score, instead of softmax.

use super::hook;
use crate::hook::{ArgValue, Hook, Twin};
use crate::kernel::key::ScalarType;
use crate::plan::Ref;

/// The logistic function.
pub fn sigmoid() -> Hook {
    let twin = Twin::Score(|s, _, _| {
        s.iter_mut().for_each(|s| {
            let e = (-s.abs()).exp();
            *s = if *s < 0.0 { e } else { 1.0 } / (1.0 + e);
        });
    });
    hook!(Weight, "weight", "sigmoid", twin)
}

/// `max(s, 0)` over the row's count, which broadcasts to (B, H, Lq, 1); without one over 1.
pub fn relu(count: Option<Ref>) -> Hook {
    let twin = Twin::Score(|s, _, args| {
        let count = args[0].f32(0).max(1.0);
        s.iter_mut().for_each(|s| *s = s.max(0.0) / count);
    });
    let count = count.map_or(ArgValue::F32(1.0), |r| ArgValue::Table(r, ScalarType::F32));
    hook!(Weight, "weight", "relu", twin).arg("count", count)
}

/// Weight 1: the mass counts the allowed keys.
pub fn one() -> Hook {
    hook!(Weight, "weight", "one", Twin::Score(|s, _, _| s.fill(1.0)))
}
