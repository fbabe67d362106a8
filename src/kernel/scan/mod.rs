//! `scan`: the linear recurrence S_t = diag(e^g) S_{t-1} + b (a^T S_{t-1}) + w k v^T and its read.

mod launch;
#[cfg(test)]
mod tests;
mod twin;

use super::key::{Launch, ScalarType};
use super::{Io, Kernel, Role, TwinIo};
use crate::caps::Caps;
use crate::error::Result;
use crate::tensor::DType;

/// The width of the log decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// None.
    None,
    /// One number a head or a token and head: table `g_scalar`, broadcast to (B, H, L, 1).
    Scalar,
    /// One number a channel: role `g` (B, H, L, D).
    Channel,
}

/// What a read is divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Divide {
    /// Nothing.
    None,
    /// q·z + eps.
    Sum(f32),
    /// max(|q·z|, 1).
    AbsMax1,
}

/// The operation. Roles q (B, Hq, Lq, D), k (B, Hk, L, D), v (B, Hv, L, Dv) (head h of H = max reads h / (H / Hx)), `g` (B, H, L, D),
/// erase vectors `a`, `b` (B, H, L, D), state_in (B, H, D, Dv), out (B, H, Lq, Dv), state (B, H, D, Dv), z (B, H, D).
/// Tables: `g_scalar` (B, H, L, 1) scalar log decay; `keep` (B, 1, L, 1) 0 for a masked key (no write, no decay, no erase); `w` (B, H, L, 1)
/// write weight; `u` (1, H, 1, D) bonus of a read before the write; `z_in` (B, H, 1, D). A table's axis of size 1 has stride 0.
///
/// The divisor counts the token itself, also where the read comes before the write. A divisor of 0 gives 0. Accumulates in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scan {
    /// The width of the log decay.
    pub decay: Decay,
    /// Factor of q.
    pub scale: f32,
    /// The read comes before the write, with bonus `u`.
    pub read_before: bool,
    /// Divisor of a read.
    pub divide: Divide,
    /// Every query reads the state after the last key (no causality; Lq and L may differ).
    pub bidirectional: bool,
}

impl Scan {
    /// Causal, read after the write, undivided, without decay.
    pub fn new(scale: f32) -> Self {
        Scan { decay: Decay::None, scale, read_before: false, divide: Divide::None, bidirectional: false }
    }
}

/// Tables that the kernel itself reads.
pub(crate) const TABLES: [(&str, ScalarType); 5] = [
    ("g_scalar", ScalarType::F32),
    ("keep", ScalarType::Bool),
    ("w", ScalarType::F32),
    ("u", ScalarType::F32),
    ("z_in", ScalarType::F32),
];

impl Kernel for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 10] = [
            Role::read("q", DType::F32),
            Role::read("k", DType::F32),
            Role::read("v", DType::F32),
            Role::read("g", DType::F32).optional(),
            Role::read("a", DType::F32).optional(),
            Role::read("b", DType::F32).optional(),
            Role::read("state_in", DType::F32).optional(),
            Role::write("out", DType::F32),
            Role::write("state", DType::F32),
            Role::write("z", DType::F32).optional(),
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
        let [batch, heads, queries, width] = io.get("out").layout.shape[..] else { return 0.0 };
        let [_, _, tokens, depth] = io.get("k").layout.shape[..] else { return 0.0 };
        // A write and a read, and what a token costs besides.
        let products = 2 * depth * width * (tokens + queries);
        (batch * heads) as f64 * (products + 64 * (depth + width) * tokens.max(queries)) as f64
    }
}
