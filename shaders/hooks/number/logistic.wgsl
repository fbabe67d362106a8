// The logistic function, without an overflow.
fn logistic(s: f32, at: At) -> f32 {
    let e = exp(-abs(s));
    return select(e, 1.0, s >= 0.0) / (1.0 + e);
}
