//! `scan`: the linear recurrence S_t = diag(e^g) S_{t-1} + b (a^T S_{t-1}) + w k v^T and its read.

mod carry;
mod chunked;
mod chunks;
mod launch;
mod memory;
mod rows;
mod segments;
mod selective;
mod solve;
#[cfg(test)]
mod tests;
mod twin;

pub use carry::Carry;
pub use chunked::Chunked;
pub use chunks::Chunks;
pub(crate) use chunks::{CHUNK, fits};
pub use memory::{Act, Memory};
pub use rows::Rows;
pub use segments::{Reads, Sums};
pub(crate) use segments::{SEGMENT, padded_state, span};
pub use selective::Selective;
pub use solve::{By, DEEPEST, Solve};

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

/// Which part of a scan cut into segments an operation computes. Segments run in parallel: where few heads do not fill a device, each
/// segment's own state comes first ([`Pass::Sums`]), then [`Carry`] makes of them the states at the segments' starts, then all segments
/// read and write from there ([`Pass::Reads`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// All tokens in order.
    Whole,
    /// What the tokens of each segment add to a state of zeros: roles k, v, g, state (B, H S, D, Dv), z (B, H S, D) and `total`, the
    /// product of the decays of each segment (B, H S, 1 or D). S segments of so many tokens.
    Sums(usize),
    /// All roles of the whole; state_in (B, H S, D, Dv) and z_in (B, H S, 1, D) are those at the starts of S segments of so many tokens.
    Reads(usize),
}

impl Pass {
    /// Segments of a sequence.
    pub(crate) fn segments(self, tokens: usize) -> usize {
        match self {
            Pass::Whole => 1,
            Pass::Sums(each) | Pass::Reads(each) => tokens.div_ceil(each).max(1),
        }
    }
}

/// The operation. Roles q (B, Hq, Lq, D), k (B, Hk, L, D), v (B, Hv, L, Dv) (head h of H = max reads h / (H / Hx)), `g` (B, H, L, D),
/// erase vectors `a`, `b` (B, H, L, D) or both as `ab` (2, B, H, L, D), state_in (B, H, D, Dv), out (B, H, Lq, Dv), state (B, H, D, Dv), z (B, H, D).
/// Tables: `g_scalar` (B, H, L, 1) scalar log decay; `keep` (B, 1, L, 1) 0 for a masked key (no write, no decay, no erase); `w` (B, H, L, 1)
/// write weight; `u` (1, H, 1, D) bonus of a read before the write; `z_in` (B, H, 1, D); `s_in` (B, H, D, Dv) in place of state_in. A table's axis of size 1 has stride 0.
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
    /// Which part of the work.
    pub pass: Pass,
    /// Erase by the key itself: a = e^g ⊙ k and b = -w k, so that a token replaces what its key held (the delta rule).
    pub delta: bool,
}

impl Scan {
    /// Causal, read after the write, undivided, without decay.
    pub fn new(scale: f32) -> Self {
        Scan {
            decay: Decay::None,
            scale,
            read_before: false,
            divide: Divide::None,
            bidirectional: false,
            pass: Pass::Whole,
            delta: false,
        }
    }

    /// Tokens of a segment where the scan of (B, H, L, D, Dv) is better cut: without erase vectors, which make a segment's effect on the
    /// state a matrix.
    pub(crate) fn segment(&self, [batch, heads, tokens, depth, width]: [usize; 5], workgroups: usize) -> Option<usize> {
        let each = launch::segment(batch * heads, tokens, workgroups)?;
        let fits = launch::chunk_fits(self, depth, width, true) && !self.bidirectional;
        (fits && !self.delta && !(self.read_before && self.divide != Divide::None)).then_some(each)
    }
}

/// Tables that the kernel itself reads.
pub(crate) const TABLES: [(&str, ScalarType); 6] = [
    ("s_in", ScalarType::F32),
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
        const ROLES: [Role; 12] = [
            Role::read("q", DType::F32).optional(),
            Role::read("k", DType::F32),
            Role::read("v", DType::F32),
            Role::read("g", DType::F32).optional(),
            Role::read("a", DType::F32).optional(),
            Role::read("b", DType::F32).optional(),
            Role::read("ab", DType::F32).optional(),
            Role::read("state_in", DType::F32).optional(),
            Role::write("out", DType::F32).optional(),
            Role::write("state", DType::F32),
            Role::write("z", DType::F32).optional(),
            Role::write("total", DType::F32).optional(),
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
        let Ok(launch::Sizes { batch, heads, queries, tokens, depth, width }) = launch::Sizes::of(self, io) else {
            return 0.0;
        };
        // A write and a read, and what a token costs besides.
        let products = 2 * depth * width * (tokens + queries);
        (batch * heads) as f64 * (products + 64 * (depth + width) * tokens.max(queries)) as f64
    }
}
