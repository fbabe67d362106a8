// Adds a multiple of a number.
fn plus(s: f32, at: At, value: f32, factor: f32) -> f32 {
    return s + factor * value;
}
