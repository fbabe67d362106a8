//! `scan.sums` and `scan.reads`: a scan without a decay a channel and without erase, all segments of its tokens at once, by cooperative matrices.

use super::chunks::{matrices, padded, unserved};
use super::rows::{Rows, rows};
use super::{Decay, Divide, Pass};
use crate::caps::{Caps, Tier};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, ScalarType};
use crate::kernel::{Io, Kernel, LaunchBuilder, Role, TwinIo, element};
use crate::tensor::DType;

/// Tokens of a segment: as many as their pairs cost about what a state costs to write and read.
pub(crate) const SEGMENT: usize = 256;
/// Value columns of a workgroup, at most.
const COLUMNS: usize = 128;
/// Segments of a span, at most, and the spans that fill a large device.
const SPAN: usize = 4;
const WORKGROUPS: usize = 512;
/// Matrices of keys that `scan/reads` stages at once, and such steps on their way.
const KEY_TILES: usize = 2;
const AHEAD: usize = 2;
/// Tokens that `scan/sums` stages at once.
const STEP: usize = 32;
const TABLES: [(&str, ScalarType); 4] =
    [("g_scalar", ScalarType::F32), ("keep", ScalarType::Bool), ("w", ScalarType::F32), ("z_in", ScalarType::F32)];

/// What the tokens of a span of neighbouring segments of 256 tokens add to a state of zeros, up to the start of each segment,
/// Σ_j e^{G − G_j} w_j k_j v_jᵀ with G_j the log decay up to and with token j and G that of all of them. The place of a span's first segment,
/// where that is 0, holds the sum of all of the span. Roles k (B, Hk, L, D), v (B, Hv, L, Dv) of f16, state (B, H S, P, Pv),
/// z (B, H S, D), total (B, H S, 1), the product of the decays; S is the number of segments up to whole spans, P is D up to a power of two, at
/// least 32, and Pv is Dv as whole matrices have it: up to a multiple of 16 where it is at most 128, else in equal parts of such.
/// Tables `g_scalar`, `keep` and `w` as for [`Scan`](super::Scan).
///
/// See S. Yang et al., "Gated Linear Attention Transformers", ICML 2024, arXiv 2312.06635, section 4 (the chunkwise form). Only on devices with
/// cooperative matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sums {
    /// The width of the log decay: none or scalar.
    pub decay: Decay,
    /// What becomes of rows of k first: nothing or a map.
    pub k: Rows,
    /// Segments of a span, which one workgroup takes in order.
    pub span: usize,
}

/// What the queries of all segments read: out_i = scale (e^{G_i} q_iᵀ S + Σ_{j ≤ i} e^{G_i − G_j} w_j (q_i·k_j) v_j), S the state at the segment's
/// start: that at the span's start, decayed, and what the span adds up to there. Roles q (B, Hq, L, D), k and v as of [`Sums`],
/// state_in (B, H S, P, Pv) and total (B, H S, 1) as [`Sums`] leaves them, but with the state at its start in the place of a span's first segment;
/// out (B, H, L, Dv). Tables as of [`Sums`], and `z_in` (B, H S, 1, D), the same of z, for a divisor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reads {
    /// The width of the log decay: none or scalar.
    pub decay: Decay,
    /// Factor of q.
    pub scale: f32,
    /// Divisor of a read.
    pub divide: Divide,
    /// What becomes of rows of q first: nothing or a map.
    pub q: Rows,
    /// What becomes of rows of k first: nothing or a map.
    pub k: Rows,
    /// Segments of a span.
    pub span: usize,
}

/// Segments of a span: neighbours share what is carried over, as long as spans fill the device. A software device is small.
pub(crate) fn span([heads, tokens, width]: [usize; 3], software: bool) -> usize {
    let (count, tiles) = (tokens.div_ceil(SEGMENT), width.div_ceil(COLUMNS));
    let fill = if software { 1 } else { WORKGROUPS };
    (heads * count * tiles / fill).clamp(1, SPAN).min(count.max(1))
}

