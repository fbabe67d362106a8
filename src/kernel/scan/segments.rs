//! `scan.sums` and `scan.reads`: a scan without a decay a channel and without erase, all segments of its tokens at once, by cooperative matrices.

use super::chunks::{matrices, padded, unserved};
use super::rows::{Rows, rows};
use super::{Decay, Divide, Pass};
use crate::caps::{Caps, DeviceClass, Tier};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, ScalarType};
use crate::kernel::{Io, Kernel, LaunchBuilder, Role, TwinIo, element};
use crate::tensor::DType;

/// Tokens of a segment: as many as their pairs cost about what a state costs to write and read.
pub(crate) const SEGMENT: usize = 256;
/// Value columns of a workgroup, at most.
const COLUMNS: usize = 128;
/// Segments of a workgroup of `scan/sums`, at most, and the workgroups that fill a large device.
const SPAN: usize = 4;
const WORKGROUPS: usize = 512;
/// Matrices of keys that `scan/reads` stages at once: rows that share what a barrier costs.
const KEY_TILES: usize = 2;
/// Tokens that `scan/sums` stages at once.
const STEP: usize = 32;
const TABLES: [(&str, ScalarType); 4] =
    [("g_scalar", ScalarType::F32), ("keep", ScalarType::Bool), ("w", ScalarType::F32), ("z_in", ScalarType::F32)];

/// What each segment of 256 tokens adds to a state of zeros, Σ_j e^{G − G_j} w_j k_j v_jᵀ with G_j the log decay of the segment up to
/// and with token j and G that of all of it. Roles k (B, Hk, L, D), v (B, Hv, L, Dv) of f16, state (B, H S, P, Pv),
/// z (B, H S, D), total (B, H S, 1), the product of the decays; P is D up to a power of two, at least 32, and Pv is Dv as whole
/// matrices have it: up to a multiple of 16 where it is at most 128, else in equal parts of such.
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
}

/// What the queries of all segments read: out_i = scale (e^{G_i} q_iᵀ S + Σ_{j ≤ i} e^{G_i − G_j} w_j (q_i·k_j) v_j), S the state at the segment's
/// start. Roles q (B, Hq, L, D), k and v as of [`Sums`], state_in (B, H S, P, Pv), out (B, H, L, Dv). Tables as of [`Sums`], and `z_in`
/// (B, H S, 1, D) for a divisor.
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
    fn of(kernel: &dyn Kernel, io: &Io, decay: Decay, state: &str) -> Result<Self> {
        let refuse = |role: &str, expected: String, found: &[usize]| {
            Error::expected(ErrorKind::Shape, kernel.name(), role, expected, format!("{found:?}"))
        };
        let shape = |role: &str| -> Result<[usize; 4]> {
            let found = &io.get(role).layout.shape;
            found[..].try_into().map_err(|_| refuse(role, "rank 4".into(), found))
        };
        let [batch, parts, ..] = shape(state)?;
        let ([_, _, tokens, depth], [_, _, _, width]) = (shape("k")?, shape("v")?);
        let heads = parts / tokens.div_ceil(SEGMENT).max(1);
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
        if found[..] != [batch, heads * tokens.div_ceil(SEGMENT), rows, columns] {
            return Err(refuse(state, format!("({batch}, heads x segments, {rows}, {columns})"), found));
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
        let s = Sizes::of(self, io, self.decay, "state")?.on(self, &[self.k], io, caps)?;
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
        let builder = s.builder(builder, io, self.decay, Pass::Sums(SEGMENT), Divide::None, z);
        // Neighbouring segments of a workgroup: the first tokens of one come while the last ones of the one before are stored.
        let count = s.tokens.div_ceil(SEGMENT);
        // A software device is small, and where the tests are.
        let fill = if caps.class == DeviceClass::Software { 1 } else { WORKGROUPS };
        let span = (s.segments() / fill).clamp(1, SPAN).min(count.max(1));
        let builder = rows(builder, Rows::Given, self.k).u32("span", span).u32("runs", count.div_ceil(span));
        Ok(builder.groups(s.segments() / count.max(1) * count.div_ceil(span)))
    }

    fn twin(&self, _: &mut TwinIo) -> Result<()> {
        Err(unserved(self))
    }

    fn flops(&self, io: &Io) -> f64 {
        let Ok(s) = Sizes::of(self, io, self.decay, "state") else { return 0.0 };
        (2 * s.batch * s.heads * s.tokens * s.depth * s.width) as f64
    }
}

