//! The chunk form. Decays are running products between two tokens, never quotients, so that nothing overflows.

use super::product::{dot, multiply};
use super::{Part, Source, less_one};
use crate::kernel::scan::Decay;
use crate::kernel::transform::exp_all;

/// Tokens of a chunk.
const CHUNK: usize = 32;
/// Rows that take the values up to the last of them: fewer do less in vain, more share what they read.
const ROWS: usize = 8;

/// The memory of a chunk.
struct Chunk {
    /// (CHUNK, D); with channel decay key j is decayed up to the row at hand.
    keys: Vec<f32>,
    /// (D, CHUNK)
    turned: Vec<f32>,
    /// (CHUNK, columns)
    values: Vec<f32>,
    /// (CHUNK, D)
    queries: Vec<f32>,
    /// (CHUNK, CHUNK) what row i takes of value j
    pairs: Vec<f32>,
    /// Scalar decay of key j up to the row at hand.
    scalar: [f32; CHUNK],
    /// Decay of the token at hand by channel.
    factor: Vec<f32>,
    /// Decay from the state before the chunk to the row's read, by channel.
    enter: Vec<f32>,
    /// Σ of the keys, decayed to the chunk's end: small sums first keep more digits.
    total: Vec<f32>,
    /// Log decay over the chunk, by channel.
    sum: Vec<f64>,
}

