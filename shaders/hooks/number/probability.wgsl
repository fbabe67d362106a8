// The weight of a score in the softmax whose log-sum-exp is known.
fn probability(s: f32, at: At, lse: f32) -> f32 {
    return exp(s - lse);
}
