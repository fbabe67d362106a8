//! The launch of `attend/decode`, `attend/decode_matrix`, `attend/matrix` or `attend/tile`.

use super::choice::choices;
use super::{Attend, Keys, Normaliser, TABLES};
use crate::caps::{Caps, Tier};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, Point};
use crate::kernel::{Io, LaunchBuilder};

/// The portable tile's accumulators are 32 vec4 a thread at this width: wider ones would not stay in registers.
const WIDEST: usize = 512;

/// What a reader of the plan wants to know: the choice, and what was passed over.
pub(super) fn reasons(op: &Attend, io: &Io, caps: &Caps) -> Vec<String> {
    let p = packing(op, io);
    let (choices, refusals) = choices(op, io, caps, p.pack * p.block_rows);
    let chosen =
        choices.first().map(|c| format!("{}, {} rows a workgroup of {}: {}", c.entry, c.rows, c.workgroup, c.why));
    chosen.into_iter().chain(refusals.iter().map(|(entry, why)| format!("not {entry}: {why}"))).collect()
}

/// Rows that one block of packed rows holds, and how many query heads are packed.
struct Packing {
    pack: usize,
    block_rows: usize,
    row_blocks: usize,
    list_heads: usize,
}

fn packing(op: &Attend, io: &Io) -> Packing {
    let q = &io.get("q").layout.shape;
    let (heads, group) = (q[1], q[1] / io.get("k").layout.shape[1]);
    let list_heads = io.find("indices").map_or(1, |m| m.layout.shape[1]);
    // The rows of a packed tile share one list: as many heads are packed as do.
    let pack = if op.keys == Keys::Range { group } else { common(group, heads / list_heads.max(1)) };
    let block_rows = match op.keys {
        Keys::Range => q[2],
        Keys::Blocks { queries, .. } => queries,
        Keys::Tokens { .. } => 1,
    };
    Packing { pack, block_rows, row_blocks: q[2].div_ceil(block_rows), list_heads }
}

/// Greatest common divisor.
fn common(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common(b, a % b) }
}

