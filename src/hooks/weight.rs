//! Hooks that make a weight of a score, instead of softmax.

use super::hook;
use crate::hook::{Hook, Twin};

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

/// Weight 1: the mass counts the allowed keys.
pub fn one() -> Hook {
    hook!(Weight, "weight", "one", Twin::Score(|s, _, _| s.fill(1.0)))
}
