//! A call, resolved once: sizes, memory with layouts, hooks with their arguments, and the keys that a row may see.

use super::keys::Span;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::TwinIo;
use crate::kernel::attend::{Attend, Keys, Normaliser};
use crate::kernel::calls::{Call, calls};
use crate::kernel::key::Point;
use crate::tensor::{HostData, Layout};
use half::f16;

/// Memory with a layout.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    pub data: &'a HostData,
    pub layout: &'a Layout,
}

impl Table<'_> {
    pub fn get(&self, index: &[usize]) -> f64 {
        self.data.get(self.layout.at(index))
    }
}

/// Rows of f32 or f16.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub data: Floats<'a>,
    pub layout: &'a Layout,
}

#[derive(Clone, Copy)]
pub(super) enum Floats<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

impl<'a> Source<'a> {
    fn new(io: &TwinIo<'a>, role: &str) -> Result<Self> {
        let fail = |kind, expected: &str| Err(Error::new(kind, format!("attend: `{role}`: expected {expected}")));
        let Some((layout, data)) = io.read(role) else { return fail(ErrorKind::MissingInput, "a tensor") };
        if layout.shape.len() != 4 || layout.end() > data.len() {
            return fail(ErrorKind::Shape, "rank 4 inside its memory");
        }
        let data = match data {
            HostData::F32(v) => Floats::F32(v),
            HostData::F16(v) => Floats::F16(v),
            _ => return fail(ErrorKind::DType, "f32 or f16"),
        };
        Ok(Source { data, layout })
    }

    /// Whether rows can be read where they lie.
    pub fn direct(&self) -> bool {
        matches!(self.data, Floats::F32(_)) && (self.layout.strides[3] == 1 || self.layout.shape[3] <= 1)
    }
}

/// A query row of one head, and the keys that it may see before lists and mask hooks.
#[derive(Clone, Copy, Default)]
pub(super) struct QueryRow {
    pub head: usize,
    pub row: usize,
    /// Aligned position.
    pub query: i32,
    pub band: Span,
    /// The prefix where the band does not cover or touch it, else empty.
    pub early: Span,
}

impl QueryRow {
    pub fn sees(&self, key: i32) -> bool {
        self.band.contains(key) || self.early.contains(key)
    }

    pub fn sees_all(&self, keys: Span) -> bool {
        self.band.covers(keys) || self.early.covers(keys)
    }
}

pub(super) struct Setup<'a> {
    pub op: Attend,
    pub batch: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub depth: usize,
    pub width: usize,
    /// Query heads a KV head.
    pub group: usize,
    /// Query heads whose rows are worked on together.
    pub pack: usize,
    /// Queries that share a list of keys.
    pub block_rows: usize,
    /// Query heads a list.
    pub list_group: usize,
    pub q: Source<'a>,
    pub k: Source<'a>,
    pub v: Source<'a>,
    pub indptr: Option<Table<'a>>,
    pub indices: Option<Table<'a>>,
    pub sink: Option<Table<'a>>,
    pub score: Vec<Call<'a>>,
    pub weight: Vec<Call<'a>>,
    pub mask: Vec<Call<'a>>,
    row_start: Option<Table<'a>>,
    row_end: Option<Table<'a>>,
    lengths: Option<Table<'a>>,
}

