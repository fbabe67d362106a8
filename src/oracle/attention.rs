//! Softmax attention over an explicit set of pairs: the sentence that most oracles end in.

use super::{Array, dot};

/// One row's position: batch, query head, query index.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Batch.
    pub b: usize,
    /// Query head.
    pub h: usize,
    /// Query index.
    pub i: usize,
}

/// The score of one pair, or `None` where the pair is not allowed: `(row, key, scale q·k) -> score`.
pub type Pairs<'a> = dyn Fn(Row, usize, f64) -> Option<f64> + 'a;

/// `out` (B, H, Lq, Dv) and `lse` (B, H, Lq) of q (B, H, Lq, D), k (B, Hk, Lk, D), v (B, Hk, Lk, Dv).
///
/// A row without an allowed key has out = 0 and lse = −∞.
pub fn attention(q: &Array, k: &Array, v: &Array, scale: f64, pairs: &Pairs) -> (Array, Array) {
    let [batch, heads, lq, _] = q.shape[..] else { panic!("q has rank 4") };
    let [_, kv_heads, lk, _] = k.shape[..] else { panic!("k has rank 4") };
    let dv = v.shape[3];
    let mut out = Array::zeros(&[batch, heads, lq, dv]);
    let mut lse = Array::filled(&[batch, heads, lq], f64::NEG_INFINITY);
    for b in 0..batch {
        for h in 0..heads {
            let hk = h / (heads / kv_heads);
            for i in 0..lq {
                let scores: Vec<(usize, f64)> = (0..lk)
                    .filter_map(|j| {
                        let s = scale * dot(q.row(&[b, h, i]), k.row(&[b, hk, j]));
                        pairs(Row { b, h, i }, j, s).map(|s| (j, s))
                    })
                    .collect();
                if scores.iter().all(|&(_, s)| s == f64::NEG_INFINITY) {
                    continue;
                }
                let m = scores.iter().fold(f64::NEG_INFINITY, |m, &(_, s)| m.max(s));
                let l: f64 = scores.iter().map(|&(_, s)| (s - m).exp()).sum();
                lse.set(&[b, h, i], m + l.ln());
                let row = out.row_mut(&[b, h, i]);
                for (j, s) in scores {
                    let p = (s - m).exp() / l;
                    row.iter_mut().zip(v.row(&[b, hk, j])).for_each(|(o, x)| *o += p * x);
                }
            }
        }
    }
    (out, lse)
}

/// Merge of partial results over disjoint key sets, in the order given.
pub fn merge(parts: &[(Array, Array)]) -> (Array, Array) {
    let (mut out, mut lse) = (Array::zeros(&parts[0].0.shape), Array::filled(&parts[0].1.shape, f64::NEG_INFINITY));
    let dv = *out.shape.last().expect("out has a width");
    for r in 0..lse.data.len() {
        let m = parts.iter().fold(f64::NEG_INFINITY, |m, p| m.max(p.1.data[r]));
        if m == f64::NEG_INFINITY {
            continue;
        }
        let total: f64 = parts.iter().map(|p| (p.1.data[r] - m).exp()).sum();
        lse.data[r] = m + total.ln();
        for (o, l) in parts {
            let weight = (l.data[r] - m).exp() / total;
            for d in 0..dv {
                // 0 · NaN must not reach the row: an empty part has weight 0 whatever its output holds.
                if weight > 0.0 {
                    out.data[r * dv + d] += weight * o.data[r * dv + d];
                }
            }
        }
    }
    (out, lse)
}

/// Place of query `i` on the axis of the keys when the last query sits at the last key: i + Lk − Lq.
pub fn bottom_right(i: usize, q: &Array, k: &Array) -> i64 {
    i as i64 + k.shape[2] as i64 - q.shape[2] as i64
}

/// The result with the logits `sink` (H) or (H, S) in the denominator, if there are any: lse' = ln(e^lse + Σ_s
/// e^sink_hs), out' = e^(lse − lse') out.
pub fn with_sink((mut out, mut lse): (Array, Array), sink: Option<&Array>) -> (Array, Array) {
    let Some(sink) = sink else { return (out, lse) };
    let [heads, rows, dv] = out.shape[1..] else { panic!("out has rank 4") };
    let count = sink.data.len() / heads;
    for r in 0..lse.data.len() {
        let h = r / rows % heads;
        let terms = [&[lse.data[r]], &sink.data[h * count..(h + 1) * count]].concat();
        let m = terms.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
        if m == f64::NEG_INFINITY {
            continue;
        }
        let joint = m + terms.iter().map(|x| (x - m).exp()).sum::<f64>().ln();
        let factor = (lse.data[r] - joint).exp();
        out.data[r * dv..(r + 1) * dv].iter_mut().for_each(|o| *o *= factor);
        lse.data[r] = joint;
    }
    (out, lse)
}

/// The weights (B, H, Lq, Lk) of [`attention`], zeros in a row without keys.
pub fn attention_map(q: &Array, k: &Array, scale: f64, pairs: &Pairs) -> Array {
    let keys = k.shape[2];
    let mut one = Array::zeros(&[k.shape[0], k.shape[1], keys, keys]);
    (0..one.data.len()).filter(|n| n / keys % keys == n % keys).for_each(|n| one.data[n] = 1.0);
    attention(q, k, &one, scale, pairs).0
}
