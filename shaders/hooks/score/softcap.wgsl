// Bounds a score to (-cap, cap). tanh by its exponential form: WGSL's own may be wrong by 1e-5 and overflow.
fn softcap(s: f32, at: At, cap: f32) -> f32 {
    let e = exp(-2.0 * abs(s / cap));
    return sign(s) * cap * (1.0 - e) / (1.0 + e);
}
