//! Sets of keys: spans, the runs of keys that a block of rows visits, and tiles cut from them.

use super::setup::{QueryRow, Setup};
use crate::kernel::attend::Keys;

/// Keys or slots `lo <= j < hi`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub lo: i32,
    pub hi: i32,
}

impl Span {
    /// Clamped to i32; empty when `hi <= lo`.
    pub fn of(lo: i64, hi: i64) -> Self {
        let cut = |x: i64| x.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
        if hi <= lo { Span::default() } else { Span { lo: cut(lo), hi: cut(hi) } }
    }

    pub fn is_empty(self) -> bool {
        self.hi <= self.lo
    }

    pub fn len(self) -> usize {
        if self.is_empty() { 0 } else { (self.hi - self.lo) as usize }
    }

    pub fn contains(self, j: i32) -> bool {
        self.lo <= j && j < self.hi
    }

    pub fn covers(self, other: Span) -> bool {
        other.is_empty() || (self.lo <= other.lo && other.hi <= self.hi)
    }

    pub fn and(self, other: Span) -> Self {
        let both = Span { lo: self.lo.max(other.lo), hi: self.hi.min(other.hi) };
        if both.is_empty() { Span::default() } else { both }
    }

    /// The smallest span around both; an empty one does not count.
    pub fn hull(self, other: Span) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            _ => Span { lo: self.lo.min(other.lo), hi: self.hi.max(other.hi) },
        }
    }

    /// Slots instead of keys, for a run that starts at `key` in `slot`.
    fn slots(self, key: i32, slot: usize) -> Self {
        if self.is_empty() { self } else { Span { lo: self.lo - key + slot as i32, hi: self.hi - key + slot as i32 } }
    }
}

/// A block of packed rows that share their keys: row p is query `query + p / pack` of head `head + p % pack`.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub split: usize,
    pub batch: usize,
    /// First query head.
    pub head: usize,
    /// First query of the block, whose number is `block`.
    pub query: usize,
    pub block: usize,
    /// First packed row, and how many.
    pub first: usize,
    pub count: usize,
}

impl Block {
    pub fn rows(&self, setup: &Setup, to: &mut Vec<QueryRow>) {
        to.clear();
        to.extend((self.first..self.first + self.count).map(|p| {
            let (head, row) = (self.head + p % setup.pack, self.query + p / setup.pack);
            setup.query_row(self.split, self.batch, head, row)
        }));
    }

    /// Whether a block mask says that the mask hooks allow all of these keys to all rows of the block.
    pub fn unmasked(&self, setup: &Setup, keys: &[i32]) -> bool {
        let (Keys::Blocks { keys: size, .. }, Some(list), None) = (setup.op.keys, setup.indices, setup.indptr) else {
            return setup.mask.is_empty();
        };
        let head = self.head / setup.list_group;
        let full = |block: i32| list.get(&[self.batch, head, self.block, block as usize]) == 2.0;
        let mut last = -1;
        keys.iter().map(|key| key / size as i32).all(|block| {
            let known = block == last;
            last = block;
            known || full(block)
        })
    }

    /// The runs of keys, in order, that at least one of the rows may see; consecutive ones are joined.
    pub fn runs(&self, setup: &Setup, rows: &[QueryRow], to: &mut Vec<Span>) {
        to.clear();
        let band = rows.iter().fold(Span::default(), |hull, row| hull.hull(row.band));
        let early = rows.iter().fold(Span::default(), |hull, row| hull.hull(row.early));
        let parts =
            if early.is_empty() || early.hi >= band.lo { [band.hull(early), Span::default()] } else { [early, band] };
        let mut push = |run: Span| {
            for part in parts {
                let run = run.and(part);
                match to.last_mut() {
                    _ if run.is_empty() => {}
                    Some(last) if last.hi == run.lo => last.hi = run.hi,
                    _ => to.push(run),
                }
            }
        };
        let keys = setup.keys as i64;
        let (batch, head) = (self.batch, self.head / setup.list_group);
        let (Some(list), true) = (setup.indices, setup.op.keys != Keys::Range) else {
            return push(Span::of(0, keys));
        };
        match (setup.op.keys, setup.indptr) {
            (Keys::Blocks { keys: size, .. }, Some(indptr)) => {
                let (size, length) = (size as i64, list.layout.shape[2] as i64);
                let first = indptr.get(&[batch, head, self.block]) as i64;
                let count = (indptr.get(&[batch, head, self.block + 1]) as i64 - first).clamp(0, length);
                for at in first.max(0)..(first + count).min(length) {
                    let block = list.get(&[batch, head, at as usize]) as i64;
                    if 0 <= block && block * size < keys {
                        push(Span::of(block * size, (block * size + size).min(keys)));
                    }
                }
            }
            (Keys::Blocks { keys: size, .. }, None) => {
                let size = size as i64;
                for n in 0..list.layout.shape[3] as i64 {
                    if n * size < keys && list.get(&[batch, head, self.block, n as usize]) != 0.0 {
                        push(Span::of(n * size, (n * size + size).min(keys)));
                    }
                }
            }
            (Keys::Tokens { block: size }, _) => {
                let size = size as i64;
                for n in 0..list.layout.shape[3] {
                    let first = (list.get(&[batch, head, self.block, n]) as i64).saturating_mul(size);
                    if 0 <= first && first < keys {
                        push(Span::of(first, (first + size).min(keys)));
                    }
                }
            }
            (Keys::Range, _) => {}
        }
    }
}

