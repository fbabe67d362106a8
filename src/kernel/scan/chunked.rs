//! `scan.chunked`: the recurrence over the chunks that [`Chunks`](super::Chunks) made, by cooperative matrices.

use super::chunks::{CHUNK, Chunks, matrices, padded, unserved};
use super::{Decay, Divide, Pass};
use crate::caps::{Caps, Tier};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, ScalarType};
use crate::kernel::{Io, Kernel, LaunchBuilder, Role, TwinIo, element};
use crate::tensor::DType;

/// Subgroups of a workgroup, at most.
const SUBGROUPS: usize = 8;
/// Matrices of value columns of a workgroup, at most: more of them share the records, fewer give more workgroups.
const COLUMN_TILES: usize = 2;
const TABLES: [(&str, ScalarType); 3] =
    [("keep", ScalarType::Bool), ("s_in", ScalarType::F32), ("z_in", ScalarType::F32)];

/// A causal scan over chunks. Roles v (B, Hv, L, Dv) of f16, chunks and marks as [`Chunks`](super::Chunks) made them, state_in (B, H, D, Dv),
/// out (B, H, L, Dv), state (B, H, D, Dv), z (B, H, D), and for a scan in segments those of [`Pass`]. Tables `keep` (B, 1, L, 1): 0 where a value is
/// not read; `z_in` (B, H, 1, D).
///
/// Only on devices with cooperative matrices; the twin of [`Scan`](super::Scan) computes the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chunked {
    /// D.
    pub depth: usize,
    /// The width of the log decay that the chunks were made with.
    pub decay: Decay,
    /// By the delta rule.
    pub delta: bool,
    /// Divisor of a read.
    pub divide: Divide,
    /// Which part of the work.
    pub pass: Pass,
}

/// Sizes, found consistent.
struct Sizes {
    batch: usize,
    heads: usize,
    tokens: usize,
    width: usize,
    records: usize,
}

impl Chunked {
    fn sizes(&self, io: &Io) -> Result<Sizes> {
        let shape = |role: &str| -> Result<[usize; 4]> {
            let found = &io.get(role).layout.shape;
            found[..].try_into().map_err(|_| self.refuse(role, "rank 4", found))
        };
        let [batch, heads, records, _] = shape("chunks")?;
        let [_, shared, tokens, width] = shape("v")?;
        let s = Sizes { batch, heads, tokens, width, records };
        let segments = self.pass.segments(tokens);
        let (before, after) = match self.pass {
            Pass::Whole => (1, 1),
            Pass::Sums(_) => (1, segments),
            Pass::Reads(_) => (segments, 1),
        };
        let wanted = [
            ("v", [batch, shared, tokens, width]),
            ("chunks", [batch, heads, tokens.div_ceil(CHUNK), Chunks::record(self.delta, self.depth)]),
            ("marks", [batch, heads, tokens.div_ceil(CHUNK), Chunks::marks(self.depth)]),
            ("state_in", [batch, heads * before, self.depth, width]),
            ("state", [batch, heads * after, self.depth, width]),
            ("out", [batch, heads, tokens, width]),
        ];
        for (role, wanted) in wanted {
            if let Some(found) = io.find(role).map(|meta| &meta.layout.shape)
                && found[..] != wanted
            {
                return Err(self.refuse(role, format!("{wanted:?}"), found));
            }
        }
        if shared == 0 || !heads.is_multiple_of(shared) {
            return Err(self.refuse("v", format!("a divisor of {heads} heads"), &io.get("v").layout.shape));
        }
        Ok(s)
    }

    fn refuse(&self, role: &str, expected: impl std::fmt::Display, found: &[usize]) -> Error {
        Error::expected(ErrorKind::Shape, self.name(), role, expected, format!("{found:?}"))
    }
}

