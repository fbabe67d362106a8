//! The launches of `scan/chunk` and `scan/recurrent`.

use super::{Decay, Divide, Pass, Scan, TABLES};
use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, Place};
use crate::kernel::{Io, LaunchBuilder};

/// Tokens of a chunk.
const CHUNK: usize = 16;
const CHUNK_WORKGROUP: u32 = 128;
const RECURRENT_WORKGROUP: usize = 64;
/// Tokens that the wide form takes, at most (the chunk form takes more, but for erase); the workgroup and the vec4 of value columns of it.
const FEW: usize = CHUNK - 1;
const STEP: (usize, usize) = (128, 16);
/// Workgroup memory of every device.
const MEMORY: usize = 16 << 10;
/// vec4 of value columns a workgroup, at most: more of them share the pairs of a chunk, fewer give more workgroups.
const COLUMNS: usize = 4;
/// Tokens of a segment, at least.
const SEGMENT: usize = 1024;
/// Segments hold a multiple of the tokens of every kernel's chunk.
const CHUNK_MOST: usize = 64;
/// Floats that `scan/recurrent` stages at once when that is more than one token.
const STAGED: usize = 2048;

/// Sizes of a scan, found consistent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub batch: usize,
    pub heads: usize,
    pub queries: usize,
    /// Keys and values.
    pub tokens: usize,
    pub depth: usize,
    pub width: usize,
}

impl Sizes {
    pub(super) fn of(op: &Scan, io: &Io) -> Result<Self> {
        let shape = |role: &str| -> Result<[usize; 4]> {
            let found = &io.get(role).layout.shape;
            found[..].try_into().map_err(|_| refuse(ErrorKind::Shape, role, "rank 4", format!("{found:?}")))
        };
        let [_, _, tokens, depth] = shape("k")?;
        let segments = op.pass.segments(tokens);
        let [batch, heads, queries, width] = match op.pass {
            Pass::Sums(_) => {
                let [batch, parts, _, width] = shape("state")?;
                [batch, parts / segments, 0, width]
            }
            _ => shape("out")?,
        };
        let s = Sizes { batch, heads, queries, tokens, depth, width };
        let expected = [
            ("q", Some([queries, depth])),
            ("k", Some([tokens, depth])),
            ("v", Some([tokens, width])),
            ("g", Some([tokens, depth])),
            ("a", Some([tokens, depth])),
            ("b", Some([tokens, depth])),
            ("state_in", Some([depth, width])),
            ("state", Some([depth, width])),
        ];
        for (role, inner) in expected {
            if io.find(role).is_none() {
                continue;
            }
            let mut found = shape(role)?;
            let cut = matches!((op.pass, role), (Pass::Sums(_), "state") | (Pass::Reads(_), "state_in"));
            if cut && found[1].is_multiple_of(segments) {
                found[1] /= segments;
            }
            if found[0] != batch
                || found[1] == 0
                || heads % found[1] != 0
                || inner.is_some_and(|inner| found[2..] != inner)
            {
                let want = format!("({batch}, a divisor of {heads}, {inner:?})");
                return Err(refuse(ErrorKind::Shape, role, want, format!("{found:?}")));
            }
        }
        let needs_out = !matches!(op.pass, Pass::Sums(_));
        if needs_out && io.find("q").is_none() {
            return Err(refuse(ErrorKind::MissingInput, "q", "queries to read with", "none"));
        }
        if op.pass != Pass::Whole && (op.bidirectional || erases(op, io)) {
            return Err(refuse(ErrorKind::Unsupported, "pass", "a causal scan without erase", "another in segments"));
        }
        if needs_out && queries != tokens && !op.bidirectional {
            return Err(refuse(ErrorKind::Shape, "q", format!("as many rows as k, {tokens}"), queries));
        }
        if op.bidirectional && op.read_before {
            return Err(refuse(ErrorKind::Unsupported, "read_before", "a causal scan", "a bidirectional one"));
        }
        if io.find("a").is_some() != io.find("b").is_some() {
            return Err(refuse(ErrorKind::Unsupported, "a", "both erase vectors or none", "one of them"));
        }
        if let Some(ab) = io.find("ab").map(|meta| &meta.layout.shape)
            && (ab.len() != 5 || ab[0] != 2 || ab[1] != batch || heads % ab[2] != 0 || ab[3..] != [tokens, depth])
        {
            return Err(refuse(
                ErrorKind::Shape,
                "ab",
                format!("(2, {batch}, heads, {tokens}, {depth})"),
                format!("{ab:?}"),
            ));
        }
        if (op.decay == Decay::Channel) != io.find("g").is_some()
            || (op.decay == Decay::Scalar) != io.has_table("g_scalar")
        {
            let expected = format!("the table of {:?}", op.decay);
            return Err(refuse(ErrorKind::Unsupported, "decay", expected, "another"));
        }
        Ok(s)
    }
}

