// Adds a bias.
fn bias(s: f32, at: At, value: f32) -> f32 {
    return s + value;
}
