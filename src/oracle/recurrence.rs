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

/// A token: batch, head, position.
pub type Token = [usize; 3];

/// The general recurrence. With e^g the decay of a channel, a and b the erase vectors and w the write weight:
/// S_t = diag(e^g) S_{t−1} + b (aᵀ S_{t−1}) + w k vᵀ and z_t = e^g ⊙ z_{t−1} + w k.
pub struct Recurrence<'a> {
    /// q, k and v (B, Hx, L, D); heads share.
    pub qkv: [&'a Array; 3],
    /// Heads of the state.
    pub heads: usize,
    /// Factor of q.
    pub scale: f64,
    /// Log decay of a channel.
    pub gate: &'a dyn Fn(Token, usize) -> f64,
    /// a and b, as rows.
    pub erase: Option<&'a dyn Fn(Token) -> [Vec<f64>; 2]>,
    /// w.
    pub write: &'a dyn Fn(Token) -> f64,
    /// u (H, D): the read comes before the write, and the token itself counts by u.
    pub bonus: Option<&'a Array>,
    /// S before the first token.
    pub state: Option<&'a Array>,
    /// z before the first token.
    pub z: Option<&'a Array>,
    /// What a read is divided by, given q·z.
    pub divisor: &'a dyn Fn(f64) -> f64,
}

impl<'a> Recurrence<'a> {
    /// Without decay, erase, weights, states and divisor.
    pub fn new(qkv: [&'a Array; 3], scale: f64) -> Self {
        let heads = qkv.map(|x| x.shape[1]).into_iter().max().unwrap_or(1);
        Recurrence {
            qkv,
            heads,
            scale,
            gate: &|_, _| 0.0,
            erase: None,
            write: &|_| 1.0,
            bonus: None,
            state: None,
            z: None,
            divisor: &|_| 1.0,
        }
    }

    /// o (B, H, L, Dv), the last S (B, H, D, Dv) and the last z (B, H, D).
    pub fn run(&self) -> [Array; 3] {
        let [q, k, v] = self.qkv;
        let [batch, _, length, d] = k.shape[..] else { panic!("k has rank 4") };
        let (heads, dv) = (self.heads, v.shape[3]);
        let mut s = self.state.cloned().unwrap_or_else(|| Array::zeros(&[batch, heads, d, dv]));
        let mut z = self.z.cloned().unwrap_or_else(|| Array::zeros(&[batch, heads, d]));
        let mut o = Array::zeros(&[batch, heads, length, dv]);
        for (b, h, t) in (0..batch * heads * length).map(|n| (n / length / heads, n / length % heads, n % length)) {
            let of = |x: &'a Array| x.row(&[b, shared_head(h, heads, x), t]);
            let (q, k, v) = (of(q), of(k), of(v));
            let w = (self.write)([b, h, t]);
            let before: Vec<Vec<f64>> = (0..d).map(|c| s.row(&[b, h, c]).to_vec()).collect();
            for c in 0..d {
                let decay = (self.gate)([b, h, t], c).exp();
                for e in 0..dv {
                    s.set(&[b, h, c, e], decay * before[c][e] + w * k[c] * v[e]);
                }
                z.set(&[b, h, c], decay * z.get(&[b, h, c]) + w * k[c]);
            }
            if let Some(erase) = self.erase {
                let [left, right] = erase([b, h, t]);
                for e in 0..dv {
                    let erased: f64 = (0..d).map(|c| left[c] * before[c][e]).sum();
                    for c in 0..d {
                        s.set(&[b, h, c, e], s.get(&[b, h, c, e]) + right[c] * erased);
                    }
                }
            }
            let by = (self.divisor)((0..d).map(|c| self.scale * q[c] * z.get(&[b, h, c])).sum());
            for e in 0..dv {
                let seen = |c: usize| match self.bonus {
                    None => s.get(&[b, h, c, e]),
                    Some(u) => before[c][e] + u.get(&[h, c]) * w * k[c] * v[e],
                };
                let n: f64 = (0..d).map(|c| self.scale * q[c] * seen(c)).sum();
                o.set(&[b, h, t, e], if by == 0.0 { 0.0 } else { n / by });
            }
        }
        [o, s, z]
    }
}

/// x / √(Σ x² + eps).
pub fn unit(x: &[f64], eps: f64) -> Vec<f64> {
    let length = (x.iter().map(|x| x * x).sum::<f64>() + eps).sqrt();
    x.iter().map(|x| x / length).collect()
}

/// ln σ(x).
pub fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}
