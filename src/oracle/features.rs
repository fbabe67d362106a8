//! Feature maps φ of linear attention without weights of their own: a row in, a row of features out.

/// φ(x) = x + 1 where x > 0, else e^x.
pub fn elu1(x: &[f64]) -> Vec<f64> {
    each(x, |x| if x > 0.0 { x + 1.0 } else { x.exp() })
}

/// φ(x) = max(x, 0).
pub fn relu(x: &[f64]) -> Vec<f64> {
    each(x, |x| x.max(0.0))
}

/// φ(x) = max(x, 0)².
pub fn relu2(x: &[f64]) -> Vec<f64> {
    each(x, |x| x.max(0.0).powi(2))
}

/// φ(x) = σ(x).
pub fn sigmoid(x: &[f64]) -> Vec<f64> {
    each(x, |x| 1.0 / (1.0 + (-x).exp()))
}

/// φ(x) = x σ(x).
pub fn silu(x: &[f64]) -> Vec<f64> {
    each(x, |x| x / (1.0 + (-x).exp()))
}

/// φ(x) = e^x.
pub fn exp(x: &[f64]) -> Vec<f64> {
    each(x, f64::exp)
}

/// Softmax over the features.
pub fn softmax(x: &[f64]) -> Vec<f64> {
    let m = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
    let total: f64 = x.iter().map(|x| (x - m).exp()).sum();
    each(x, |x| (x - m).exp() / total)
}

/// Softmax of [2x, −2x]: Hedgehog at its start, W = I. Width 2D.
pub fn hedgehog(x: &[f64]) -> Vec<f64> {
    softmax(&[each(x, |x| 2.0 * x), each(x, |x| -2.0 * x)].concat())
}

/// [1, x / D^¼, vec(x xᵀ) / √(2D)], whose inner product is 1 + s + s²/2 with s = q·k / √D. Width 1 + D + D².
pub fn taylor(x: &[f64]) -> Vec<f64> {
    let d = x.len() as f64;
    let pairs = x.iter().flat_map(|a| x.iter().map(move |b| a * b / (2.0 * d).sqrt())).collect();
    [vec![1.0], each(x, |x| x / d.powf(0.25)), pairs].concat()
}

/// [1, x / D^¼, x_i² / √(2D), x_i x_j / √D (i < j)]: the kernel of [`taylor`] in width 1 + D + D(D + 1)/2.
pub fn taylor_compact(x: &[f64]) -> Vec<f64> {
    let d = x.len() as f64;
    let squares = each(x, |x| x * x / (2.0 * d).sqrt());
    let pairs = (0..x.len()).flat_map(|i| (i + 1..x.len()).map(move |j| x[i] * x[j] / d.sqrt())).collect();
    [vec![1.0], each(x, |x| x / d.powf(0.25)), squares, pairs].concat()
}

/// r = max([x, −x], 0); r ⊙ roll(r, s) for s = 1..ν, where roll moves entry i to i + s. Width 2Dν.
pub fn dpfp(x: &[f64], nu: usize) -> Vec<f64> {
    let r = relu(&[x, &each(x, |x| -x)].concat());
    let n = r.len();
    (1..=nu).flat_map(|s| (0..n).map(|i| r[i] * r[(i + n - s % n) % n]).collect::<Vec<_>>()).collect()
}

fn each(x: &[f64], map: impl Fn(f64) -> f64) -> Vec<f64> {
    x.iter().map(|&x| map(x)).collect()
}
