//! The delta rule in chunks: `scan.pairs`, what the tokens of a chunk do to each other, and the launch of `scan/delta`, which reads it.

use super::launch::{Sizes, common};
use super::{Decay, Scan, TABLES};
use crate::caps::{Caps, Tier};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, ScalarType};
use crate::kernel::{Io, Kernel, LaunchBuilder, Role, TwinIo, element};
use crate::tensor::DType;

/// Tokens of a chunk.
const CHUNK: usize = 32;
/// Numbers of a row of `pairs`: of T, of A, the log decay, and what brings it to a multiple of four.
pub(crate) const ROW: usize = 2 * CHUNK + 4;
/// Channels of a key, at most: the state of a deeper one does not fit the registers.
const DEEPEST: usize = 128;
const WORKGROUP: u32 = 128;
/// Subgroups of a workgroup of `scan/delta`.
const SUBGROUPS: usize = 4;
const PAIR_TABLES: [(&str, ScalarType); 3] =
    [("g_scalar", ScalarType::F32), ("keep", ScalarType::Bool), ("w", ScalarType::F32)];

/// What the tokens of each chunk of 32 do to each other by the delta rule, whatever the state before. Roles q (B, Hq, L, D), k (B, Hk, L, D),
/// pairs (B, H, L to whole chunks, 68): of each token T[i, 32], A[i, 32] and the chunk's log decay G up to it. Tables `g_scalar`, `keep` and
/// `w` as for [`Scan`].
///
/// ```text
/// N[i, j] = w_i e^(G_i − G_j) k_i · k_j for j < i     T = (I + N)⁻¹ diag(w)     A[i, j] = scale e^(G_i − G_j) q_i · k_j for j ≤ i
/// ```
///
/// In f32. The twin of the scan goes token by token and reads none of it: this one's does nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pairs {
    /// Whether the state decays, by one number a token and head.
    pub decay: bool,
    /// Factor of q.
    pub scale: f32,
    /// q and k were made of f16 numbers: a product by matrices may round them to f16 again.
    pub half: bool,
}

/// Tokens up to whole chunks.
pub(crate) fn rows(tokens: usize) -> usize {
    tokens.next_multiple_of(CHUNK)
}

impl Pairs {
    fn sizes(&self, io: &Io) -> Result<Sizes> {
        let (k, pairs) = (&io.get("k").layout.shape, &io.get("pairs").layout.shape);
        let (&[_, _, tokens, depth], &[batch, heads, padded, ROW]) = (&k[..], &pairs[..]) else {
            return Err(self.refuse("pairs", format!("(B, H, L, {ROW}), and k of rank 4"), pairs));
        };
        for role in ["q", "k"] {
            let found = &io.get(role).layout.shape;
            let shared = found.len() == 4 && found[1] != 0 && heads.is_multiple_of(found[1]);
            if !shared || found[0] != batch || found[2..] != [tokens, depth] {
                return Err(self.refuse(role, format!("({batch}, a divisor of {heads}, {tokens}, {depth})"), found));
            }
        }
        if padded != rows(tokens) || self.decay != io.has_table("g_scalar") {
            return Err(self.refuse("pairs", format!("{} rows, and a log decay if it decays", rows(tokens)), pairs));
        }
        Ok(Sizes { batch, heads, queries: tokens, tokens, depth, width: 0 })
    }

    fn refuse(&self, role: &str, expected: impl std::fmt::Display, found: &[usize]) -> Error {
        Error::expected(ErrorKind::Shape, self.name(), role, expected, format!("{found:?}"))
    }
}

