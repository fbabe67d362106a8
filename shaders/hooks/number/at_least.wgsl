// Not less than a number.
fn at_least(s: f32, at: At, least: f32) -> f32 {
    return max(s, least);
}