/// Some keys that are worked on at once.
#[derive(Default)]
pub(super) struct Tile {
    /// Key of each slot.
    pub keys: Vec<i32>,
    /// First slot and keys of each run.
    runs: Vec<(usize, Span)>,
    /// Around all keys.
    pub hull: Span,
}

/// Beyond so many runs a tile is not trimmed to what its rows see.
const TRIMMED_RUNS: usize = 16;

impl Tile {
    /// The next up to `most` keys of `runs` from place `at` (run, keys used of it), of at most `left` that remain.
    pub fn fill(&mut self, runs: &[Span], at: &mut (usize, usize), left: &mut usize, most: usize) -> bool {
        self.keys.clear();
        self.runs.clear();
        self.hull = Span::default();
        let most = most.min(*left);
        while self.keys.len() < most && at.0 < runs.len() {
            let run = Span { lo: runs[at.0].lo + at.1 as i32, hi: runs[at.0].hi };
            let slot = self.keys.len();
            let taken = run.len().min(most - slot);
            let part = Span { lo: run.lo, hi: run.lo + taken as i32 };
            self.runs.push((slot, part));
            self.keys.extend(part.lo..part.hi);
            self.hull = self.hull.hull(part);
            *at = if taken == run.len() { (at.0 + 1, 0) } else { (at.0, at.1 + taken) };
        }
        *left -= self.keys.len();
        !self.keys.is_empty()
    }

    /// Slots around everything that the rows may see.
    pub fn slots(&self, rows: &[QueryRow]) -> Span {
        let all = Span { lo: 0, hi: self.keys.len() as i32 };
        if self.runs.len() > TRIMMED_RUNS {
            return all;
        }
        let mut slots = Span::default();
        for &(slot, run) in &self.runs {
            for row in rows {
                slots = slots.hull(run.and(row.band).slots(run.lo, slot));
                slots = slots.hull(run.and(row.early).slots(run.lo, slot));
            }
            if slots == all {
                break;
            }
        }
        slots
    }

    /// Whether the row sees every key in `slots`.
    pub fn seen(&self, row: &QueryRow, slots: Span) -> bool {
        let keys = match self.runs[..] {
            [(_, run)] => Span { lo: run.lo + slots.lo, hi: run.lo + slots.hi },
            _ => self.hull,
        };
        row.sees_all(keys)
    }

    /// Sets what the row does not see; `values` starts at slot `slots.lo`.
    pub fn hide(&self, row: &QueryRow, slots: Span, values: &mut [f32], masked: f32) {
        if let ([(_, run)], true) = (&self.runs[..], row.early.is_empty()) {
            let seen = run.and(row.band).slots(run.lo, 0).and(slots);
            let (lo, hi) = if seen.is_empty() { (0, 0) } else { (seen.lo - slots.lo, seen.hi - slots.lo) };
            values[..lo as usize].fill(masked);
            values[hi as usize..].fill(masked);
            return;
        }
        for (value, &key) in values.iter_mut().zip(&self.keys[slots.lo as usize..]) {
            if !row.sees(key) {
                *value = masked;
            }
        }
    }
}
