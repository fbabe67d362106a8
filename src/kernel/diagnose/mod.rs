//! `diagnose`: numbers of pairs, changed by hooks one after the other, and folded along the keys. Statistics of attention maps, and the
//! small arithmetic between the stages of a plan.

mod launch;
mod twin;

use super::key::{Launch, ScalarType};
use super::{Io, Kernel, Role, TwinIo};
use crate::caps::Caps;
use crate::error::Result;
use crate::tensor::DType;

/// The number of a pair before the hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// What role `x` holds.
    Given,
    /// q_i·k_j.
    Dot,
    /// Σ_d w_d tanh(q_id + k_jd), with table `w` (1, H, 1, D).
    Tanh,
    /// Σ_d (√(edge_ij + eps) (k_jd − q_id) + eps)², with table `edge` (B, H, I, J): differences, because an expansion of the square cancels.
    Distance,
}

/// What becomes of a row of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Nothing: every pair is written.
    Each,
    /// Their sum, 0 where no pair is allowed.
    Sum,
    /// Their maximum.
    Max,
    /// Index of the first of their maxima, 0 where no pair is allowed.
    ArgMax,
}

/// The operation: `x = scale · number(i, j)`, then the score hooks in order; pairs that causality or a mask hook forbid take no part.
///
/// Roles x (B, Hx, I, J) of any element type, or q (B, H, I, D) and k (B, Hk, J, D); out (B, H, I, J) with [`Reduce::Each`], else
/// (B, H, I, 1), of f32, i32 (numbers that are whole) or, with `Each`, u8. Head h of out reads head h · Hx / H, and row i reads row i / share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fold {
    /// The number of a pair.
    pub of: Of,
    /// What becomes of a row.
    pub reduce: Reduce,
    /// Factor of the number, before the hooks.
    pub scale: f32,
    /// Pair j is allowed up to i + J − I.
    pub causal: bool,
    /// What a pair that is not allowed becomes with `Each`, and a row without pairs with `Max`.
    pub empty: f32,
    /// Rows of out that read the same row of x.
    pub share: usize,
    /// Added within [`Of::Distance`].
    pub eps: f32,
}

impl Fold {
    /// Every number of x.
    pub fn each() -> Self {
        Fold { of: Of::Given, reduce: Reduce::Each, scale: 1.0, causal: false, empty: 0.0, share: 1, eps: 0.0 }
    }

    /// The sum of each row of x.
    pub fn sum() -> Self {
        Fold { reduce: Reduce::Sum, ..Fold::each() }
    }

    /// The mean of the `count` numbers of each row of x.
    pub fn mean(count: usize) -> Self {
        Fold::sum().scaled(1.0 / count as f32)
    }

    /// The maximum of each row of x.
    pub fn max() -> Self {
        Fold { reduce: Reduce::Max, ..Fold::each() }
    }

    /// The first maximum of each row of x.
    pub fn arg_max() -> Self {
        Fold { reduce: Reduce::ArgMax, ..Fold::each() }
    }

    /// The same of `scale · number`.
    #[must_use]
    pub fn scaled(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// The same of other numbers.
    #[must_use]
    pub fn of(mut self, of: Of) -> Self {
        self.of = of;
        self
    }

    /// The same, causal or not.
    #[must_use]
    pub fn causal(mut self, causal: bool) -> Self {
        self.causal = causal;
        self
    }
}

/// Tables that the kernel itself reads.
pub(super) const TABLES: [(&str, ScalarType); 2] = [("w", ScalarType::F32), ("edge", ScalarType::F32)];

impl Kernel for Fold {
    fn name(&self) -> &'static str {
        "diagnose.fold"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 4] = [
            Role::read("x", DType::F32).scalar().optional(),
            Role::read("q", DType::F32).optional(),
            Role::read("k", DType::F32).optional(),
            Role::write("out", DType::F32).scalar(),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        launch::launch(self, io, caps)
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        twin::twin(self, io)
    }

    fn flops(&self, io: &Io) -> f64 {
        let Ok(sizes) = launch::Sizes::of(self, io) else { return 0.0 };
        let pair = if self.of == Of::Given { 1.0 } else { 2.0 * sizes.depth as f64 };
        pair * (sizes.batch * sizes.heads * sizes.rows * sizes.keys) as f64
    }
}
