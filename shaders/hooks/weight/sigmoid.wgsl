// The logistic function, exact to its last bits on both sides: weights near 1 / n must keep their relative accuracy.
fn sigmoid(s: f32, at: At) -> f32 {
    let e = exp(-abs(s));
    return select(1.0, e, s < 0.0) / (1.0 + e);
}
