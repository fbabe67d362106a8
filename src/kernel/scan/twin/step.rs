//! The recurrent form, with everything.

use super::product::{dot, multiply};
use super::{Part, Source, less_one};

impl Source<'_> {
    #[inline(always)]
    pub(super) fn steps<const FUSED: bool>(&self, part: &mut Part) {
        let (at, depth, width) = (self.at(part), self.sizes.depth, part.columns.len());
        let (mut query, mut key) = (vec![0.0; depth], vec![0.0; depth]);
        let (mut value, mut erased) = (vec![0.0; width], vec![0.0; width]);
        let (mut less, mut left, mut right) = (vec![0.0; depth], vec![0.0; depth], vec![0.0; depth]);
        for t in 0..self.sizes.tokens {
            self.key(at, t, &part.columns, &mut key, &mut value);
            match self.channel_decay(at, t) {
                Some(g) => less.iter_mut().zip(g).for_each(|(less, g)| *less = less_one(f64::from(*g))),
                None => less.fill(less_one(f64::from(self.scalar_decay(at, t)))),
            }
            let erases = self.erase(at, t, &key, &less, &mut left, &mut right);
            if erases {
                erased.fill(0.0);
                multiply::<FUSED>(&mut erased, &left, depth, depth, part.state, width);
            }
            let reads = !self.op.bidirectional;
            let row = t * width..(t + 1) * width;
            if reads {
                self.query(at, t, &mut query);
                part.out[row.clone()].fill(0.0);
                if self.op.read_before {
                    let out = &mut part.out[row.clone()];
                    multiply::<FUSED>(out, &query, depth, depth, part.state, width);
                    multiply::<FUSED>(out, &[self.bonus(at, &query, &key)], 1, 1, &value, width);
                }
            }
            for (d, state) in part.state.chunks_exact_mut(width).enumerate() {
                let b = if erases { right[d] } else { 0.0 };
                for ((s, v), e) in state.iter_mut().zip(&value).zip(&erased) {
                    *s += less[d] * *s + key[d] * v + b * e;
                }
                part.z[d] += less[d] * part.z[d] + key[d];
            }
            if reads {
                let out = &mut part.out[row];
                if !self.op.read_before {
                    multiply::<FUSED>(out, &query, depth, depth, part.state, width);
                }
                self.divide(out, dot::<FUSED>(&query, &part.z));
            }
        }
        if self.op.bidirectional {
            for (i, out) in part.out.chunks_exact_mut(width).enumerate() {
                self.query(at, i, &mut query);
                out.fill(0.0);
                multiply::<FUSED>(out, &query, depth, depth, part.state, width);
                self.divide(out, dot::<FUSED>(&query, &part.z));
            }
        }
    }
}
