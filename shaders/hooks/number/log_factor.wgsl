// A factor of the weight: its logarithm joins the score, and 0 hides the pair.
fn log_factor(s: f32, at: At, factor: f32) -> f32 {
    return select(-1e30, s + log(max(factor, 1e-38)), factor > 0.0);
}
