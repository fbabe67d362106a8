// 1 above a threshold, else `low`.
fn above(s: f32, at: At, threshold: f32, low: f32) -> f32 {
    return select(low, 1.0, s > threshold);
}
