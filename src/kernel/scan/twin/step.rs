//! The recurrent form, with everything.

use super::{Part, Source, add_rows, less_one};
use crate::kernel::reals::dot;

impl Source<'_> {
    pub(super) fn steps(&self, part: &mut Part) {
        let (at, depth, width) = (self.at(part), self.sizes.depth, part.columns.len());
        let (mut query, mut key) = (vec![0.0; depth], vec![0.0; depth]);
        let (mut value, mut erased) = (vec![0.0; width], vec![0.0; width]);
        let mut less = vec![0.0; depth];
        for t in 0..self.sizes.tokens {
            self.key(at, t, &part.columns, &mut key, &mut value);
            match self.channel_decay(at, t) {
                Some(g) => less.iter_mut().zip(g).for_each(|(less, g)| *less = less_one(f64::from(*g))),
                None => less.fill(less_one(f64::from(self.scalar_decay(at, t)))),
            }
            let kept = self.kept(at, t);
            let erase = [("a", &self.a), ("b", &self.b)]
                .map(|(role, x)| x.as_ref().filter(|_| kept).map(|x| x.row(&[at[0], self.head_of(role, at[1]), t])));
            if let [Some(a), _] = erase {
                erased.fill(0.0);
                add_rows(&mut erased, a, part.state);
            }
            let out = (!self.op.bidirectional).then_some(t * width..(t + 1) * width);
            if let Some(row) = &out {
                self.query(at, t, &mut query);
                part.out[row.clone()].fill(0.0);
                if self.op.read_before {
                    add_rows(&mut part.out[row.clone()], &query, part.state);
                    add_rows(&mut part.out[row.clone()], &[self.bonus(at, &query, &key)], &value);
                }
            }
            for (d, state) in part.state.chunks_exact_mut(width).enumerate() {
                let b = match erase {
                    [_, Some(b)] => b[d],
                    _ => 0.0,
                };
                for ((s, v), e) in state.iter_mut().zip(&value).zip(&erased) {
                    *s += less[d] * *s + key[d] * v + b * e;
                }
                part.z[d] += less[d] * part.z[d] + key[d];
            }
            if let Some(row) = out {
                if !self.op.read_before {
                    add_rows(&mut part.out[row.clone()], &query, part.state);
                }
                self.divide(&mut part.out[row], dot(&query, &part.z));
            }
        }
        if self.op.bidirectional {
            self.read_all(part);
        }
    }
}
