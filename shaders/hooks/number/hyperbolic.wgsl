// tanh to f32's precision; WGSL's own promises only 1e-5. Near 0, where 1 - e keeps few bits, an odd polynomial (that of Cephes' tanhf).
fn hyperbolic(s: f32, at: At) -> f32 {
    let e = exp(-2.0 * abs(s));
    let z = min(s * s, 1.0);
    let tail = z * (0.0206390888 - 0.00570498873 * z);
    let near = s + s * (z * (-0.333332819 + z * (0.133314422 + z * (-0.0537397156 + tail))));
    return select(sign(s) * (1.0 - e) / (1.0 + e), near, abs(s) < 0.625);
}
