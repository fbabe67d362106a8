// A multiple of another number instead of the score.
fn take(s: f32, at: At, value: f32, factor: f32) -> f32 {
    return factor * value;
}