impl Kernel for Reads {
    fn name(&self) -> &'static str {
        "scan.reads"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 6] = [
            Role::read("q", DType::F32),
            Role::read("k", DType::F32),
            Role::read("v", DType::F16),
            // Of rows that are turned, which these kernels refuse: `scan/chunk_rows` names it.
            Role::read("turns", DType::F32).optional(),
            Role::read("state_in", DType::F32),
            Role::write("out", DType::F32),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let s = Sizes::of(self, io, self.decay, "state_in")?.on(self, &[self.q, self.k], io, caps)?;
        let (channels4, columns4) = (s.depth_tiles() * s.side / 4, s.value_tiles() * s.side / 4);
        let divides = self.divide != Divide::None;
        // (subgroups, matrices of rows of each, padding of scores)
        let memory = |&(subgroups, row_tiles, pad): &(usize, usize, usize)| {
            let rows = subgroups * row_tiles * s.side;
            let shares = if divides { rows * channels4.div_ceil(s.lanes) } else { 1 };
            8 * 2 * KEY_TILES * s.side * (channels4.max(columns4) + 2)
                + 16 * rows * (s.side / 4 + pad)
                + 8 * rows * (s.side / 4 + 1)
                + 8 * SEGMENT
                + 4 * (3 * subgroups + shares)
        };
        let fits = |shape: &(usize, usize, usize)| {
            let &(subgroups, row_tiles, _) = shape;
            let (rows, workgroup) = (row_tiles * s.side, subgroups * s.lanes);
            let round = 2 * KEY_TILES * s.side;
            s.lanes.is_multiple_of(rows)
                && (s.side / 4).is_multiple_of(s.lanes / rows)
                && workgroup <= (caps.max_invocations as usize).min(2 * SEGMENT)
                && (SEGMENT.is_multiple_of(workgroup) || workgroup.is_multiple_of(SEGMENT))
                && SEGMENT.is_multiple_of(subgroups * rows)
                && (subgroups * rows).is_multiple_of(round)
                && (2 * KEY_TILES).is_multiple_of(row_tiles)
                && (round * channels4).is_multiple_of(workgroup)
                && workgroup.is_multiple_of(channels4)
                && memory(shape) <= caps.max_workgroup_memory as usize
        };
        // Many rows share what is staged; a workgroup so large also keeps a driver to registers that all of it finds on a processor.
        let shapes = [16, 8, 4].into_iter().flat_map(|n| [(n, 1, 1), (n, 1, 0), (n, 2, 1), (n, 2, 0)]);
        let (subgroups, row_tiles, pad) = shapes.into_iter().find(fits).ok_or_else(|| unserved(self))?;
        let workgroup = subgroups * s.lanes;
        let rows_all = subgroups * row_tiles * s.side;
        let builder = LaunchBuilder::new(self, "scan/reads", workgroup as u32, io, caps, &TABLES)
            .constant("SUBGROUPS", subgroups as u32)
            .constant("ROW_TILES", row_tiles as u32)
            .constant("S_PAD", pad as u32)
            .constant("KEY_TILES", KEY_TILES as u32)
            .constant("S_TILES", s.depth_tiles().min(2 * KEY_TILES) as u32)
            .constant("WIDEST4", channels4.max(columns4) as u32)
            .constant("DIVISORS", if divides { rows_all * channels4.div_ceil(s.lanes) } else { 1 } as u32)
            .import("scan/powers")
            .import("scan/reads_parts");
        let builder = s.builder(builder, io, self.decay, Pass::Reads(SEGMENT), self.divide, divides);
        let builder = rows(builder, self.q, self.k).f32("scale", self.scale);
        Ok(builder.groups(s.segments() * (SEGMENT / rows_all)))
    }

    fn twin(&self, _: &mut TwinIo) -> Result<()> {
        Err(unserved(self))
    }

    fn flops(&self, io: &Io) -> f64 {
        let Ok(s) = Sizes::of(self, io, self.decay, "state_in") else { return 0.0 };
        let pairs = SEGMENT / 2 * (s.depth + s.width);
        (2 * s.batch * s.heads * s.tokens * (s.depth * s.width + pairs)) as f64
    }
}
