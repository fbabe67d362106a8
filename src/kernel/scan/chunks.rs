//! `scan.chunks`: what each chunk of tokens is to the recurrence, whatever the state before; [`Chunked`](super::Chunked) reads it.

use super::Decay;
use super::launch::Sizes;
use super::rows::{Rows, rows};
use crate::caps::{Caps, Tier};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, ScalarType};
use crate::kernel::{Io, Kernel, LaunchBuilder, Role, TwinIo, element};
use crate::tensor::DType;

/// Tokens of a chunk.
pub(crate) const CHUNK: usize = 32;
/// Channels of a key, at most: the state of a deeper one does not fit the registers.
const DEEPEST: usize = 128;
/// Invocations of a workgroup, as nearly as subgroups of whole matrices of pairs have it.
const WORKGROUP: usize = 128;
const TABLES: [(&str, ScalarType); 3] =
    [("g_scalar", ScalarType::F32), ("keep", ScalarType::Bool), ("w", ScalarType::F32)];

/// What each chunk of 32 tokens is to the recurrence, all chunks at once. Roles q (B, Hq, L, D), k (B, Hk, L, D), `g` (B, Hg, L, D) with a
/// decay a channel, `turns` (1, 1, L, D) where rows are turned, chunks (B, H, L / 32, R) of f16 and marks (B, H, L / 32, 2 P + 32), where P is D up to a power of two, at least 32.
/// Tables `g_scalar`, `keep` and `w` as for [`Scan`](super::Scan).
///
/// With G_i the log decay of a chunk up to and with token i, one record of `chunks` holds, as matrices of N x N one after another
/// (N the side of the device's matrices),
///
/// ```text
/// Q̂ (32, P) = scale e^{G_i} q_i     K̃ᵀ (P, 32) = w_j e^{G_32 − G_j} k_j     A (32, 32) = scale w_j Σ_d q_id k_jd e^{G_id − G_jd} for j ≤ i
/// ```
///
/// and for the delta rule, whose K̃ and A have no w,
///
/// ```text
/// K̂ (32, P) = e^{G_i} k_i     T (32, 32) = (I + N)⁻¹ diag(w)     N[i, j] = w_i Σ_d k_id k_jd e^{G_id − G_jd} for j < i
/// ```
///
/// so that a chunk is U = T (V − K̂ S) or U = V, out = Q̂ S + A U, S ← diag(e^{G_32}) S + K̃ᵀ U. A record of `marks` holds e^{G_32} of
/// P channels, the sums of the rows of K̃ᵀ and those of A. See S. Yang et al., "Parallelizing Linear Transformers with the Delta Rule over
/// Sequence Length", NeurIPS 2024, arXiv 2406.06484, and "Gated Linear Attention Transformers", ICML 2024, arXiv 2312.06635, section 4.
///
/// Only on devices with cooperative matrices; the twin of [`Scan`](super::Scan) goes token by token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chunks {
    /// The width of the log decay.
    pub decay: Decay,
    /// For the delta rule.
    pub delta: bool,
    /// Factor of q.
    pub scale: f32,
    /// What becomes of rows of q first.
    pub q: Rows,
    /// What becomes of rows of k first.
    pub k: Rows,
}

/// Rows and channels of the record: D as the matrices have it.
pub(crate) fn padded(depth: usize) -> usize {
    depth.next_power_of_two().max(CHUNK)
}

impl Chunks {
    /// Of q and k as they are given.
    pub fn new(decay: Decay, delta: bool, scale: f32) -> Self {
        Chunks { decay, delta, scale, q: Rows::Given, k: Rows::Given }
    }

    /// Halves of a record.
    pub(crate) fn record(delta: bool, depth: usize) -> usize {
        let (tall, square) = if delta { (3, 2) } else { (2, 1) };
        tall * CHUNK * padded(depth) + square * CHUNK * CHUNK
    }

    /// Floats of a record.
    pub(crate) fn marks(depth: usize) -> usize {
        2 * padded(depth) + CHUNK
    }

