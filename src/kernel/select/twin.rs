//! The twins of `select/*`.

use super::launch::{Sizes, shift};
use super::{Reduce, Score, Segments, TopK};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::reals::{Reals, dot};
use crate::kernel::{TwinIo, for_each_row};
use crate::tensor::{HostData, Layout};

/// Candidates whose rows of k are met by all heads while they are in the cache.
const BLOCK: usize = 64;
/// Scores from here down are never taken.
const LOWEST: f32 = -1e30;

pub(super) fn score(op: &Score, io: &mut TwinIo) -> Result<()> {
    let s = Sizes::of(io.io)?;
    let factors = super::factors(op.reduce);
    let (Some(q), Some(k), Some(factors)) = (Reals::of(io, "q"), Reals::of(io, "k"), Reals::of(io, factors)) else {
        return Err(missing("select.score"));
    };
    let list = io.read("list");
    let Some(scores) = io.write_f32("scores") else { return Err(missing("select.score")) };
    let group = s.heads / s.score_heads;
    let (fill, factor) = match op.reduce {
        Reduce::WeightedRelu => (f32::NEG_INFINITY, op.scale),
        Reduce::Probability => (0.0, 1.0),
    };
    for_each_row(scores, s.slots, |r, row| {
        let (b, head, i) = (r / (s.score_heads * s.queries), r / s.queries % s.score_heads, r % s.queries);
        let position = i as i64 + shift(op.tokens, s.queries);
        let seen = |&n: &usize| !op.causal || (n * op.unit + op.lead) as i64 <= position;
        for (block, row) in row.chunks_mut(BLOCK).enumerate() {
            let slots = block * BLOCK..block * BLOCK + row.len();
            let candidates: Vec<Option<usize>> =
                slots.map(|n| candidate(list, [b, head, i], op.list_block, n, s.keys).filter(seen)).collect();
            row.fill(0.0);
            for h in head * group..(head + 1) * group {
                let (query, f) = (q.row(&[b, h, i]), factors.get(&[b, h, i]));
                for (sum, n) in row.iter_mut().zip(&candidates) {
                    let Some(n) = *n else { continue };
                    let x = dot(query, k.row(&[b, head, n]));
                    *sum += match op.reduce {
                        Reduce::WeightedRelu => f * x.max(0.0),
                        // A row without keys has lse = −∞ and gives no probability.
                        Reduce::Probability if f == f32::NEG_INFINITY => 0.0,
                        Reduce::Probability => (op.scale * x - f).exp(),
                    };
                }
            }
            for (sum, n) in row.iter_mut().zip(&candidates) {
                *sum = if n.is_some() { *sum * factor } else { fill };
            }
        }
    });
    Ok(())
}

/// The row of k behind slot `n`, if there is one.
fn candidate(list: Option<(&Layout, &HostData)>, at: [usize; 3], size: usize, n: usize, keys: usize) -> Option<usize> {
    let Some(list) = list else { return Some(n) };
    usize::try_from(mapped(list, at, size, n)).ok().filter(|&row| row < keys)
}

/// Slot `n` through a list of blocks of `size`; negative for an empty place.
fn mapped((layout, data): (&Layout, &HostData), [b, head, i]: [usize; 3], size: usize, n: usize) -> i64 {
    let entry = data.get(layout.at(&[b, head, i, n / size])) as i64;
    entry * size as i64 + if entry < 0 { 0 } else { (n % size) as i64 }
}

pub(super) fn top_k(op: &TopK, io: &mut TwinIo) -> Result<()> {
    let Some(scores) = Reals::of(io, "scores") else { return Err(missing("select.topk")) };
    let list = io.read("list");
    let [_, heads, queries, slots] = io.io.get("scores").layout.shape[..] else { return Err(missing("select.topk")) };
    let places = io.io.get("indices").layout.shape.last().copied().unwrap_or(0);
    let Some(indices) = io.write_i32("indices") else { return Err(missing("select.topk")) };
    for_each_row(indices, places, |r, row| {
        let at = [r / (heads * queries), r / queries % heads, r % queries];
        let position = at[2] as i64 + shift(op.tokens, queries);
        let own =
            if op.causal { (slots as i64 - 1).min(position.div_euclid(op.unit as i64)) } else { slots as i64 - 1 };
        let mut order: Vec<u64> = scores.row(&at)[..(own + 1).max(0) as usize]
            .iter()
            .enumerate()
            .filter_map(|(n, &score)| {
                let forced = n < op.force_first || n as i64 > own - op.force_last as i64;
                // Largest first, ties by slot.
                Some(u64::from(!if forced { key(f32::INFINITY) } else { key_taken(score)? }) << 32 | n as u64)
            })
            .collect();
        if order.len() > places {
            order.select_nth_unstable(places);
            order.truncate(places);
        }
        let mut taken: Vec<usize> = order.iter().map(|&n| n as u32 as usize).collect();
        taken.sort_unstable();
        row.fill(-1);
        for (place, n) in row.iter_mut().zip(taken) {
            *place = list.map_or(n as i32, |list| mapped(list, at, op.list_block, n) as i32);
        }
    });
    Ok(())
}

fn key_taken(score: f32) -> Option<u32> {
    (score > LOWEST).then(|| key(score))
}

/// A number whose order is that of the scores; −0 equals 0.
fn key(score: f32) -> u32 {
    let bits = if score == 0.0 { 0 } else { score.to_bits() };
    if score < 0.0 { !bits } else { bits | 1 << 31 }
}

pub(super) fn segments(op: &Segments, io: &mut TwinIo) -> Result<()> {
    let (Some(cu_q), Some(cu_k)) = (io.read("cu_q"), io.read("cu_k")) else { return Err(missing("select.segments")) };
    let (Some(start), Some(end)) = (io.write_i32("start"), io.write_i32("end")) else {
        return Err(missing("select.segments"));
    };
    let number = |(layout, data): (&Layout, &HostData), n: usize| data.get(layout.at(&[n])) as i32;
    start.fill(0);
    end.fill(0);
    let rows = start.len() as i32;
    for n in 1..cu_q.0.len() {
        let (q, k) = (number(cu_q, n - 1)..number(cu_q, n), number(cu_k, n - 1)..number(cu_k, n));
        let shift = if op.bottom_right { (k.end - k.start) - (q.end - q.start) } else { 0 };
        for row in q.start.max(0)..q.end.min(rows) {
            start[row as usize] = k.start;
            let last = if op.causal { (k.start + row - q.start + shift + 1).max(k.start).min(k.end) } else { k.end };
            end[row as usize] = last;
        }
    }
    Ok(())
}

fn missing(kernel: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("{kernel}: a tensor is missing or has an element type that is not taken"),
    )
}