/// Rows and columns of a segment's state as whole matrices of every device have them.
pub(crate) fn padded_state(depth: usize, width: usize) -> [usize; 2] {
    [padded(depth), width.div_ceil(COLUMNS) * columns(width)]
}

/// Value columns of a workgroup: equal parts of them all.
fn columns(width: usize) -> usize {
    width.div_ceil(16).div_ceil(width.div_ceil(COLUMNS)) * 16
}

/// Sizes, found consistent, and the numbers that both kernels share.
struct Sizes {
    batch: usize,
    heads: usize,
    tokens: usize,
    depth: usize,
    width: usize,
    side: usize,
    lanes: usize,
}

impl Sizes {
    fn of(kernel: &dyn Kernel, io: &Io, decay: Decay, state: &str, span: usize) -> Result<Self> {
        let refuse = |role: &str, expected: String, found: &[usize]| {
            Error::expected(ErrorKind::Shape, kernel.name(), role, expected, format!("{found:?}"))
        };
        let shape = |role: &str| -> Result<[usize; 4]> {
            let found = &io.get(role).layout.shape;
            found[..].try_into().map_err(|_| refuse(role, "rank 4".into(), found))
        };
        let [batch, parts, ..] = shape(state)?;
        let ([_, _, tokens, depth], [_, _, _, width]) = (shape("k")?, shape("v")?);
        if span == 0 {
            return Err(refuse("span", "1 segment or more".into(), &[span]));
        }
        let places = tokens.div_ceil(SEGMENT).next_multiple_of(span);
        let heads = parts / places.max(1);
        for (role, inner) in [("q", depth), ("k", depth), ("v", width)] {
            let Some(found) = io.find(role).map(|meta| &meta.layout.shape) else { continue };
            if found.len() != 4
                || found[1] == 0
                || heads % found[1] != 0
                || found[0] != batch
                || found[2..] != [tokens, inner]
            {
                return Err(refuse(role, format!("({batch}, a divisor of {heads}, {tokens}, {inner})"), found));
            }
        }
        let [rows, columns] = padded_state(depth, width);
        let (found, outputs) = (&io.get(state).layout.shape, [batch, heads, tokens, width]);
        if found[..] != [batch, heads * places, rows, columns] {
            return Err(refuse(state, format!("({batch}, heads x {places}, {rows}, {columns})"), found));
        }
        if let Some(found) = io.find("out").map(|meta| &meta.layout.shape)
            && found[..] != outputs
        {
            return Err(refuse("out", format!("{outputs:?}"), found));
        }
        if decay == Decay::Channel || (decay == Decay::Scalar) != io.has_table("g_scalar") {
            return Err(refuse("g", format!("the table of {decay:?}, one number a token"), &[]));
        }
        Ok(Sizes { batch, heads, tokens, depth, width, side: 0, lanes: 0 })
    }

    /// The same for a device with matrices that serve rows of whole vec4.
    fn on(self, kernel: &dyn Kernel, made: &[Rows], io: &Io, caps: &Caps) -> Result<Self> {
        let whole = ["q", "k", "v", "state", "state_in"]
            .iter()
            .filter_map(|role| io.find(role))
            .all(|meta| element(meta).vector);
        let whole = whole && made.iter().all(|rows| matches!(rows, Rows::Given | Rows::Map(_)));
        let (side, lanes) = matrices(caps).filter(|_| whole).ok_or_else(|| unserved(kernel))?;
        Ok(Sizes { side, lanes, ..self })
    }

    fn depth_tiles(&self) -> usize {
        padded(self.depth) / self.side
    }

    fn value_tiles(&self) -> usize {
        columns(self.width) / self.side
    }

    fn segments(&self) -> usize {
        self.batch * self.heads * self.tokens.div_ceil(SEGMENT) * self.width.div_ceil(COLUMNS)
    }

