// 1 / ln of a count; 0 for counts below 2.
fn inverse_log(s: f32, at: At) -> f32 {
    return select(0.0, 1.0 / log(max(s, 2.0)), s > 1.5);
}
