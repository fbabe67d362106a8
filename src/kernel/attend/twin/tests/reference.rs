//! Attention by its definition, a pair at a time, in f64.

use super::Case;
use crate::kernel::attend::{Keys, Normaliser};
use crate::kernel::key::Point;

pub(super) struct Results {
    pub out: Vec<f64>,
    pub lse: Vec<f64>,
    pub mass: Vec<f64>,
}

pub(super) fn reference(case: &Case) -> Results {
    let [b, h, ..] = case.sizes();
    let (lq, op) = (case.sizes()[3], &case.op);
    let mut results = Results { out: Vec::new(), lse: Vec::new(), mass: Vec::new() };
    for split in 0..op.splits {
        for at in (0..b * h * lq).map(|n| [n / lq / h, n / lq % h, n % lq]) {
            row(case, split, at, &mut results);
        }
    }
    results
}

fn row(case: &Case, split: usize, at: [usize; 3], results: &mut Results) {
    let [_, h, hk, lq, lk, d, dv] = case.sizes();
    let [batch, head, i] = at;
    let (op, kv) = (&case.op, head / (h / hk));
    let number = |name: &str, default: i64| case.find(name).map_or(default, |t| t.get(&[batch, head, i, 0]) as i64);
    let limit = number("lengths", lk as i64).clamp(0, lk as i64);
    let query = i as i64 + if op.bottom_right { limit - lq as i64 } else { 0 };
    let size = lk.div_ceil(op.splits);
    let call = |point: Point, x: f64, j: usize| {
        let hooks = case.hooks.iter().filter(|hook| hook.hook.point == point);
        hooks.fold(x, |x, hook| (hook.reference)(x, at, query as i32, j))
    };
    let allowed = |j: usize| {
        let t = j as i64;
        let window = op.window_left.is_none_or(|n| t >= query - n as i64)
            && op.window_right.is_none_or(|n| t <= query + n as i64)
            && t >= number("row_start", 0)
            && t < number("row_end", lk as i64);
        j / size == split
            && t < limit
            && (!op.causal || t <= query)
            && (window || j < op.prefix)
            && call(Point::Mask, 1.0, j) != 0.0
    };
    let softmax = op.normaliser == Normaliser::Softmax;
    let mut weights = Vec::new();
    for j in listed(case, at).into_iter().filter(|&j| allowed(j)) {
        let dot: f64 = (0..d).map(|e| case.q.get(&[batch, head, i, e]) * case.k.get(&[batch, kv, j, e])).sum();
        let score = call(Point::Score, dot * f64::from(op.scale), j);
        weights.push((j, if softmax { score } else { call(Point::Weight, score, j) }));
    }
    let sinks: Vec<f64> = match case.find("sink") {
        Some(t) => (0..t.layout.shape[3]).map(|n| t.get(&[batch, head, i, n])).collect(),
        None => Vec::new(),
    };
    let mut lse = f64::NEG_INFINITY;
    if softmax {
        let all = || weights.iter().map(|(_, s)| *s).chain(sinks.iter().copied());
        let high = all().fold(f64::NEG_INFINITY, f64::max);
        if all().any(f64::is_nan) {
            lse = f64::NAN;
        } else if high > f64::NEG_INFINITY {
            lse = high + all().map(|s| (s - high).exp()).sum::<f64>().ln();
        }
        weights.iter_mut().for_each(|(_, w)| *w = if *w == f64::NEG_INFINITY { 0.0 } else { (*w - lse).exp() });
    }
    results.mass.push(weights.iter().map(|(_, w)| w).sum());
    results.lse.push(lse);
    results.out.extend((0..dv).map(|e| {
        weights.iter().filter(|(_, w)| *w != 0.0).map(|(j, w)| w * case.v.get(&[batch, kv, *j, e])).sum::<f64>()
    }));
}

/// Keys by the list, with repeats.
fn listed(case: &Case, [batch, head, i]: [usize; 3]) -> Vec<usize> {
    let lk = case.sizes()[4];
    let Some(list) = case.indices.as_ref().filter(|_| case.op.keys != Keys::Range) else {
        return (0..lk).collect();
    };
    let lh = head / (case.sizes()[1] / list.layout.shape[1]);
    let entry = |index: &[usize]| list.get(index) as i64;
    let (blocks, size): (Vec<i64>, usize) = match (case.op.keys, &case.indptr) {
        (Keys::Tokens { block }, _) => ((0..list.layout.shape[3]).map(|n| entry(&[batch, lh, i, n])).collect(), block),
        (Keys::Blocks { queries, keys }, Some(indptr)) => {
            let at = |r: usize| indptr.get(&[batch, lh, r]) as usize;
            let r = i / queries;
            ((at(r)..at(r + 1)).map(|n| entry(&[batch, lh, n])).collect(), keys)
        }
        (Keys::Blocks { queries, keys }, None) => {
            let marked = |n: &usize| entry(&[batch, lh, i / queries, *n]) != 0;
            ((0..list.layout.shape[3]).filter(marked).map(|n| n as i64).collect(), keys)
        }
        (Keys::Range, _) => unreachable!(),
    };
    let blocks = blocks.into_iter().filter(|&n| n >= 0);
    blocks.flat_map(|n| (n as usize * size..(n as usize + 1) * size).filter(|&j| j < lk)).collect()
}