impl Source<'_> {
    #[inline(always)]
    pub(super) fn chunks<const FUSED: bool>(&self, part: &mut Part) {
        let (depth, width) = (self.sizes.depth, part.columns.len());
        let mut c = Chunk {
            keys: vec![0.0; CHUNK * depth],
            turned: vec![0.0; depth * CHUNK],
            values: vec![0.0; CHUNK * width],
            queries: vec![0.0; CHUNK * depth],
            pairs: vec![0.0; CHUNK * CHUNK],
            scalar: [1.0; CHUNK],
            factor: vec![1.0; depth],
            enter: vec![1.0; depth],
            total: vec![0.0; depth],
            sum: vec![0.0; depth],
        };
        let rows = self.sizes.tokens;
        for first in (0..rows).step_by(CHUNK) {
            self.chunk::<FUSED>(part, &mut c, first, CHUNK.min(rows - first));
        }
        if !self.op.bidirectional {
            return;
        }
        let rows = self.sizes.queries;
        for first in (0..rows).step_by(CHUNK) {
            let count = CHUNK.min(rows - first);
            self.load_queries(part, &mut c, first, count);
            self.read_state::<FUSED>(part, &c, first, count);
            for i in 0..count {
                let by = if self.has_z() { dot::<FUSED>(&c.queries[i * depth..][..depth], &part.z) } else { 0.0 };
                self.divide(&mut part.out[(first + i) * width..][..width], by);
            }
        }
    }

    #[inline(always)]
    fn chunk<const FUSED: bool>(&self, part: &mut Part, c: &mut Chunk, first: usize, count: usize) {
        let (at, depth, width) = (self.at(part), self.sizes.depth, part.columns.len());
        for j in 0..count {
            let (key, value) = (&mut c.keys[j * depth..][..depth], &mut c.values[j * width..][..width]);
            self.key(at, first + j, &part.columns, key, value);
        }
        let reads = !self.op.bidirectional;
        if reads {
            self.load_queries(part, c, first, count);
        }
        let whole = if self.op.decay == Decay::Channel {
            self.channel_pairs::<FUSED>(at, c, first, count);
            turn(c, count);
            0.0
        } else {
            turn(c, count);
            self.scalar_pairs::<FUSED>(at, c, first, count)
        };
        if reads {
            self.read_state::<FUSED>(part, c, first, count);
            // A later token's NaN or Inf must not reach a row: 0 · NaN is NaN.
            let step = if finite(&c.values[..count * width]) { ROWS } else { 1 };
            for i in (0..count).step_by(step) {
                let end = count.min(i + step);
                let out = &mut part.out[(first + i) * width..][..(end - i) * width];
                multiply::<FUSED>(out, &c.pairs[i * CHUNK..], CHUNK, end, &c.values, width);
            }
            for i in 0..count {
                let by = if self.has_z() {
                    let pairs = &c.pairs[i * CHUNK..][..CHUNK];
                    dot::<FUSED>(pairs, &[1.0; CHUNK]) + dot::<FUSED>(&c.queries[i * depth..][..depth], &part.z)
                } else {
                    0.0
                };
                self.divide(&mut part.out[(first + i) * width..][..width], by);
            }
        }
        // The state takes up the chunk.
        for (d, state) in part.state.chunks_exact_mut(width).enumerate() {
            let less = if self.op.decay == Decay::Channel { less_one(c.sum[d]) } else { whole };
            if less != 0.0 {
                state.iter_mut().for_each(|s| *s += less * *s);
            }
            if self.has_z() {
                part.z[d] += less * part.z[d];
            }
        }
        if self.has_z() {
            // Keys of a channel decay are decayed to the chunk's end already.
            c.total.fill(0.0);
            for (key, scalar) in c.keys.chunks_exact(depth).zip(&c.scalar).take(count) {
                c.total.iter_mut().zip(key).for_each(|(z, k)| *z += scalar * k);
            }
            part.z.iter_mut().zip(&c.total).for_each(|(z, total)| *z += total);
        }
        multiply::<FUSED>(part.state, &c.turned, CHUNK, count, &c.values, width);
    }

    #[inline(always)]
    fn load_queries(&self, part: &Part, c: &mut Chunk, first: usize, count: usize) {
        let depth = self.sizes.depth;
        for (i, query) in c.queries.chunks_exact_mut(depth).take(count).enumerate() {
            self.query(self.at(part), first + i, query);
        }
    }

    /// Reads of the state before the chunk, by queries that hold their decay.
    #[inline(always)]
    fn read_state<const FUSED: bool>(&self, part: &mut Part, c: &Chunk, first: usize, count: usize) {
        let (depth, width) = (self.sizes.depth, part.columns.len());
        let out = &mut part.out[first * width..][..count * width];
        out.fill(0.0);
        multiply::<FUSED>(out, &c.queries, depth, depth, part.state, width);
    }

    /// Pairs without decay or with a scalar one. Leaves the queries decayed from the chunk's start, the turned keys to its end;
    /// returns the decay over the chunk, less one.
    #[inline(always)]
    fn scalar_pairs<const FUSED: bool>(&self, at: [usize; 2], c: &mut Chunk, first: usize, count: usize) -> f32 {
        let depth = self.sizes.depth;
        if !self.op.bidirectional {
            c.pairs[..count * CHUNK].fill(0.0);
            multiply::<FUSED>(&mut c.pairs[..count * CHUNK], &c.queries, depth, depth, &c.turned, CHUNK);
        }
        if self.op.decay == Decay::None {
            for i in 0..count {
                let row = &mut c.pairs[i * CHUNK..][..CHUNK];
                row[i + 1..].fill(0.0);
                if self.op.read_before {
                    row[i] = self.bonus(at, &c.queries[i * depth..][..depth], &c.keys[i * depth..][..depth]);
                }
            }
            return 0.0;
        }
        let (mut enter, mut sum) = (1.0, 0.0);
        for i in 0..count {
            let g = f64::from(self.scalar_decay(at, first + i));
            let factor = g.exp() as f32;
            sum += g;
            let (pairs, query) = (&mut c.pairs[i * CHUNK..][..CHUNK], &mut c.queries[i * depth..][..depth]);
            let bonus = if self.op.read_before { self.bonus(at, query, &c.keys[i * depth..][..depth]) } else { 0.0 };
            if !self.op.read_before {
                c.scalar[..i].iter_mut().for_each(|x| *x *= factor);
                enter *= factor;
            }
            c.scalar[i] = 1.0;
            pairs.iter_mut().zip(&c.scalar).for_each(|(p, s)| *p *= s);
            pairs[i + 1..].fill(0.0);
            query.iter_mut().for_each(|q| *q *= enter);
            if self.op.read_before {
                pairs[i] = bonus;
                c.scalar[..i].iter_mut().for_each(|x| *x *= factor);
                enter *= factor;
            }
        }
        for row in c.turned.chunks_exact_mut(CHUNK) {
            row[..count].iter_mut().zip(&c.scalar).for_each(|(k, s)| *k *= s);
        }
        less_one(sum)
    }

    /// Pairs with channel decay. Leaves the queries decayed from the chunk's start, the keys to its end, and the sums of log decays.
    #[inline(always)]
    fn channel_pairs<const FUSED: bool>(&self, at: [usize; 2], c: &mut Chunk, first: usize, count: usize) {
        let depth = self.sizes.depth;
        c.enter.fill(1.0);
        c.sum.fill(0.0);
        for i in 0..count {
            let g = self.channel_decay(at, first + i);
            if let Some(g) = g {
                c.factor.copy_from_slice(g);
                exp_all(&mut c.factor);
                c.sum.iter_mut().zip(g).for_each(|(sum, g)| *sum += f64::from(*g));
            }
            let (before, key) = c.keys.split_at_mut(i * depth);
            let (pairs, query) = (&mut c.pairs[i * CHUNK..][..CHUNK], &mut c.queries[i * depth..][..depth]);
            pairs.fill(0.0);
            let bonus = if self.op.read_before { self.bonus(at, query, &key[..depth]) } else { 0.0 };
            for (j, before) in before.chunks_exact_mut(depth).enumerate() {
                if self.op.read_before {
                    pairs[j] = dot::<FUSED>(query, before);
                }
                if g.is_some() {
                    before.iter_mut().zip(&c.factor).for_each(|(k, f)| *k *= f);
                }
                if !self.op.read_before {
                    pairs[j] = dot::<FUSED>(query, before);
                }
            }
            pairs[i] = if self.op.read_before { bonus } else { dot::<FUSED>(query, &key[..depth]) };
            if self.op.read_before {
                query.iter_mut().zip(&c.enter).for_each(|(q, e)| *q *= e);
            }
            if g.is_some() {
                c.enter.iter_mut().zip(&c.factor).for_each(|(e, f)| *e *= f);
            }
            if !self.op.read_before {
                query.iter_mut().zip(&c.enter).for_each(|(q, e)| *q *= e);
            }
        }
    }
}