/// Whether tokens erase.
pub(super) fn erases(op: &Scan, io: &Io) -> bool {
    op.delta || io.find("a").is_some() || io.find("ab").is_some()
}

/// Whether q·z is needed: for the divisor, or because the caller wants z.
pub(super) fn has_z(op: &Scan, io: &Io) -> bool {
    op.divide != Divide::None || io.find("z").is_some()
}

pub(super) fn launch(op: &Scan, io: &Io, caps: &Caps) -> Result<Launch> {
    let s = Sizes::of(op, io)?;
    let own = io.tables.iter().filter(|t| t.place == Place::Own).count();
    let side = usize::from(io.tables.iter().any(|t| t.place == Place::Side));
    let bindings = io.roles.len() + own + side;
    if bindings > caps.max_storage_bindings as usize {
        let message = format!(
            "scan: {bindings} storage bindings; the device has max_storage_buffers_per_shader_stage of {}",
            caps.max_storage_bindings
        );
        return Err(Error::new(ErrorKind::Limit, message));
    }
    let vectors = s.width.div_ceil(4).next_power_of_two();
    let z = has_z(op, io);
    // A divisor counts the token itself, which a read before the write does not.
    let whole = !(erases(op, io) || op.read_before && op.divide != Divide::None);
    let chunks = op.pass != Pass::Whole || s.tokens.max(s.queries) >= CHUNK;
    match chunk_columns(op, s.depth, s.width, z) {
        Some(columns) if whole && chunks => Ok(chunk(op, io, caps, s, columns, z)),
        _ => recurrent(op, io, caps, s, vectors, z),
    }
}

/// Tokens of a segment for so many heads and tokens: enough segments to fill half of the workgroups (a segment's columns are several), long
/// enough that their states are few bytes
/// beside what they read.
pub(super) fn segment(heads: usize, tokens: usize, workgroups: usize) -> Option<usize> {
    let wanted = (workgroups / 2 / heads.max(1)).min(tokens / SEGMENT);
    (wanted >= 2).then(|| tokens.div_ceil(wanted).next_multiple_of(CHUNK_MOST))
}

/// vec4 of value columns that a workgroup of `scan/chunk` has memory for.
fn chunk_columns(op: &Scan, depth: usize, width: usize, z: bool) -> Option<usize> {
    let most = width.div_ceil(4).next_power_of_two().min(COLUMNS);
    let depth = depth.next_multiple_of(32);
    [4, 2, 1].into_iter().find(|&c| c <= most && chunk_memory(op, depth, c, z) <= MEMORY)
}

/// Whether `scan/chunk` has memory for so deep a state.
pub(super) fn chunk_fits(op: &Scan, depth: usize, width: usize, z: bool) -> bool {
    chunk_columns(op, depth, width, z).is_some()
}

/// Bytes of workgroup memory of `scan/chunk`.
fn chunk_memory(op: &Scan, depth: usize, columns: usize, z: bool) -> usize {
    let vectors = depth * columns + 144 + CHUNK * columns + if op.decay == Decay::Channel { 128 } else { 1 };
    let totals = if op.decay == Decay::Channel { depth } else { 1 };
    let floats = 528 + if z { depth } else { 1 } + 64 + 4 * CHUNK + 4 + totals;
    16 * vectors + 4 * floats
}

