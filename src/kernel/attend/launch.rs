//! The launch of `attend/decode`, `attend/matrix` or `attend/tile`: which, with which tile, by facts of the device and the problem.

use super::{Attend, Keys, Normaliser, TABLES};
use crate::caps::{Caps, Tier};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, Point};
use crate::kernel::{Io, LaunchBuilder, element};
use crate::tensor::DType;

/// The portable tile's accumulators are 32 vec4 a thread at this width: wider ones would not stay in registers.
const WIDEST: usize = 512;

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

/// A kernel and its tile.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Choice {
    tier: Tier,
    entry: &'static str,
    /// Query rows of a workgroup.
    rows: usize,
    /// Rows of K and V are read 16 bytes a thread.
    wide: bool,
    workgroup: u32,
    consts: Vec<(&'static str, u32)>,
    imports: Vec<&'static str>,
}

/// The portable tile: runs everywhere, takes everything.
fn tile(width: usize, rows: usize, small: bool) -> Choice {
    // Sums of 8 rows x 8 values a thread, or as near as registers and the width allow. `small`: half the rows and more threads, where the
    // larger shader costs more to compile than it gains.
    let workgroup: usize = if width <= 96 && !small { 64 } else { 128 };
    let vecs = width.div_ceil(4).div_ceil(workgroup / 8);
    let each = if small || rows <= 32 || width > 256 { 4 } else { 8 };
    let operands = (8 * each + 64) * 5;
    let keys = [16, 8, 4, 2].into_iter().find(|keys| keys * vecs * workgroup / 8 <= operands).unwrap_or(1);
    Choice {
        tier: Tier::T0,
        entry: "attend/tile",
        wide: false,
        rows: 8 * each,
        workgroup: workgroup as u32,
        consts: vec![("ROWS_EACH", each as u32), ("VALUE_VECS", vecs as u32), ("VALUE_KEYS", keys as u32)],
        imports: vec!["attend/tile_stage", "attend/tile_scores"],
    }
}

/// Rows that a decode step may have, and how wide.
pub(super) const DECODE_ROWS: usize = 16;
const DECODE_WIDEST: usize = 256;

/// A few rows over many keys: bound by the bytes of K and V.
fn decode(io: &Io, rows: usize) -> Option<Choice> {
    let depth = io.get("q").layout.shape[3];
    let width = io.get("v").layout.shape[3];
    if rows > DECODE_ROWS || depth.max(width) > DECODE_WIDEST {
        return None;
    }
    let lanes = depth.max(width).div_ceil(8).next_power_of_two().max(4);
    let packed = rows.next_power_of_two().min(8);
    // As many bytes in flight as registers allow beside Q and the sums of the rows.
    let loads = match packed {
        1 => 8,
        2 | 4 => 4,
        _ => 2,
    };
    let wide = ["k", "v"].iter().all(|role| {
        let layout = &io.get(role).layout;
        let eight = |n: &usize| n.is_multiple_of(8);
        element(io.get(role)).vector
            && eight(&layout.offset)
            && layout.strides[..3].iter().all(eight)
            && eight(&layout.shape[3])
    });
    Some(Choice {
        tier: Tier::T0,
        entry: "attend/decode",
        wide,
        rows: packed,
        workgroup: 128,
        consts: vec![("ROWS", packed as u32), ("LANES", lanes as u32), ("LOADS", loads)],
        imports: vec!["attend/decode_stage"],
    })
}

/// Wider rows do not fit the registers beside Q and the accumulators.
const MATRIX_WIDEST: usize = 256;

/// Cooperative matrices, where the device has them and the problem fills them.
fn matrix(op: &Attend, io: &Io, caps: &Caps, rows: usize) -> Option<Choice> {
    let side = caps.matrix? as usize;
    let lanes = caps.subgroups.filter(|(least, most)| least == most)?.0 as usize;
    let depth = io.get("q").layout.shape[3].div_ceil(side);
    let width = io.get("v").layout.shape[3].div_ceil(side);
    let widest = depth.max(width) * side;
    let halves = ["q", "k", "v"].map(|role| element(io.get(role))).iter().all(|e| e.dtype == DType::F16 && e.vector);
    // A decode step has too few rows for a tile of matrices.
    let fits = halves && lanes.is_multiple_of(side) && widest <= MATRIX_WIDEST && rows > 32;
    // Rows wider than 128 leave registers for half as many: two invocations share one.
    let share = if widest > 128 && lanes >= 2 * side { 2 } else { 1 };
    if !fits || matches!(op.keys, Keys::Tokens { .. }) || lanes / share < side || lanes / share / side > 4 {
        return None;
    }
    // What was best of the tiles tried on one GPU (benches/NOTES.md): narrow rows leave registers for several workgroups a processor,
    // which hide each other's barriers; wide ones need many subgroups to share what is staged.
    let invocations: usize = if widest > 64 { 256 } else { 128 };
    for invocations in [invocations, invocations / 2] {
        let subgroups = invocations / lanes;
        let tile = invocations / share;
        let staged = 2 * side * ((depth * side + 8) + (width * side + 8)) * 2;
        let bytes = staged + tile * (side + 4) * (4 + 2) + subgroups * 16 + 16;
        if bytes > caps.max_workgroup_memory as usize || invocations > caps.max_invocations as usize || subgroups == 0 {
            continue;
        }
        return Some(Choice {
            tier: Tier::T2,
            entry: "attend/matrix",
            wide: false,
            rows: tile,
            workgroup: invocations as u32,
            consts: vec![
                ("SUBGROUPS", subgroups as u32),
                ("ROW_TILES", (lanes / share / side) as u32),
                ("SHARE", share as u32),
                ("DEPTH_TILES", depth as u32),
                ("VALUE_TILES", width as u32),
            ],
            imports: vec![
                if side == 16 { "attend/matrix_16" } else { "attend/matrix_8" },
                "attend/matrix_stage",
                "attend/matrix_rows",
            ],
        });
    }
    None
}

pub(super) fn launch(op: &Attend, io: &Io, caps: &Caps) -> Result<Launch> {
    let [batch, heads, queries, depth] = io.get("q").layout.shape[..] else { return Err(rank("q")) };
    let [_, kv_heads, keys, _] = io.get("k").layout.shape[..] else { return Err(rank("k")) };
    let [.., width] = io.get("v").layout.shape[..] else { return Err(rank("v")) };
    if width > WIDEST {
        let message = format!("attend: Dv = {width}; the kernel holds values up to {WIDEST} wide");
        return Err(Error::new(ErrorKind::Limit, message));
    }
    let p = packing(op, io);
    let rows = p.pack * p.block_rows;
    let choice = decode(io, rows)
        .or_else(|| matrix(op, io, caps, rows))
        .unwrap_or_else(|| tile(width, rows, caps.software || !io.hooks.is_empty()));
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
    if choice.tier == Tier::T2 {
        // The factor joins the exponent where nothing stands between them.
        let exponent = op.scale * std::f32::consts::LOG2_E;
        let fused = softmax && !scored && exponent > 1e-10;
        let exact = depth.is_multiple_of(caps.matrix.unwrap_or(16) as usize);
        builder = builder
            .switch("FUSED", fused)
            .switch("EXACT", exact)
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
            .u32("block_keys", block_keys)
            .strides("indptr", 3)
            .strides("indices", if csr { 3 } else { 4 });
        if csr {
            // The mask's accessor names an axis that CSR lists do not have.
            builder = builder.u32("indices_s3", 1);
        }
    }
    Ok(builder.groups(groups))
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
