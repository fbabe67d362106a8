//! The launches of `select/*`.

use super::{Reduce, Score, Segments, TopK};
use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::Launch;
use crate::kernel::{Io, LaunchBuilder};

/// Candidates of a tile of `select/score`, and its widest number of rows.
const TILE_N: usize = 64;
const TILE_Q: usize = 64;
const SCORE_WORKGROUP: u32 = 128;
/// One bin of the histogram an invocation.
const TOPK_WORKGROUP: u32 = 256;
const SEGMENTS_WORKGROUP: u32 = 64;

/// Sizes of a score stage.
pub(super) struct Sizes {
    pub batch: usize,
    pub heads: usize,
    /// Heads of k and of the scores.
    pub score_heads: usize,
    pub queries: usize,
    pub depth: usize,
    /// Rows of k.
    pub keys: usize,
    /// Candidates of a query.
    pub slots: usize,
}

impl Sizes {
    pub(super) fn of(io: &Io) -> Result<Self> {
        let [batch, heads, queries, depth] = io.get("q").layout.shape[..] else { return Err(rank("q", 4)) };
        let [_, score_heads, keys, _] = io.get("k").layout.shape[..] else { return Err(rank("k", 4)) };
        let [.., slots] = io.get("scores").layout.shape[..] else { return Err(rank("scores", 4)) };
        Ok(Sizes { batch, heads, score_heads, queries, depth, keys, slots })
    }
}

/// Rows of a tile and heads packed in it, both powers of two: few queries pack many heads.
fn tile(sizes: &Sizes, list: bool) -> (usize, usize) {
    let group = (sizes.heads / sizes.score_heads).next_power_of_two();
    // Every query has candidates of its own in a list, so that a tile holds one query.
    let queries = if list { 1 } else { sizes.queries.next_power_of_two() };
    let rows = (queries * group).clamp(8, TILE_Q);
    let pack = if list { rows } else { (rows / queries).clamp(1, group) };
    (rows, pack)
}

pub(super) fn score(op: &Score, io: &Io, caps: &Caps) -> Result<Launch> {
    let s = Sizes::of(io)?;
    let factors = super::factors(op.reduce);
    if io.find(factors).is_none() {
        let message = format!("select.score: {:?} needs `{factors}`", op.reduce);
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let list = io.find("list").is_some();
    let (rows, pack) = tile(&s, list);
    let queries = rows / pack;
    let (query_tiles, slot_tiles) = (s.queries.div_ceil(queries), s.slots.div_ceil(TILE_N));
    Ok(LaunchBuilder::new(op, "select/score", SCORE_WORKGROUP, io, caps, &[])
        .constant("ROWS", (rows / 8) as u32)
        .constant("PACK", pack as u32)
        .switch("WEIGHTED_RELU", op.reduce == Reduce::WeightedRelu)
        .switch("HAS_LIST", list)
        .u32("score_heads", s.score_heads)
        .u32("group", s.heads / s.score_heads)
        .u32("queries", s.queries)
        .u32("depth", s.depth)
        .u32("keys", s.keys)
        .u32("slots", s.slots)
        .u32("query_tiles", query_tiles)
        .u32("slot_tiles", slot_tiles)
        .u32("causal", usize::from(op.causal))
        .i32("shift", shift(op.tokens, s.queries))
        .i32("unit", op.unit as i64)
        .i32("lead", op.lead as i64)
        .u32("list_block", op.list_block.max(1))
        .f32("scale", op.scale)
        .f32("neg_inf", f32::NEG_INFINITY)
        .strides("q", 4)
        .strides("k", 4)
        .strides("w", 3)
        .strides("lse", 3)
        .strides("list", 4)
        .strides("scores", 4)
        .groups(s.batch * s.score_heads * query_tiles * slot_tiles))
}

/// Pairs of a query head and a candidate: exact for causality, an upper bound for lists.
pub(super) fn pairs(op: &Score, io: &Io) -> f64 {
    let Ok(s) = Sizes::of(io) else { return 0.0 };
    let seen = |i: usize| {
        let room = i as i64 + shift(op.tokens, s.queries) - op.lead as i64;
        if room < 0 { 0 } else { (room as usize / op.unit.max(1) + 1).min(s.slots) }
    };
    let per_head: usize = match io.find("list").is_some() || !op.causal {
        true => s.queries * s.slots,
        false => (0..s.queries).map(seen).sum(),
    };
    per_head as f64 * (s.batch * s.heads) as f64
}

pub(super) fn top_k(op: &TopK, io: &Io, caps: &Caps) -> Result<Launch> {
    let [batch, heads, queries, slots] = io.get("scores").layout.shape[..] else { return Err(rank("scores", 4)) };
    let [.., places] = io.get("indices").layout.shape[..] else { return Err(rank("indices", 4)) };
    let forced = |n: usize| n.min(slots) as i64;
    Ok(LaunchBuilder::new(op, "select/topk", TOPK_WORKGROUP, io, caps, &[])
        .switch("HAS_LIST", io.find("list").is_some())
        .u32("heads", heads)
        .u32("queries", queries)
        .u32("slots", slots)
        .u32("places", places)
        .u32("taken", places.min(slots))
        .u32("causal", usize::from(op.causal))
        .i32("shift", shift(op.tokens, queries))
        .i32("unit", op.unit as i64)
        .i32("force_first", forced(op.force_first))
        .i32("force_last", forced(op.force_last))
        .u32("list_block", op.list_block.max(1))
        .strides("scores", 4)
        .strides("list", 4)
        .strides("indices", 4)
        .groups(batch * heads * queries))
}

pub(super) fn segments(op: &Segments, io: &Io, caps: &Caps) -> Result<Launch> {
    let rows = io.get("start").layout.len();
    Ok(LaunchBuilder::new(op, "select/segments", SEGMENTS_WORKGROUP, io, caps, &[])
        .i32("rows", rows as i64)
        .u32("sequences", io.get("cu_q").layout.len() - 1)
        .u32("causal", usize::from(op.causal))
        .u32("bottom_right", usize::from(op.bottom_right))
        .strides("cu_q", 1)
        .strides("cu_k", 1)
        .strides("start", 1)
        .strides("end", 1)
        .groups(rows.div_ceil(SEGMENTS_WORKGROUP as usize)))
}

/// The position of query 0 on the axis of the tokens.
pub(super) fn shift(tokens: usize, queries: usize) -> i64 {
    tokens as i64 - queries as i64
}

fn rank(role: &str, n: usize) -> Error {
    Error::expected(ErrorKind::Shape, "select", role, format!("rank {n}"), "another rank")
}
