// Subtracts the logarithm of a count (of 1 where the count is 0).
fn neg_log(s: f32, at: At, count: f32) -> f32 {
    return s - log(max(count, 1.0));
}
