// The positive part, over a count (over 1 where the count is 0).
fn relu(s: f32, at: At, count: f32) -> f32 {
    return max(s, 0.0) / max(count, 1.0);
}