fn chunk(op: &Scan, io: &Io, caps: &Caps, s: Sizes, columns: usize, z: bool) -> Launch {
    let depth = s.depth.next_multiple_of(32);
    let tiles = s.width.div_ceil(4 * columns);
    let key_chunks = s.tokens.div_ceil(CHUNK);
    let (sums, segments) = (matches!(op.pass, Pass::Sums(_)), op.pass.segments(s.tokens));
    let chunks = key_chunks + if op.bidirectional { s.queries.div_ceil(CHUNK) } else { 0 };
    let builder = LaunchBuilder::new(op, "scan/chunk", CHUNK_WORKGROUP, io, caps, &TABLES)
        .constant("DEPTH", depth as u32)
        .constant("COLUMNS", columns as u32)
        .constant("FACTORS", if op.decay == Decay::Channel { 128 } else { 1 })
        .constant("NORM", if z { depth as u32 } else { 1 })
        .constant("TOTALS", if sums && op.decay == Decay::Channel { depth as u32 } else { 1 })
        .switch("BIDIRECTIONAL", op.bidirectional)
        .switch("SUMS", sums)
        .import("lib/less_one")
        .import("scan/state")
        .import("scan/state_in")
        .import("scan/addresses")
        .import("scan/common")
        .import("scan/chunk_tile")
        .u32("key_chunks", key_chunks)
        .u32("chunks", chunks);
    common(builder, op, io, s, tiles, z).groups(s.batch * s.heads * segments * tiles)
}

/// The shape of a workgroup of `scan/recurrent`, and the bytes of workgroup memory it needs.
struct Recurrent {
    workgroup: usize,
    /// vec4 of value columns.
    columns: usize,
    /// Rows of the state, rounded up to whole passes of the workgroup.
    depth: usize,
    /// Vectors of `depth` that a token brings.
    kinds: usize,
    fixed: usize,
    /// Bytes a token besides `fixed`.
    token: usize,
}

impl Recurrent {
    fn new(op: &Scan, io: &Io, depth: usize, vectors: usize, (workgroup, widest): (usize, usize)) -> Recurrent {
        // At most 16 rows of a vec4 a thread, so that the state stays in registers.
        let columns =
            [16, 8, 4, 2].into_iter().find(|&c| c <= vectors.min(widest) && depth * c <= 16 * workgroup).unwrap_or(1);
        let depth = depth.next_multiple_of(workgroup / columns).next_multiple_of(32);
        let erase = erases(op, io);
        let kinds = 2 + usize::from(op.decay == Decay::Channel) + if erase { 2 } else { 0 };
        let fixed = 16 * 2 * workgroup * if erase { 2 } else { 1 } + 16 * workgroup / columns + 16;
        Recurrent { workgroup, columns, depth, kinds, fixed, token: 4 * (kinds * depth + 4 * columns + 1) }
    }

    fn fits(&self) -> bool {
        self.fixed + self.token <= MEMORY
    }
}

fn recurrent(op: &Scan, io: &Io, caps: &Caps, s: Sizes, vectors: usize, z: bool) -> Result<Launch> {
    // A few tokens are all state: whole rows of it a workgroup, if it has the memory. Many are all latency: more workgroups.
    let few = s.tokens.max(s.queries) <= FEW;
    let fitting = few.then(|| Recurrent::new(op, io, s.depth, vectors, STEP)).filter(Recurrent::fits);
    let shape = fitting.unwrap_or_else(|| Recurrent::new(op, io, s.depth, vectors, (RECURRENT_WORKGROUP, COLUMNS)));
    if !shape.fits() {
        let deepest = (MEMORY - shape.fixed) / (4 * shape.kinds);
        let message = format!(
            "scan: {} features; a token's vectors must fit 16 KiB of workgroup memory: up to {deepest}",
            s.depth
        );
        return Err(Error::new(ErrorKind::Limit, message));
    }
    let Recurrent { workgroup, columns, depth, kinds, fixed, token } = shape;
    let erase = erases(op, io);
    let tokens = (STAGED / (kinds * depth)).clamp(1, 16).min((MEMORY - fixed) / token);
    let tiles = s.width.div_ceil(4 * columns);
    let shift = if op.bidirectional { s.tokens } else { usize::from(!op.read_before) };
    let reads = if matches!(op.pass, Pass::Sums(_)) { s.tokens } else { s.queries };
    let builder = LaunchBuilder::new(op, "scan/recurrent", workgroup as u32, io, caps, &TABLES)
        .constant("DEPTH", depth as u32)
        .constant("COLUMNS", columns as u32)
        .constant("TOKENS", tokens as u32)
        .constant("VECTORS", kinds as u32)
        .constant("LEFT_PARTS", if erase { 2 * workgroup as u32 } else { 1 })
        .switch("ERASE", erase)
        .switch("DELTA", op.delta)
        .switch("PACKED", io.find("ab").is_some())
        .import("lib/less_one")
        .import("scan/state")
        .import("scan/state_in")
        .import("scan/addresses")
        .import("scan/common")
        .u32("steps", reads + shift)
        .u32("shift", shift)
        .u32("a_share", share(io, s, "a"))
        .u32("b_share", share(io, s, "b"))
        .u32("ab_share", io.find("ab").map_or(1, |meta| s.heads / meta.layout.shape[2]))
        .strides("a", 4)
        .strides("b", 4)
        .strides("ab", 5);
    Ok(common(builder, op, io, s, tiles, z).groups(s.batch * s.heads * tiles))
}

