//! The chunk form. Decays are running products between two tokens, never quotients, so that nothing overflows.

use super::{Part, Source, add_rows, less_one};
use crate::kernel::reals::dot;
use crate::kernel::scan::Decay;

/// Tokens of a chunk.
const CHUNK: usize = 32;

/// The memory of a chunk.
struct Chunk {
    /// Key j decayed up to the row at hand, (CHUNK, D); with scalar decay its factor is in `scalar`.
    keys: Vec<f32>,
    scalar: [f32; CHUNK],
    /// (CHUNK, columns)
    values: Vec<f32>,
    query: Vec<f32>,
    /// Decay factor of the token at hand by channel.
    factor: Vec<f32>,
    /// Decay from the state before the chunk to the row's read, by channel.
    enter: Vec<f32>,
    /// Log decay over the chunk, by channel.
    sum: Vec<f64>,
    pairs: [f32; CHUNK],
}

impl Source<'_> {
    pub(super) fn chunks(&self, part: &mut Part) {
        let (depth, width) = (self.sizes.depth, part.columns.len());
        let mut c = Chunk {
            keys: vec![0.0; CHUNK * depth],
            scalar: [1.0; CHUNK],
            values: vec![0.0; CHUNK * width],
            query: vec![0.0; depth],
            factor: vec![1.0; depth],
            enter: vec![1.0; depth],
            sum: vec![0.0; depth],
            pairs: [0.0; CHUNK],
        };
        let rows = self.sizes.tokens;
        for first in (0..rows).step_by(CHUNK) {
            self.chunk(part, &mut c, first, CHUNK.min(rows - first));
        }
        if self.op.bidirectional {
            self.read_all(part);
        }
    }

    fn chunk(&self, part: &mut Part, c: &mut Chunk, first: usize, count: usize) {
        let (at, depth, width) = (self.at(part), self.sizes.depth, part.columns.len());
        for j in 0..count {
            let (key, value) = (&mut c.keys[j * depth..(j + 1) * depth], &mut c.values[j * width..(j + 1) * width]);
            self.key(at, first + j, &part.columns, key, value);
        }
        c.enter.fill(1.0);
        c.sum.fill(0.0);
        let mut enter = 1.0; // the same with scalar decay
        let mut sum = 0.0;
        for i in 0..count {
            let g = f64::from(self.scalar_decay(at, first + i));
            let factor = g.exp() as f32;
            sum += g;
            let channel = self.channel_decay(at, first + i);
            if let Some(g) = channel {
                c.factor.iter_mut().zip(g).for_each(|(f, g)| *f = g.exp());
                c.sum.iter_mut().zip(g).for_each(|(sum, g)| *sum += f64::from(*g));
            }
            if self.op.read_before {
                self.read(part, c, [first, i], enter);
            }
            c.scalar[..i].iter_mut().for_each(|x| *x *= factor);
            c.scalar[i] = 1.0;
            enter *= factor;
            if channel.is_some() {
                for key in c.keys[..i * depth].chunks_exact_mut(depth) {
                    key.iter_mut().zip(&c.factor).for_each(|(k, f)| *k *= f);
                }
                c.enter.iter_mut().zip(&c.factor).for_each(|(e, f)| *e *= f);
            }
            if !self.op.read_before {
                self.read(part, c, [first, i], enter);
            }
        }
        // The state takes up the chunk: row d gets the keys' channel d as factors of the values.
        let whole = less_one(sum);
        let (mut column, has_z) = ([0.0; CHUNK], self.has_z());
        for (d, state) in part.state.chunks_exact_mut(width).enumerate() {
            let less = if self.op.decay == Decay::Channel { less_one(c.sum[d]) } else { whole };
            if less != 0.0 {
                state.iter_mut().for_each(|s| *s += less * *s);
            }
            for j in 0..count {
                column[j] = c.scalar[j] * c.keys[j * depth + d];
            }
            add_rows(state, &column[..count], &c.values[..count * width]);
            if has_z {
                part.z[d] += less * part.z[d] + column[..count].iter().sum::<f32>();
            }
        }
    }

    /// The read of row i of the chunk at `first`, whose keys are decayed up to it.
    fn read(&self, part: &mut Part, c: &mut Chunk, [first, i]: [usize; 2], enter: f32) {
        if self.op.bidirectional {
            return;
        }
        let (at, depth, width) = (self.at(part), self.sizes.depth, part.columns.len());
        self.query(at, first + i, &mut c.query);
        for j in 0..=i {
            c.pairs[j] = c.scalar[j] * dot(&c.query, &c.keys[j * depth..(j + 1) * depth]);
        }
        if self.op.read_before {
            c.pairs[i] = self.bonus(at, &c.query, &c.keys[i * depth..(i + 1) * depth]);
        }
        let out = &mut part.out[(first + i) * width..(first + i + 1) * width];
        out.fill(0.0);
        add_rows(out, &c.pairs[..=i], &c.values[..(i + 1) * width]);
        let pairs: f32 = c.pairs[..=i].iter().sum();
        c.query.iter_mut().zip(&c.enter).for_each(|(q, e)| *q *= e * enter);
        add_rows(out, &c.query, part.state);
        self.divide(out, pairs + dot(&c.query, &part.z));
    }
}