impl<'a> Setup<'a> {
    pub fn new(op: &Attend, io: &TwinIo<'a>) -> Result<Self> {
        let (q, k, v) = (Source::new(io, "q")?, Source::new(io, "k")?, Source::new(io, "v")?);
        let [batch, heads, queries, depth] = q.layout.shape[..] else { return Err(sizes("q")) };
        let [_, kv_heads, keys, _] = k.layout.shape[..] else { return Err(sizes("k")) };
        let width = v.layout.shape[3];
        if k.layout.shape != [batch, kv_heads, keys, depth] {
            return Err(sizes("k"));
        }
        if v.layout.shape[..3] != [batch, kv_heads, keys] {
            return Err(sizes("v"));
        }
        if heads > 0 && (kv_heads == 0 || !heads.is_multiple_of(kv_heads)) {
            return Err(sizes("q"));
        }
        if i32::try_from(keys.max(queries)).is_err() {
            return Err(Error::new(ErrorKind::Limit, "attend: lengths are below 2^31"));
        }
        let role = |name: &str| io.read(name).map(|(layout, data)| Table { data, layout });
        let table = |name: &str| {
            let at = io.io.tables.iter().position(|t| t.name == name)?;
            Some(Table { data: io.tables[at], layout: &io.io.tables[at].meta.layout })
        };
        let (indptr, indices) = (role("indptr"), role("indices"));
        if op.keys != Keys::Range && indices.is_none() {
            return Err(Error::new(ErrorKind::MissingInput, "attend: lists of keys need `indices`"));
        }
        let list_heads = indices.filter(|_| op.keys != Keys::Range).map_or(1, |t| t.layout.shape[1]).max(1);
        let (group, list_group) = (heads / kv_heads.max(1), (heads / list_heads).max(1));
        let block_rows = match op.keys {
            Keys::Range => queries,
            Keys::Blocks { queries, .. } => queries,
            Keys::Tokens { .. } => 1,
        };
        Ok(Setup {
            op: *op,
            batch,
            heads,
            queries,
            keys,
            depth,
            width,
            group,
            // Rows that are worked on together share both the KV head and the list.
            pack: common_divisor(group, list_group),
            block_rows: block_rows.clamp(1, queries.max(1)),
            list_group,
            q,
            k,
            v,
            indptr,
            indices,
            sink: table("sink"),
            score: calls(io, "attend", Point::Score)?,
            weight: calls(io, "attend", Point::Weight)?,
            mask: calls(io, "attend", Point::Mask)?,
            row_start: table("row_start"),
            row_end: table("row_end"),
            lengths: table("lengths"),
        })
    }

    pub fn softmax(&self) -> bool {
        self.op.normaliser == Normaliser::Softmax
    }

    pub fn splits(&self) -> usize {
        self.op.splits.max(1)
    }

    pub fn kv_head(&self, head: usize) -> usize {
        head / self.group
    }

    /// Keys in use of a batch entry.
    fn limit(&self, batch: usize) -> i64 {
        let keys = self.keys as i64;
        self.lengths.map_or(keys, |t| (t.get(&[batch, 0, 0, 0]) as i64).clamp(0, keys))
    }

    /// The row's position, and the keys lo <= j < hi that it may see before prefix, lists and mask hooks.
    pub fn bounds(&self, batch: usize, head: usize, row: usize) -> (i64, i64, i64) {
        let limit = self.limit(batch);
        let query = row as i64 + if self.op.bottom_right { limit - self.queries as i64 } else { 0 };
        let (mut lo, mut hi) = (0, limit);
        if self.op.causal {
            hi = hi.min(query + 1);
        }
        if let Some(left) = self.op.window_left {
            lo = lo.max(query.saturating_sub_unsigned(left as u64));
        }
        if let Some(right) = self.op.window_right {
            hi = hi.min(query.saturating_add_unsigned(right as u64).saturating_add(1));
        }
        lo = self.row_start.map_or(lo, |t| lo.max(t.get(&[batch, head, row, 0]) as i64));
        hi = self.row_end.map_or(hi, |t| hi.min(t.get(&[batch, head, row, 0]) as i64));
        (query, lo, hi)
    }

    /// The keys of a split.
    pub fn part(&self, split: usize) -> Span {
        let size = self.keys.div_ceil(self.splits());
        Span::of((split * size) as i64, ((split + 1) * size).min(self.keys) as i64)
    }

    /// The row's position and what it may see of a split.
    pub fn query_row(&self, split: usize, batch: usize, head: usize, row: usize) -> QueryRow {
        let (query, lo, hi) = self.bounds(batch, head, row);
        let mut early = (self.op.prefix as i64).min(self.limit(batch));
        if self.op.causal {
            early = early.min(query + 1);
        }
        let part = self.part(split);
        let mut band = Span::of(lo, hi).and(part);
        let mut early = Span::of(0, early).and(part);
        if band.is_empty() || early.is_empty() || early.hi >= band.lo {
            band = band.hull(early);
            early = Span::default();
        }
        QueryRow { head, row, query: query as i32, band, early }
    }

    /// Keys of a tile: packed, K and V take 128 KiB of the second cache; streamed (`few` rows), 32 KiB.
    pub fn tile_keys(&self, few: bool) -> usize {
        let width = (self.depth + self.width).max(1);
        let size = if few { 8 << 10 } else { 32 << 10 };
        (size / width).clamp(64, 256) / 64 * 64
    }
}

fn common_divisor(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

fn sizes(role: &str) -> Error {
    Error::expected(
        ErrorKind::Shape,
        "attend",
        role,
        "q (B, H, Lq, D), k (B, Hk, Lk, D), v (B, Hk, Lk, Dv)",
        "other sizes",
    )
}