/// The launch of the n-th choice.
pub(super) fn launch(op: &Attend, io: &Io, caps: &Caps, n: usize) -> Result<Option<Launch>> {
    let [batch, heads, queries, depth] = io.get("q").layout.shape[..] else { return Err(rank("q")) };
    let [_, kv_heads, keys, _] = io.get("k").layout.shape[..] else { return Err(rank("k")) };
    let [.., width] = io.get("v").layout.shape[..] else { return Err(rank("v")) };
    if width > WIDEST {
        let message = format!("attend: Dv = {width}; the kernel holds values up to {WIDEST} wide");
        return Err(Error::new(ErrorKind::Limit, message));
    }
    let p = packing(op, io);
    let rows = p.pack * p.block_rows;
    let Some(choice) = choices(op, io, caps, rows).0.into_iter().nth(n) else { return Ok(None) };
    let tiles = (p.pack * p.block_rows).div_ceil(choice.rows);
    let groups = op.splits * batch * (heads / p.pack) * p.row_blocks * tiles;
    let index = |value: Option<usize>| value.map_or(-1, |n| n as i64);
    let list = |axis: usize| io.find("indices").map_or(0, |m: &crate::kernel::Meta| m.layout.shape[axis]);
    let csr = io.find("indptr").is_some();
    let (source, list_length, list_blocks, block_keys) = match op.keys {
        Keys::Range => ("attend/keys_range", 0, 0, 1),
        Keys::Blocks { keys: size, .. } if csr => ("attend/keys_blocks", list(2), keys.div_ceil(size), size),
        Keys::Blocks { keys: size, .. } => ("attend/keys_blocks", list(3), list(3), size),
        Keys::Tokens { block } => ("attend/keys_tokens", list(3), 0, block),
    };
    let softmax = op.normaliser == Normaliser::Softmax;
    let mut builder = LaunchBuilder::new(op, choice.entry, choice.workgroup, io, caps, &TABLES).tier(choice.tier);
    for (name, value) in &choice.consts {
        builder = builder.constant(name, *value);
    }
    for file in &choice.imports {
        builder = builder.import(file);
    }
    let scored = io.hooks.iter().any(|h| h.point == Point::Score);
    if choice.entry != "attend/decode" {
        // The factor joins the exponent where nothing stands between them.
        let exponent = op.scale * std::f32::consts::LOG2_E;
        let fused = softmax && !scored && exponent > 1e-10;
        let step = if choice.tier == Tier::T2 { caps.matrix.unwrap_or(16) as usize } else { 16 };
        let aligned = op.keys != Keys::Range && op.prefix == 0 && block_keys.is_multiple_of(step);
        builder = builder
            .switch("FUSED", fused)
            .switch("ALIGNED", aligned && choice.tier == Tier::T2)
            .switch("EXACT", depth.is_multiple_of(step))
            .f32("exponent", exponent)
            .f32("masked", (-1e30 / exponent).max(-3e38));
    }
    let mut builder = builder
        .switch("SOFTMAX", softmax)
        .switch("HAS_PREFIX", op.prefix > 0)
        .switch("HAS_SCORE", scored)
        .switch("WIDE", choice.wide)
        .switch("RUN", op.keys == Keys::Range && op.prefix == 0)
        .switch("BOTTOM_RIGHT", op.bottom_right)
        .switch("HAS_MASK", io.hooks.iter().any(|h| h.point == Point::Mask))
        .switch("HAS_ROW_START", io.has_table("row_start"))
        .switch("HAS_ROW_END", io.has_table("row_end"))
        .switch("HAS_LENGTHS", io.has_table("lengths"))
        .u32("batch", batch)
        .u32("heads", heads)
        .u32("group", heads / kv_heads)
        .u32("pack", p.pack)
        .u32("queries", queries)
        .u32("keys", keys)
        .u32("depth", depth)
        .u32("width", width)
        .u32("block_rows", p.block_rows)
        .u32("row_blocks", p.row_blocks)
        .u32("tiles_per_block", tiles)
        .u32("split_keys", keys.div_ceil(op.splits))
        .u32("splits", op.splits)
        .u32("block_keys", block_keys)
        .u32("causal", usize::from(op.causal))
        .i32("window_left", index(op.window_left))
        .i32("window_right", index(op.window_right))
        .i32("prefix", op.prefix.min(keys) as i64)
        .u32("sinks", sinks(io))
        .f32("scale", op.scale)
        .f32("neg_inf", f32::NEG_INFINITY)
        .strides("q", 4)
        .strides("k", 4)
        .strides("v", 4)
        .strides("out", 5)
        .strides("lse", 4)
        .strides("mass", 4)
        .import("attend/rows")
        .import("attend/finish")
        .import(source);
    if op.keys != Keys::Range {
        builder = builder
            .switch("CSR", csr)
            .u32("list_heads", p.list_heads)
            .u32("list_length", list_length)
            .u32("list_blocks", list_blocks)
            .strides("indptr", 3)
            .strides("indices", if csr { 3 } else { 4 });
        if csr {
            // The mask's accessor names an axis that CSR lists do not have.
            builder = builder.u32("indices_s3", 1);
        }
    }
    Ok(Some(builder.groups(groups)))
}

/// Sink logits a head.
pub(super) fn sinks(io: &Io) -> usize {
    io.tables.iter().find(|t| t.name == "sink").map_or(0, |t| t.meta.layout.shape[3])
}

/// Allowed pairs: exact for causality, windows and token lists, an upper bound where a hook or a list decides at run time.
pub(super) fn pairs(op: &Attend, io: &Io) -> f64 {
    let [batch, heads, queries, _] = io.get("q").layout.shape[..] else { return 0.0 };
    let keys = io.get("k").layout.shape[2] as i64;
    let per_row: f64 = match op.keys {
        Keys::Tokens { block } => (queries * (io.get("indices").layout.shape[3] * block).min(keys as usize)) as f64,
        _ => (0..queries as i64)
            .map(|i| {
                let at = if op.bottom_right { i + keys - queries as i64 } else { i };
                let mut hi = if op.causal { keys.min(at + 1) } else { keys };
                hi = op.window_right.map_or(hi, |r| hi.min(at + r as i64 + 1)).max(0);
                let lo = op.window_left.map_or(0, |l| (at - l as i64).max(0)).min(hi);
                (hi - lo + lo.min(op.prefix as i64)) as f64
            })
            .sum(),
    };
    per_row * (batch * heads) as f64
}

fn rank(role: &str) -> Error {
    Error::expected(ErrorKind::Shape, "attend", role, "rank 4", "another rank")
}
