//! The recurrence of linear attention, and the positions and decays that go with it.

use super::Array;

/// Heads share: head `h` of `heads` reads head h // (heads / Hx) of `x` (B, Hx, L, D).
pub fn shared_head(h: usize, heads: usize, x: &Array) -> usize {
    h / (heads / x.shape[1])
}

/// S_t = e^g S_{t−1} + k_t v_tᵀ and o_t = q_tᵀ S_t with g of the head: o (B, H, L, Dv) and the last S (B, H, D, Dv).
///
/// H is the number of decays; q, k and v (B, Hx, L, D) may have fewer heads. `state` (B, H, D, Dv) is the S before the
/// first token, 0 if absent.
pub fn scan(q: &Array, k: &Array, v: &Array, log_decay: &[f64], state: Option<&Array>) -> (Array, Array) {
    let [batch, _, length, d] = q.shape[..] else { panic!("q has rank 4") };
    let (heads, dv) = (log_decay.len(), v.shape[3]);
    let mut s = state.cloned().unwrap_or_else(|| Array::zeros(&[batch, heads, d, dv]));
    let mut o = Array::zeros(&[batch, heads, length, dv]);
    for b in 0..batch {
        for (h, g) in log_decay.iter().enumerate() {
            let head = |x| shared_head(h, heads, x);
            for t in 0..length {
                let q_t = q.row(&[b, head(q), t]);
                let k_t = k.row(&[b, head(k), t]);
                let v_t = v.row(&[b, head(v), t]);
                for c in 0..d {
                    for (e, v) in v_t.iter().enumerate() {
                        let new = g.exp() * s.get(&[b, h, c, e]) + k_t[c] * v;
                        s.set(&[b, h, c, e], new);
                        o.row_mut(&[b, h, t])[e] += q_t[c] * new;
                    }
                }
            }
        }
    }
    (o, s)
}

/// The geometric slopes of ALiBi, also the decay rates of lightning attention: 2^(−8(h+1)/H) for H a power of two;
/// else those of the power of two n below, followed by every second one of 2n.
pub fn slopes(heads: usize) -> Vec<f64> {
    let geometric = |n: usize| (1..=n).map(move |h| (-8.0 * h as f64 / n as f64).exp2());
    let n = 1 << heads.max(1).ilog2();
    geometric(n).chain(geometric(2 * n).step_by(2)).take(heads).collect()
}

/// Rotary angles per position, base^(−2c/D) for c < D/2.
pub fn frequencies(base: f64, d: usize) -> Vec<f64> {
    (0..d / 2).map(|c| base.powf(-2.0 * c as f64 / d as f64)).collect()
}

/// Rotary embedding of one row: the channels `pair(c)` turn by position · theta_c, the others pass through.
pub fn rotate(x: &[f64], theta: &[f64], position: f64, pair: impl Fn(usize) -> (usize, usize)) -> Vec<f64> {
    let mut y = x.to_vec();
    for (c, theta) in theta.iter().enumerate() {
        let ((sin, cos), (i, j)) = ((position * theta).sin_cos(), pair(c));
        (y[i], y[j]) = (x[i] * cos - x[j] * sin, x[j] * cos + x[i] * sin);
    }
    y
}