    /// The launch of either kernel, but for its own constants.
    fn builder<'a>(
        &self,
        builder: LaunchBuilder<'a>,
        io: &Io,
        decay: Decay,
        pass: Pass,
        divide: Divide,
        z: bool,
        span: usize,
    ) -> LaunchBuilder<'a> {
        let share = |role: &str| io.find(role).map_or(1, |meta| self.heads / meta.layout.shape[1]);
        let builder = builder
            .tier(Tier::T2)
            .constant("SEGMENT", SEGMENT as u32)
            .constant("DEPTH_TILES", self.depth_tiles() as u32)
            .constant("VALUE_TILES", self.value_tiles() as u32)
            .constant("DECAY", decay as u32)
            .switch("SCALAR", decay == Decay::Scalar)
            .switch("HAS_WRITE", io.has_table("w"))
            .import(if self.side == 16 { "attend/matrix_16" } else { "attend/matrix_8" })
            .import("scan/segment")
            .import("scan/state")
            .import("scan/addresses");
        super::launch::states(builder, io, pass, divide, z, [self.heads, self.tokens, self.depth, self.width])
            .u32("tiles", self.width.div_ceil(COLUMNS))
            .u32("span", span)
            .constant("SPANS", u32::from(span > 1))
            .u32("q_share", share("q"))
            .u32("k_share", share("k"))
            .strides("q", 4)
            .strides("k", 4)
    }
}

impl Kernel for Sums {
    fn name(&self) -> &'static str {
        "scan.sums"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 6] = [
            Role::read("k", DType::F32),
            Role::read("v", DType::F16),
            // Of rows that are turned, which these kernels refuse: `scan/chunk_rows` names it.
            Role::read("turns", DType::F32).optional(),
            Role::write("state", DType::F32),
            Role::write("z", DType::F32).optional().scalar(),
            Role::write("total", DType::F32).optional().scalar(),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let s = Sizes::of(self, io, self.decay, "state", self.span)?.on(self, &[self.k], io, caps)?;
        let (depth, values) = (s.depth_tiles(), s.value_tiles());
        // A grid of subgroups; an invocation has the same channels of every key that it stages.
        let grids = [(4, 4), (4, 2), (4, 1), (2, 2), (2, 1), (1, 1)];
        let most = (caps.max_invocations as usize).min(2 * SEGMENT) / s.lanes;
        let fits = |&(d, v): &(usize, usize)| {
            d * v <= most
                && depth.is_multiple_of(d)
                && values.is_multiple_of(v)
                && (d * v * s.lanes).is_multiple_of(depth * s.side / 4)
        };
        let (d_subs, v_subs) = grids.into_iter().find(fits).ok_or_else(|| unserved(self))?;
        let workgroup = d_subs * v_subs * s.lanes;
        let z = io.find("z").is_some();
        let vectors = STEP * ((depth + values) * s.side / 4 + 4);
        if 8 * vectors + 8 * SEGMENT + 4 * d_subs * v_subs + 16 * d_subs * v_subs * s.side * s.side / 4
            > caps.max_workgroup_memory as usize
        {
            return Err(unserved(self));
        }
        let builder = LaunchBuilder::new(self, "scan/sums", workgroup as u32, io, caps, &TABLES)
            .constant("SUBGROUPS", (d_subs * v_subs) as u32)
            .constant("D_SUBS", d_subs as u32)
            .constant("V_SUBS", v_subs as u32)
            .constant("Z", u32::from(z));
        let builder = s.builder(builder, io, self.decay, Pass::Sums(SEGMENT), Divide::None, z, self.span);
        let count = s.tokens.div_ceil(SEGMENT);
        let runs = count.div_ceil(self.span);
        let builder = rows(builder, Rows::Given, self.k).u32("runs", runs);
        Ok(builder.groups(s.segments() / count.max(1) * runs))
    }

    fn twin(&self, _: &mut TwinIo) -> Result<()> {
        Err(unserved(self))
    }

    fn flops(&self, io: &Io) -> f64 {
        let Ok(s) = Sizes::of(self, io, self.decay, "state", self.span) else { return 0.0 };
        (2 * s.batch * s.heads * s.tokens * s.depth * s.width) as f64
    }
}