impl Kernel for Pairs {
    fn name(&self) -> &'static str {
        "scan.pairs"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 3] =
            [Role::read("q", DType::F32), Role::read("k", DType::F32), Role::write("pairs", DType::F32)];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let s = self.sizes(io)?;
        let chunks = s.tokens.div_ceil(CHUNK);
        let share = |role: &str| s.heads / io.get(role).layout.shape[1];
        let builder = LaunchBuilder::new(self, "scan/delta_pairs", WORKGROUP, io, caps, &PAIR_TABLES)
            .switch("SCALAR", self.decay)
            .switch("HAS_KEEP", io.has_table("keep"))
            .switch("HAS_WRITE", io.has_table("w"))
            .import("scan/delta_row")
            .import("scan/delta_token");
        Ok(builder
            .u32("heads", s.heads)
            .u32("tokens", s.tokens)
            .u32("depth", s.depth)
            .u32("chunks", chunks)
            .u32("q_share", share("q"))
            .u32("k_share", share("k"))
            .f32("scale", self.scale)
            .strides("q", 4)
            .strides("k", 4)
            .strides("pairs", 4)
            .groups(s.batch * s.heads * chunks))
    }

    fn twin(&self, _: &mut TwinIo) -> Result<()> {
        Ok(())
    }

    fn flops(&self, io: &Io) -> f64 {
        let rows = io.get("pairs").layout.len() / ROW;
        (rows * CHUNK * (4 * io.get("k").layout.shape[3] + CHUNK)) as f64
    }
}

/// Whether a scan of (B, H, L, D, Dv) by the delta rule is better done in chunks.
pub(crate) fn chunked(op: &Scan, tokens: usize, depth: usize) -> bool {
    op.delta
        && op.decay != Decay::Channel
        && !op.read_before
        && !op.bidirectional
        && tokens >= CHUNK
        && depth <= DEEPEST
}

/// A launch by matrices, where the device has them: f16 values, and keys and queries of f16 or made of such.
pub(super) fn launch(op: &Scan, io: &Io, caps: &Caps, s: Sizes) -> Option<Launch> {
    let side = caps.matrix? as usize;
    let lanes = caps.subgroups.filter(|(least, most)| least == most)?.0 as usize;
    let vectors = ["q", "k", "v", "pairs"].iter().all(|role| io.find(role).is_some_and(|meta| element(meta).vector));
    let half = io.find("v").is_some_and(|v| v.dtype == DType::F16) && op.half;
    let workgroup = SUBGROUPS * lanes;
    if !(vectors && half && workgroup >= CHUNK && workgroup <= caps.max_invocations as usize) {
        return None;
    }
    let tiles = CHUNK / side;
    // Products with the state are spread over all subgroups: of keys and of queries, for each tile of tokens and of columns.
    let column_tiles = (SUBGROUPS / (2 * tiles)).max(1);
    let depth_tiles = s.depth.div_ceil(side).next_multiple_of(SUBGROUPS);
    let columns = column_tiles * side;
    let patches = (depth_tiles * column_tiles / SUBGROUPS).max(2);
    if memory(side, depth_tiles, columns, patches) > caps.max_workgroup_memory as usize {
        return None;
    }
    let width_tiles = s.width.div_ceil(columns);
    let builder = LaunchBuilder::new(op, "scan/delta", workgroup as u32, io, caps, &TABLES)
        .tier(Tier::T2)
        .constant("SUBGROUPS", SUBGROUPS as u32)
        .constant("DEPTH_TILES", depth_tiles as u32)
        .constant("COLUMN_TILES", column_tiles as u32)
        .constant("COLUMNS", (columns / 4) as u32)
        .constant("PATCHES", patches as u32)
        .import(if side == 16 { "attend/matrix_16" } else { "attend/matrix_8" })
        .import("scan/common")
        .import("scan/delta_row")
        .import("scan/delta_stage")
        .u32("rows", rows(s.tokens))
        .strides("pairs", 4);
    Some(common(builder, op, io, s, width_tiles, false).groups(s.batch * s.heads * width_tiles))
}

/// Bytes of workgroup memory of `scan/delta`.
fn memory(side: usize, depth_tiles: usize, columns: usize, patches: usize) -> usize {
    let halves = 2 * CHUNK * (depth_tiles * side + 8)
        + 2 * CHUNK * (CHUNK + 8)
        + (depth_tiles * side + 3 * CHUNK) * (columns + 8);
    2 * halves + 4 * (SUBGROUPS * patches * side * (side + 4) + 2 * CHUNK + SUBGROUPS)
}
