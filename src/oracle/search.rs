//! Choosing keys: the scores and the rule of every selection.

use super::{Array, Inputs, dot};

/// Indices of the `count` largest finite-or-+∞ scores, ties to the lower index, −∞ never taken, ascending.
pub fn top_k(scores: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).filter(|&i| scores[i] != f64::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// `list` in a row of `slots`, the empty ones −1.
pub fn padded(list: &[usize], slots: usize) -> Vec<f64> {
    (0..slots).map(|n| list.get(n).map_or(-1.0, |&index| index as f64)).collect()
}

/// The lightning score of every index key for query (b, i): Σ_h w_h max(0, q_h · k_j), of `keys` (B, N, Di) and the
/// inputs `q_idx` (B, Lq, Hi, Di) and `w` (B, Lq, Hi).
pub fn index_scores(inputs: &Inputs, keys: &Array, b: usize, i: usize) -> Vec<f64> {
    let (q, w) = (inputs.get("q_idx"), inputs.get("w").row(&[b, i]));
    let score = |key: &[f64]| w.iter().enumerate().map(|(h, w)| w * dot(q.row(&[b, i, h]), key).max(0.0)).sum();
    (0..keys.shape[1]).map(|j| score(keys.row(&[b, j]))).collect()
}

/// How often `list`, padded with −1, holds `index`; `None` if it does not.
pub fn list_count(list: &[f64], index: usize) -> Option<f64> {
    let count = list.iter().filter(|&&entry| entry == index as f64).count();
    (count > 0).then_some(count as f64)
}

/// The mean of every block of `size` rows of `x` (B, L, D), the last one over its true length: (B, ⌈L / size⌉, D).
pub fn pool_blocks(x: &Array, size: usize) -> Array {
    let [batch, length, width] = x.shape[..] else { panic!("rank 3") };
    Array::zeros(&[batch, length.div_ceil(size), width]).map_rows(|at, _| {
        let (from, to) = (at[1] * size, ((at[1] + 1) * size).min(length));
        let sum = |e: usize| (from..to).map(|j| x.get(&[at[0], j, e])).sum::<f64>();
        (0..width).map(|e| sum(e) / (to - from) as f64).collect()
    })
}
