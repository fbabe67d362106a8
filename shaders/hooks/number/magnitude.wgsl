// Without its sign.
fn magnitude(s: f32, at: At) -> f32 {
    return abs(s);
}
