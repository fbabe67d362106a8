//! Mask rules on attributes of tokens, and two other exact encodings of a mask in memory linear in the length.

use super::hook;
use crate::hook::{ArgValue, Hook, Twin};
use crate::kernel::key::ScalarType;
use crate::plan::Ref;

/// A rule on attributes of the query and the key. Tables of queries are (B, 1, Lq, 1), of keys (B, 1, 1, Lk); B may be 1.
///
/// ```text
/// order   = (pos_k ≤ pos_q if causal) and pos_q − left ≤ pos_k ≤ pos_q + right,  or k_prefix or pos_k < prefix,  or span_q = span_k ≠ 0
/// scope   = seg_q = seg_k          flags = k_shared or q_global
/// allowed = order and (scope or flags)          or, with flags_override, (order and scope) or flags
/// ```
///
/// What is absent restricts nothing and allows nothing; positions that are absent are the indices.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Later positions are hidden.
    pub causal: bool,
    /// Positions seen before the query's own; absent: all.
    pub left: Option<usize>,
    /// Positions seen after the query's own; absent: all.
    pub right: Option<usize>,
    /// Flags stand in for the order too.
    pub flags_override: bool,
    /// Keys at positions below this are always in order: I32, or a table (B, 1, 1, 1).
    pub prefix: Option<ArgValue>,
    /// Positions, i32.
    pub pos_q: Option<Ref>,
    /// Positions, i32.
    pub pos_k: Option<Ref>,
    /// Segments, i32.
    pub seg_q: Option<Ref>,
    /// Segments, i32.
    pub seg_k: Option<Ref>,
    /// Spans, i32.
    pub span_q: Option<Ref>,
    /// Spans, i32.
    pub span_k: Option<Ref>,
    /// Keys that are always in order.
    pub k_prefix: Option<Ref>,
    /// Keys that every segment sees.
    pub k_shared: Option<Ref>,
    /// Queries that see every segment.
    pub q_global: Option<Ref>,
}

/// The mask of a [`Rule`].
pub fn attributes(rule: Rule) -> Hook {
    let twin = Twin::Mask(|m, row, args| {
        let bits = args[0].i32(0);
        let [left, right, prefix] = [1, 2, 3].map(|n| args[n].i32(0));
        let p = if bits & 4 != 0 { args[4].i32(0) } else { row.query };
        let (seg, span, global) = (args[6].i32(0), args[8].i32(0), args[12].bool(0));
        for (m, &j) in m.iter_mut().zip(row.keys).filter(|(m, _)| **m) {
            let t = if bits & 8 != 0 { args[5].i32(j) } else { j };
            let near = (bits & 1 == 0 || t <= p)
                && (bits & 16 == 0 || p.wrapping_sub(t) <= left)
                && (bits & 32 == 0 || t.wrapping_sub(p) <= right);
            let order = near || args[10].bool(j) || t < prefix || (span != 0 && span == args[9].i32(j));
            let flags = global || args[11].bool(j);
            let scope = seg == args[7].i32(j);
            *m = if bits & 2 != 0 { order && scope || flags } else { order && (scope || flags) };
        }
    });
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    let bits = bit(rule.causal, 1)
        | bit(rule.flags_override, 2)
        | bit(rule.pos_q.is_some(), 4)
        | bit(rule.pos_k.is_some(), 8)
        | bit(rule.left.is_some(), 16)
        | bit(rule.right.is_some(), 32);
    let bound = |n: Option<usize>| ArgValue::I32(n.unwrap_or(0) as i32);
    let number = |r: Option<Ref>| r.map_or(ArgValue::I32(0), |r| ArgValue::Table(r, ScalarType::I32));
    let flag = |r: Option<Ref>| r.map_or(ArgValue::U32(0), |r| ArgValue::Table(r, ScalarType::U32));
    hook!(Mask, "mask", "attributes", twin)
        .arg("rule", ArgValue::U32(bits))
        .arg("left", bound(rule.left))
        .arg("right", bound(rule.right))
        .arg("prefix", rule.prefix.unwrap_or(ArgValue::I32(i32::MIN)))
        .arg("pos_q", number(rule.pos_q))
        .arg("pos_k", number(rule.pos_k))
        .arg("seg_q", number(rule.seg_q))
        .arg("seg_k", number(rule.seg_k))
        .arg("span_q", number(rule.span_q))
        .arg("span_k", number(rule.span_k))
        .arg("k_prefix", flag(rule.k_prefix))
        .arg("k_shared", flag(rule.k_shared))
        .arg("q_global", flag(rule.q_global))
}

/// Pairs inside one of the rectangles `slices` (Ns, 5): q0, q1, k0, k1 and kind 0 full, 1 causal, 2 inverse causal, 3 both.
pub fn slices(slices: &Ref) -> Hook {
    let twin = Twin::Mask(|m, row, args| {
        let i = row.row as i64;
        let number = |n: usize, column: usize| args[1].lookup([0, 0, n, column]) as i64;
        let rows: Vec<_> = (0..args[0].i32(0) as usize)
            .filter(|&n| (number(n, 0)..number(n, 1)).contains(&i))
            .map(|n| {
                let [q0, q1, k0, k1, kind] = [0, 1, 2, 3, 4].map(|column| number(n, column));
                let first = if kind & 2 != 0 { k0 + i - q0 } else { k0 };
                let end = if kind & 1 != 0 { k1.min(k1 + i - q1 + 1) } else { k1 };
                first..end
            })
            .collect();
        m.iter_mut().zip(row.keys).for_each(|(m, &j)| *m &= rows.iter().any(|r| r.contains(&i64::from(j))));
    });
    let table = slices.insert(0).insert(0);
    hook!(Mask, "mask", "slices", twin)
        .arg("count", ArgValue::U32(slices.shape[0] as u32))
        .arg("list", ArgValue::Lookup(table, ScalarType::I32))
}

/// Pairs outside the two ranges of rows that each key is hidden from: `intervals` (Lk, 2, 2), each a start and an end.
pub fn intervals(intervals: &Ref) -> Hook {
    let twin = Twin::Mask(|m, row, args| {
        let i = row.row as i32;
        let hidden = |n: usize, j: i32| args[n].i32(j) <= i && i < args[n + 1].i32(j);
        m.iter_mut().zip(row.keys).for_each(|(m, &j)| *m &= !hidden(0, j) && !hidden(2, j));
    });
    let end = |range: usize, end: usize| {
        let column = intervals.select(2, end).select(1, range);
        ArgValue::Table(column.insert(0).insert(0).insert(0), ScalarType::I32)
    };
    hook!(Mask, "mask", "intervals", twin)
        .arg("start0", end(0, 0))
        .arg("end0", end(0, 1))
        .arg("start1", end(1, 0))
        .arg("end1", end(1, 1))
}
