//! What rows of q and k go through on their way into the records of a scan, in place of a stage of its own.

use crate::kernel::LaunchBuilder;
use crate::kernel::transform::{Feature, Norm};

/// What becomes of a row of q or k first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rows {
    /// It is taken as it is.
    Given,
    /// A feature of each channel.
    Map(Feature),
    /// Its RMS norm, without a gate.
    Norm(Norm),
    /// Neighbouring channels are turned by role `turns` (1, 1, L, D), cosines and sines in turn, and scaled.
    Turned(f32),
}

impl Rows {
    /// The number of the feature map.
    fn map(self) -> u32 {
        if let Rows::Map(feature) = self { feature.number() } else { 0 }
    }

    /// Whether it reads role `turns`.
    fn turned(self) -> bool {
        matches!(self, Rows::Turned(_))
    }

    fn factor(self) -> f32 {
        match self {
            Rows::Norm(norm) => norm.scale,
            Rows::Turned(by) => by,
            Rows::Given | Rows::Map(_) => 1.0,
        }
    }

    fn eps(self) -> f32 {
        if let Rows::Norm(norm) = self { norm.eps } else { 0.0 }
    }
}

/// What `scan/chunk_rows` reads.
pub(super) fn rows<'a>(builder: LaunchBuilder<'a>, q: Rows, k: Rows) -> LaunchBuilder<'a> {
    let norm = |r| matches!(r, Rows::Norm(_));
    builder
        .strides("turns", 4)
        .constant("Q_MAP", q.map())
        .constant("K_MAP", k.map())
        .switch("Q_NORM", norm(q))
        .switch("K_NORM", norm(k))
        .switch("Q_TURN", q.turned())
        .switch("K_TURN", k.turned())
        .f32("q_factor", q.factor())
        .f32("k_factor", k.factor())
        .f32("q_eps", q.eps())
        .f32("k_eps", k.eps())
        .import("lib/elementwise")
        .import("scan/chunk_rows")
}