/// Whether all are finite, without a branch an element.
#[inline(always)]
fn finite(values: &[f32]) -> bool {
    values.iter().fold(0, |most, v| most.max(v.to_bits() & !(1 << 31))) < f32::INFINITY.to_bits()
}

const SQUARE: usize = 8;

/// Keys of a chunk as columns; zeros after the last.
#[inline(always)]
fn turn(c: &mut Chunk, count: usize) {
    let depth = c.factor.len();
    let blocks = if count == CHUNK { depth / SQUARE * SQUARE } else { 0 };
    // Squares that fit the registers.
    for d in (0..blocks).step_by(SQUARE) {
        for j in (0..CHUNK).step_by(SQUARE) {
            let mut square = [[0.0; SQUARE]; SQUARE];
            for (n, row) in square.iter_mut().enumerate() {
                row.copy_from_slice(&c.keys[(j + n) * depth + d..][..SQUARE]);
            }
            for n in 0..SQUARE {
                let column: [f32; SQUARE] = std::array::from_fn(|m| square[m][n]);
                c.turned[(d + n) * CHUNK + j..][..SQUARE].copy_from_slice(&column);
            }
        }
    }
    for (d, row) in c.turned.chunks_exact_mut(CHUNK).enumerate().skip(blocks) {
        for j in 0..count {
            row[j] = c.keys[j * depth + d];
        }
        row[count..].fill(0.0);
    }
}
