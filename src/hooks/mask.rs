//! Hooks that allow or forbid a pair.

use super::hook;
use crate::hook::{ArgValue, Hook, Twin};
use crate::kernel::key::ScalarType;
use crate::plan::Ref;

/// A boolean tensor that broadcasts to (B, H, Lq, Lk), 1 = allowed.
pub fn given(allowed: Ref) -> Hook {
    let twin = Twin::Mask(|m, row, args| m.iter_mut().zip(row.keys).for_each(|(m, &j)| *m &= args[0].bool(j)));
    hook!(Mask, "mask", "given", twin).arg("allowed", ArgValue::Table(allowed, ScalarType::Bool))
}

/// A boolean tensor that broadcasts to (B, H, Lq, Lk), 1 = not allowed.
pub fn hidden(forbidden: Ref) -> Hook {
    let twin = Twin::Mask(|m, row, args| m.iter_mut().zip(row.keys).for_each(|(m, &j)| *m &= !args[0].bool(j)));
    hook!(Mask, "mask", "hidden", twin).arg("forbidden", ArgValue::Table(forbidden, ScalarType::Bool))
}

/// Tokens below an index see only themselves among themselves.
pub fn alone(below: usize) -> Hook {
    let twin = Twin::Mask(|m, row, args| {
        let below = args[0].i32(0);
        let own = row.row as i32;
        m.iter_mut().zip(row.keys).for_each(|(m, &j)| *m &= own >= below || j >= below || j == own);
    });
    hook!(Mask, "mask", "alone", twin).arg("below", ArgValue::U32(below as u32))
}

/// Keys from the row's own index on.
pub fn later() -> Hook {
    let twin = Twin::Mask(|m, row, _| m.iter_mut().zip(row.keys).for_each(|(m, &j)| *m &= j >= row.row as i32));
    hook!(Mask, "mask", "later", twin)
}

/// Causality and window by explicit positions, `pos_q` (1, 1, Lq, 1) and `pos_k` (1, 1, 1, Lk); a position not given is the index.
pub fn positions(pos_q: Option<Ref>, pos_k: Option<Ref>, left: Option<usize>, right: Option<usize>) -> Hook {
    let twin = Twin::Mask(|m, row, args| {
        let (use_q, use_k) = (args[2].bool(0), args[3].bool(0));
        let (left, right) = (args[4].i32(0), args[5].i32(0));
        let p = if use_q { args[0].i32(0) } else { row.query };
        for (m, &j) in m.iter_mut().zip(row.keys) {
            let t = if use_k { args[1].i32(j) } else { j };
            *m &= t <= p && (left < 0 || t >= p - left) && (right < 0 || t <= p + right);
        }
    });
    let table = |r: &Option<Ref>| r.clone().map_or(ArgValue::I32(0), |r| ArgValue::Table(r, ScalarType::I32));
    let bound = |n: Option<usize>| ArgValue::I32(n.map_or(-1, |n| n as i32));
    hook!(Mask, "mask", "positions", twin)
        .arg("pos_q", table(&pos_q))
        .arg("pos_k", table(&pos_k))
        .arg("use_q", ArgValue::U32(u32::from(pos_q.is_some())))
        .arg("use_k", ArgValue::U32(u32::from(pos_k.is_some())))
        .arg("left", bound(left))
        .arg("right", bound(right))
}

/// One axis of a token grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Tokens between neighbours along the axis in the row-major order.
    pub pitch: usize,
    /// Coordinates.
    pub size: usize,
    /// Keys of the window.
    pub window: usize,
    /// Queries that share a window.
    pub stride: usize,
    /// Distance of neighbouring keys.
    pub dilation: usize,
    /// No later key is seen.
    pub causal: bool,
}

impl Axis {
    /// First and one past the last place of the window of coordinate `x`, in places of its residue.
    pub fn window(&self, x: usize) -> (usize, usize) {
        let t = x / self.dilation;
        let length = (self.size - x % self.dilation).div_ceil(self.dilation);
        if self.causal {
            let leader = (t / self.stride * self.stride + self.stride - 1).min(length - 1);
            ((leader + 1).saturating_sub(self.window), t + 1)
        } else {
            let leader = (t / self.stride * self.stride + self.stride / 2).min(length - 1);
            let right = self.window - 1 - self.window / 2;
            let start =
                if leader + right >= length { length - self.window } else { leader.saturating_sub(self.window / 2) };
            (start, start + self.window)
        }
    }
}

/// The window of one axis.
pub fn neighborhood(axis: Axis) -> Hook {
    let twin = Twin::Mask(|m, row, args| {
        let number = |n: usize| args[n].i32(0) as usize;
        let axis = Axis {
            pitch: number(0),
            size: number(1),
            window: number(2),
            stride: number(3),
            dilation: number(4),
            causal: args[5].bool(0),
        };
        let x = row.row / axis.pitch % axis.size;
        let (start, end) = axis.window(x);
        for (m, &j) in m.iter_mut().zip(row.keys) {
            let y = j as usize / axis.pitch % axis.size;
            *m &= y % axis.dilation == x % axis.dilation && (start..end).contains(&(y / axis.dilation));
        }
    });
    let number = |n: usize| ArgValue::I32(n as i32);
    hook!(Mask, "mask", "neighborhood", twin)
        .arg("pitch", number(axis.pitch))
        .arg("size", number(axis.size))
        .arg("window", number(axis.window))
        .arg("stride", number(axis.stride))
        .arg("dilation", number(axis.dilation))
        .arg("causal", ArgValue::U32(u32::from(axis.causal)))
}