impl Kernel for Reads {
    fn name(&self) -> &'static str {
        "scan.reads"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 7] = [
            Role::read("q", DType::F32),
            Role::read("k", DType::F32),
            Role::read("v", DType::F16),
            // Of rows that are turned, which these kernels refuse: `scan/chunk_rows` names it.
            Role::read("turns", DType::F32).optional(),
            Role::read("total", DType::F32).optional().scalar(),
            Role::read("state_in", DType::F32),
            Role::write("out", DType::F32),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let s = Sizes::of(self, io, self.decay, "state_in", self.span)?.on(self, &[self.q, self.k], io, caps)?;
        let (channels4, columns4) = (s.depth_tiles() * s.side / 4, s.value_tiles() * s.side / 4);
        let divides = self.divide != Divide::None;
        // (subgroups, matrices of rows of each)
        let memory = |&(subgroups, row_tiles): &(usize, usize)| {
            let rows = subgroups * row_tiles * s.side;
            8 * 2 * KEY_TILES * s.side * (channels4.max(columns4) + 2)
                + 16 * rows * (s.side / 4)
                + 8 * rows * (s.side / 4 + 1)
                + 8 * SEGMENT
                + 4 * 3 * subgroups
        };
        let fits = |shape: &(usize, usize)| {
            let &(subgroups, row_tiles) = shape;
            let (rows, workgroup) = (row_tiles * s.side, subgroups * s.lanes);
            (rows * s.side / 4).is_multiple_of(s.lanes)
                && s.lanes.is_multiple_of(s.side / 4)
                && workgroup <= (caps.max_invocations as usize).min(2 * SEGMENT)
                && (SEGMENT.is_multiple_of(workgroup) || workgroup.is_multiple_of(SEGMENT))
                && SEGMENT.is_multiple_of(subgroups * rows)
                && memory(shape) <= caps.max_workgroup_memory as usize
        };
        // 128 rows of 16 x 16 matrices: what is staged serves half as many rows as with 16 subgroups, whose registers have no room for what is on its way.
        let shapes = [8, 4].into_iter().flat_map(|n| [(n, 1), (n, 2)]);
        let (subgroups, row_tiles) = shapes.into_iter().find(fits).ok_or_else(|| unserved(self))?;
        let builder = LaunchBuilder::new(self, "scan/reads", (subgroups * s.lanes) as u32, io, caps, &TABLES)
            .constant("SUBGROUPS", subgroups as u32)
            .constant("ROW_TILES", row_tiles as u32)
            .constant("KEY_TILES", KEY_TILES as u32)
            .constant("AHEAD", AHEAD as u32)
            .constant("S_TILES", s.depth_tiles().min(2 * KEY_TILES) as u32)
            .constant("WIDEST4", channels4.max(columns4) as u32)
            .import("scan/powers")
            .import("scan/reads_parts");
        let builder = s.builder(builder, io, self.decay, Pass::Reads(SEGMENT), self.divide, divides, self.span);
        let builder = rows(builder, self.q, self.k).f32("scale", self.scale);
        Ok(builder.groups(s.segments() * (SEGMENT / (subgroups * row_tiles * s.side))))
    }

    fn twin(&self, _: &mut TwinIo) -> Result<()> {
        Err(unserved(self))
    }

    fn flops(&self, io: &Io) -> f64 {
        let Ok(s) = Sizes::of(self, io, self.decay, "state_in", self.span) else { return 0.0 };
        let pairs = SEGMENT / 2 * (s.depth + s.width);
        (2 * s.batch * s.heads * s.tokens * (s.depth * s.width + pairs)) as f64
    }
}