impl Kernel for Chunked {
    fn name(&self) -> &'static str {
        "scan.chunked"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 8] = [
            Role::read("v", DType::F16),
            Role::read("chunks", DType::F16),
            Role::read("marks", DType::F32),
            Role::read("state_in", DType::F32).optional(),
            Role::write("out", DType::F32).optional(),
            Role::write("state", DType::F32),
            Role::write("z", DType::F32).optional(),
            Role::write("total", DType::F32).optional(),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let s = self.sizes(io)?;
        let none = || unserved(self);
        let (side, lanes) = matrices(caps).ok_or_else(none)?;
        let vectors = ["v", "chunks"].iter().all(|role| element(io.get(role)).vector);
        if !(vectors && io.get("v").dtype == DType::F16) {
            return Err(self.refuse("v", "rows of whole vec4 of f16", &io.get("v").layout.shape));
        }
        let (channels, tiles) = (padded(self.depth), CHUNK / side);
        let column_tiles = s.width.div_ceil(side).min(COLUMN_TILES);
        let columns = column_tiles * side;
        // Products of queries in halves of the depth; for the delta rule of queries and of keys.
        let jobs = 2 * tiles * column_tiles;
        let most = (caps.max_invocations as usize / lanes).min(channels / side).min(jobs);
        let subgroups = [SUBGROUPS, 4, 2, 1].into_iter().find(|&n| n <= most).ok_or_else(none)?;
        let workgroup = subgroups * lanes;
        let (sums, divides) = (matches!(self.pass, Pass::Sums(_)), self.divide != Divide::None);
        let z = divides || io.find("z").is_some();
        let slots = if self.delta { 1 } else { jobs / subgroups };
        let (norm, divisors) = (if z { channels } else { 1 }, if divides { workgroup } else { 1 });
        let tiles_of_tokens = if self.delta { 4 } else { 2 };
        let halves = (channels + CHUNK * tiles_of_tokens) * (columns + 8) - 8 * (1 + tiles_of_tokens);
        let marks = if z { Chunks::marks(self.depth) } else { channels };
        let floats = subgroups * slots * side * side + norm + divisors + subgroups + 2 * marks;
        // An invocation has a share of one row's divisor.
        let shares = workgroup.is_multiple_of(CHUNK) && workgroup <= channels / 4 * CHUNK;
        if 2 * halves + 4 * floats > caps.max_workgroup_memory as usize || !shares {
            return Err(none());
        }
        let (segments, width_tiles) = (self.pass.segments(s.tokens), s.width.div_ceil(columns));
        let entry = if self.delta { "scan/delta" } else { "scan/matrix" };
        let builder = LaunchBuilder::new(self, entry, workgroup as u32, io, caps, &TABLES)
            .tier(Tier::T2)
            .constant("SUBGROUPS", subgroups as u32)
            .constant("DEPTH_TILES", (channels / side) as u32)
            .constant("COLUMN_TILES", column_tiles as u32)
            .constant("COLUMNS", (columns / 4) as u32)
            .constant("SLOTS", slots as u32)
            .constant("NORM", norm as u32)
            .constant("DIVISORS", divisors as u32)
            .constant("MARKS4", (marks / 4) as u32)
            // Numbers, so that the records of each are tested for themselves.
            .constant("DECAY", self.decay as u32)
            .constant("DELTA", u32::from(self.delta))
            .switch("SUMS", sums)
            .switch("SCALAR", self.decay == Decay::Scalar)
            .switch("CHANNEL", self.decay == Decay::Channel)
            .import(if side == 16 { "attend/matrix_16" } else { "attend/matrix_8" })
            .import("scan/state")
            .import("scan/state_in")
            .import("scan/powers")
            .import("scan/chunk_state");
        let builder = if self.delta { builder } else { builder.import("scan/matrix_parts") };
        Ok(super::launch::states(builder, io, self.pass, self.divide, z, [s.heads, s.tokens, self.depth, s.width])
            .u32("tiles", width_tiles)
            .u32("records", s.records)
            .strides("chunks", 4)
            .strides("marks", 4)
            .groups(s.batch * s.heads * segments * width_tiles))
    }

    fn twin(&self, _: &mut TwinIo) -> Result<()> {
        Err(unserved(self))
    }

    fn flops(&self, io: &Io) -> f64 {
        let Ok(s) = self.sizes(io) else { return 0.0 };
        (s.batch * s.heads * s.tokens * s.width * 2 * (2 * self.depth + CHUNK)) as f64
    }
}
