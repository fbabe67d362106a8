//! `combine`: merges of partial results and weighted sums of results.

mod launch;
mod twin;

use super::{Io, Kernel, Role, TwinIo};
use crate::caps::Caps;
use crate::error::Result;
use crate::kernel::key::Launch;
use crate::tensor::DType;

/// Merge of partial softmax results: roles outs (P, B, H, L, Dv), lses (P, B, H, L); outputs out (B, H, L, Dv), lse (B, H, L).
/// Table `sink` (1, H, 1, S): logits that join the denominator once. Parts are added in a fixed order; an empty part (lse = −∞) counts nothing,
/// whatever its output holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge;

/// `out = Σ_n gates[n] x_n`: roles x0, x1, x2 (B, H, L, Dv), gates (B, H, L, n); output out (B, H, L, Dv).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix;

impl Kernel for Merge {
    fn name(&self) -> &'static str {
        "combine.merge"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 4] = [
            Role::read("outs", DType::F32),
            Role::read("lses", DType::F32).scalar(),
            Role::write("out", DType::F32),
            Role::write("lse", DType::F32).scalar().optional(),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        launch::merge(self, io, caps)
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        twin::merge(io)
    }

    fn flops(&self, io: &Io) -> f64 {
        2.0 * io.get("outs").layout.len() as f64
    }
}

impl Kernel for Mix {
    fn name(&self) -> &'static str {
        "combine.mix"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 5] = [
            Role::read("x0", DType::F32),
            Role::read("x1", DType::F32).optional(),
            Role::read("x2", DType::F32).optional(),
            Role::read("gates", DType::F32).scalar(),
            Role::write("out", DType::F32),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        launch::mix(self, io, caps)
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        twin::mix(io)
    }

    fn flops(&self, io: &Io) -> f64 {
        2.0 * (launch::parts(io) * io.get("out").layout.len()) as f64
    }
}