    fn sizes(&self, io: &Io) -> Result<Sizes> {
        let (k, chunks) = (&io.get("k").layout.shape, &io.get("chunks").layout.shape);
        let (&[_, _, tokens, depth], &[batch, heads, count, record]) = (&k[..], &chunks[..]) else {
            return Err(self.refuse("chunks", "(B, H, L / 32, R), and k of rank 4", chunks));
        };
        for role in ["q", "k", "g"] {
            let Some(found) = io.find(role).map(|meta| &meta.layout.shape) else { continue };
            let shared = found.len() == 4 && found[1] != 0 && heads.is_multiple_of(found[1]);
            if !shared || found[0] != batch || found[2..] != [tokens, depth] {
                return Err(self.refuse(role, format!("({batch}, a divisor of {heads}, {tokens}, {depth})"), found));
            }
        }
        let marks = [batch, heads, tokens.div_ceil(CHUNK), Self::marks(depth)];
        if count != marks[2] || record != Self::record(self.delta, depth) || io.get("marks").layout.shape != marks {
            let want = format!(
                "{} records of {} halves and of {} floats",
                marks[2],
                Self::record(self.delta, depth),
                marks[3]
            );
            return Err(self.refuse("chunks", want, chunks));
        }
        let given = [io.find("g").is_some(), io.has_table("g_scalar")];
        if given != [self.decay == Decay::Channel, self.decay == Decay::Scalar] {
            return Err(self.refuse("g", format!("the table of {:?}", self.decay), &[]));
        }
        if depth > DEEPEST {
            return Err(self.refuse("k", format!("up to {DEEPEST} channels"), k));
        }
        Ok(Sizes { batch, heads, queries: tokens, tokens, depth, width: 0 })
    }

    fn refuse(&self, role: &str, expected: impl std::fmt::Display, found: &[usize]) -> Error {
        Error::expected(ErrorKind::Shape, self.name(), role, expected, format!("{found:?}"))
    }
}

/// Whether records of so deep keys can be made and read by matrices.
pub(crate) fn fits(tokens: usize, depth: usize) -> bool {
    tokens >= CHUNK && depth <= DEEPEST
}

/// The side of the device's matrices and the invocations of a subgroup.
pub(super) fn matrices(caps: &Caps) -> Option<(usize, usize)> {
    Some((caps.matrix? as usize, caps.subgroups.filter(|(least, most)| least == most)?.0 as usize))
}

/// Where nothing but matrices serves: plans for other devices and for the CPU engine have the scan itself.
pub(super) fn unserved(kernel: &dyn Kernel) -> Error {
    let message = format!("{}: the device has no matrices that serve it", kernel.name());
    Error::new(ErrorKind::Unsupported, message)
}

impl Kernel for Chunks {
    fn name(&self) -> &'static str {
        "scan.chunks"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 6] = [
            Role::read("q", DType::F32),
            Role::read("k", DType::F32),
            Role::read("g", DType::F32).optional(),
            Role::read("turns", DType::F32).optional(),
            Role::write("chunks", DType::F16),
            Role::write("marks", DType::F32),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let s = self.sizes(io)?;
        let serves = ["q", "k", "chunks"].iter().all(|role| element(io.get(role)).vector);
        let Some((side, lanes)) = matrices(caps).filter(|_| serves) else {
            return Err(unserved(self));
        };
        let count = s.tokens.div_ceil(CHUNK);
        let share = |role: &str| io.find(role).map_or(1, |meta| s.heads / meta.layout.shape[1]);
        let channel = self.decay == Decay::Channel;
        let entry = if channel { "scan/chunks_channel" } else { "scan/chunks" };
        // With a decay a channel each has a quarter of the depth.
        let subgroups = if channel { 4 } else { (WORKGROUP / lanes).clamp(1, (CHUNK / side).pow(2)) };
        let builder = LaunchBuilder::new(self, entry, (subgroups * lanes) as u32, io, caps, &TABLES)
            .tier(Tier::T2)
            .constant("SUBGROUPS", subgroups as u32)
            .constant("DEPTH_TILES", (padded(s.depth) / side) as u32)
            // Numbers, so that each is tested for itself.
            .constant("DECAY", self.decay as u32)
            .constant("DELTA", u32::from(self.delta))
            .switch("SCALAR", self.decay == Decay::Scalar)
            .switch("HAS_KEEP", io.has_table("keep"))
            .switch("HAS_WRITE", io.has_table("w"))
            .import(if side == 16 { "attend/matrix_16" } else { "attend/matrix_8" })
            .import("scan/chunk_token")
            .import("scan/chunk_record");
        let builder = builder.import(if channel { "scan/chunk_levels" } else { "scan/chunk_blocks" });
        Ok(rows(builder, self.q, self.k)
            .u32("heads", s.heads)
            .u32("tokens", s.tokens)
            .u32("depth", s.depth)
            .u32("chunks", count)
            .u32("q_share", share("q"))
            .u32("k_share", share("k"))
            .u32("g_share", share("g"))
            .f32("scale", self.scale)
            .strides("q", 4)
            .strides("k", 4)
            .strides("g", 4)
            .strides("chunks", 4)
            .strides("marks", 4)
            .groups(s.batch * s.heads * count))
    }

    fn twin(&self, _: &mut TwinIo) -> Result<()> {
        Err(unserved(self))
    }

    fn flops(&self, io: &Io) -> f64 {
        let &[batch, heads, count, _] = &io.get("chunks").layout.shape[..] else { return 0.0 };
        let products = if self.delta { 4 } else { 2 };
        (batch * heads * count * CHUNK * CHUNK * products * io.get("k").layout.shape[3]) as f64
    }
}
