// Divides by a number; 0 where that is 0.
fn over(s: f32, at: At, value: f32) -> f32 {
    return select(s / value, 0.0, value == 0.0);
}