/// What `scan/state` and `scan/common` read.
fn common<'a>(builder: LaunchBuilder<'a>, op: &Scan, io: &Io, s: Sizes, tiles: usize, z: bool) -> LaunchBuilder<'a> {
    states(builder, io, op.pass, op.divide, z, [s.heads, s.tokens, s.depth, s.width])
        .switch("SCALAR", op.decay == Decay::Scalar)
        .switch("CHANNEL", op.decay == Decay::Channel)
        .switch("READ_BEFORE", op.read_before)
        .switch("HAS_WRITE", io.has_table("w"))
        .u32("queries", s.queries)
        .u32("tiles", tiles)
        .u32("q_share", share(io, s, "q"))
        .u32("k_share", share(io, s, "k"))
        .u32("g_share", share(io, s, "g"))
        .f32("scale", op.scale)
        .strides("q", 4)
        .strides("k", 4)
        .strides("g", 4)
}

/// What `scan/state` reads, but for the tiles of a width.
pub(super) fn states<'a>(
    builder: LaunchBuilder<'a>,
    io: &Io,
    pass: Pass,
    divide: Divide,
    z: bool,
    [heads, tokens, depth, width]: [usize; 4],
) -> LaunchBuilder<'a> {
    let (divide, eps) = match divide {
        Divide::None => (0, 0.0),
        Divide::Sum(eps) => (1, eps),
        Divide::AbsMax1 => (2, 0.0),
    };
    let segments = pass.segments(tokens);
    // Places of a head's states: as many as segments, or more.
    let parts = |role: &str| io.find(role).map_or(segments, |meta| (meta.layout.shape[1] / heads).max(segments));
    let (each, parts_in, parts_out) = match pass {
        Pass::Whole => (tokens, 1, 1),
        Pass::Sums(each) => (each, 1, parts("state")),
        Pass::Reads(each) => (each, parts("state_in"), 1),
    };
    builder
        .constant("DIVIDE", divide)
        .switch("HAS_Z", z)
        .switch("STATE_TABLE", io.has_table("s_in"))
        .switch("HAS_KEEP", io.has_table("keep"))
        .u32("heads", heads)
        .u32("tokens", tokens)
        .u32("depth", depth)
        .u32("width", width)
        .u32("segments", segments)
        .u32("segment_tokens", each)
        .u32("parts_in", parts_in)
        .u32("parts_out", parts_out)
        .u32("v_share", heads / io.get("v").layout.shape[1])
        .f32("eps", eps)
        .strides("v", 4)
        .strides("state_in", 4)
        .strides("out", 4)
        .strides("state", 4)
        .strides("z", 3)
        .strides("total", 3)
}

/// State heads that read one head of a role.
fn share(io: &Io, s: Sizes, role: &str) -> usize {
    io.find(role).map_or(1, |meta| s.heads / meta.layout.shape[1])
}

fn refuse(kind: ErrorKind, argument: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
    Error::expected(kind, "scan", argument, expected, found)
}
