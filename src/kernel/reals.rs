//! Tensors of reals as f32, whatever their storage: what twins read.

use super::TwinIo;
use crate::tensor::{HostData, Layout};
use std::borrow::Cow;

/// A tensor of reals; f16 storage is widened once, when it is opened.
pub(crate) struct Reals<'a> {
    layout: &'a Layout,
    data: Cow<'a, [f32]>,
}

impl<'a> Reals<'a> {
    /// What is bound to a role that is read; `None` when nothing is, or no reals.
    pub(crate) fn of(io: &TwinIo<'a>, role: &str) -> Option<Self> {
        let (layout, data) = io.read(role)?;
        let data = match data {
            HostData::F32(v) => Cow::Borrowed(&v[..]),
            HostData::F16(v) => Cow::Owned(v.iter().map(|x| x.to_f32()).collect()),
            HostData::I32(_) | HostData::U8(_) => return None,
        };
        Some(Reals { layout, data })
    }

    /// The innermost row at the outer indices; its elements are neighbours.
    pub(crate) fn row(&self, index: &[usize]) -> &[f32] {
        let at = self.layout.at(index);
        &self.data[at..at + self.layout.shape[index.len()]]
    }

    /// One element.
    pub(crate) fn get(&self, index: &[usize]) -> f32 {
        self.data[self.layout.at(index)]
    }
}

/// Σ a_i b_i, in eight sums so that it runs on vectors.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (mut a8, mut b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let mut sums = [0.0; 8];
    for (x, y) in a8.by_ref().zip(b8.by_ref()) {
        for n in 0..8 {
            sums[n] += x[n] * y[n];
        }
    }
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}

/// S y = x by the factors L D Lᵀ of the lower triangle of S. Directions with a pivot up to `flat` of the largest diagonal are left out.
pub(crate) fn solve(mut s: Vec<Vec<f32>>, mut x: Vec<f32>, flat: f32) -> Vec<f32> {
    let n = x.len();
    let flat = flat * (0..n).fold(0.0, |m: f32, a| m.max(s[a][a]));
    for c in 0..n {
        let column: Vec<f32> = (0..n).map(|a| if a > c { s[a][c] } else { 0.0 }).collect();
        let pivot = s[c][c];
        for a in c + 1..n {
            let factor = if pivot > flat { column[a] / pivot } else { 0.0 };
            (c + 1..=a).for_each(|b| s[a][b] -= factor * column[b]);
            s[a][c] = factor;
        }
    }
    for c in 0..n {
        (c + 1..n).for_each(|a| x[a] -= s[a][c] * x[c]);
    }
    (0..n).for_each(|a| x[a] = if s[a][a] > flat { x[a] / s[a][a] } else { 0.0 });
    for c in (0..n).rev() {
        (0..c).for_each(|a| x[a] -= s[c][a] * x[c]);
    }
    x
}
