// ln of the logistic function, without an overflow and without losing what is small beside 1.
fn log_sigmoid(s: f32, at: At) -> f32 {
    let e = exp(-abs(s));
    let near = e * (1.0 - e * (0.5 - e * (0.33333334 - e * 0.25)));
    return min(s, 0.0) - select(log(1.0 + e), near, e < 0.02);
}
