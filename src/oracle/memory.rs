//! A network whose weights are a state, trained on the tokens as they come.

use super::{Array, dot, shared_head};

/// W_1 .. W_n of every head, each (B, H, rows, columns): M(x) = W_nᵀ act(… act(W_1ᵀ x)).
pub type Layers = Vec<Array>;

/// Gradient descent with momentum and weight decay: P_t = η_t P_{t−1} − θ_t u_t and M_t = (1 − α_t) M_{t−1} + P_t, where u_t is the
/// gradient at the weights from before the chunk of t.
pub struct Memory<'a> {
    /// q, k (B, Hx, L, D) and v (B, Hx, L, Dv); heads share.
    pub qkv: [&'a Array; 3],
    /// θ, α and η (B, H, L).
    pub rates: [&'a Array; 3],
    /// Activation and its slope.
    pub act: &'a dyn Fn(f64) -> [f64; 2],
    /// Tokens of a chunk.
    pub chunk: usize,
    /// Tokens of the open chunk before the first one.
    pub position: usize,
    /// c of the gradient c (M(k) − v).
    pub gain: f64,
    /// o_t = M_{t−1}(q_t) instead of M_t(q_t).
    pub read_before: bool,
}

impl Memory<'_> {
    /// out (B, H, L, Dv) and the losses |M_τ(k) − v|² (B, H, L); weights, momentum and anchor change in place.
    pub fn run(&self, weights: &mut Layers, momentum: &mut Layers, anchor: &mut Layers) -> [Array; 2] {
        let [q, k, v] = self.qkv;
        let [batch, heads, length] = self.rates[0].shape[..] else { panic!("theta has rank 3") };
        let mut out = Array::zeros(&[batch, heads, length, v.shape[3]]);
        let mut losses = Array::zeros(&[batch, heads, length]);
        for (b, h, t) in (0..batch * heads * length).map(|n| (n / length / heads, n / length % heads, n % length)) {
            let of = |x: &'_ Array| x.row(&[b, shared_head(h, heads, x), t]).to_vec();
            let [theta, alpha, eta] = self.rates.map(|rate| rate.get(&[b, h, t]));
            if (self.position + t).is_multiple_of(self.chunk) {
                anchor.iter_mut().zip(&*weights).for_each(|(a, w)| copy_head(w, a, [b, h]));
            }
            let (inputs, slopes, recalled) = self.forward(anchor, [b, h], &of(k));
            let value = of(v);
            losses.set(&[b, h, t], recalled.iter().zip(&value).map(|(y, v)| (y - v) * (y - v)).sum());
            // δ_n = c (h_n − v), ∇W_i = x_{i−1} δ_iᵀ, δ_{i−1} = (W_i δ_i) ⊙ act'(h_{i−1}).
            let mut delta: Vec<f64> = recalled.iter().zip(&value).map(|(y, v)| self.gain * (y - v)).collect();
            let mut gradients = Vec::new();
            for i in (0..anchor.len()).rev() {
                gradients.insert(0, (inputs[i].clone(), delta.clone()));
                if i > 0 {
                    let back = |r: usize| dot(anchor[i].row(&[b, h, r]), &delta) * slopes[i - 1][r];
                    delta = (0..anchor[i].shape[2]).map(back).collect();
                }
            }
            let (_, _, before) = self.forward(weights, [b, h], &of(q));
            for (i, (x, delta)) in gradients.iter().enumerate() {
                for r in 0..x.len() {
                    for c in 0..delta.len() {
                        let at = [b, h, r, c];
                        let p = eta * momentum[i].get(&at) - theta * x[r] * delta[c];
                        momentum[i].set(&at, p);
                        let w = (1.0 - alpha) * weights[i].get(&at) + p;
                        weights[i].set(&at, w);
                    }
                }
            }
            let (_, _, after) = self.forward(weights, [b, h], &of(q));
            out.row_mut(&[b, h, t]).copy_from_slice(if self.read_before { &before } else { &after });
        }
        [out, losses]
    }

    /// What enters each layer, the slopes of the activations, and M(x).
    fn forward(&self, layers: &Layers, [b, h]: [usize; 2], x: &[f64]) -> (Vec<Vec<f64>>, Vec<Vec<f64>>, Vec<f64>) {
        let (mut inputs, mut slopes, mut x) = (Vec::new(), Vec::new(), x.to_vec());
        for (i, w) in layers.iter().enumerate() {
            let y: Vec<f64> =
                (0..w.shape[3]).map(|c| (0..w.shape[2]).map(|r| w.get(&[b, h, r, c]) * x[r]).sum()).collect();
            inputs.push(x);
            if i + 1 == layers.len() {
                return (inputs, slopes, y);
            }
            slopes.push(y.iter().map(|&y| (self.act)(y)[1]).collect());
            x = y.iter().map(|&y| (self.act)(y)[0]).collect();
        }
        (inputs, slopes, x)
    }
}

fn copy_head(from: &Array, to: &mut Array, [b, h]: [usize; 2]) {
    (0..from.shape[2]).for_each(|r| to.row_mut(&[b, h, r]).copy_from_slice(from.row(&[b, h, r])));
}
