// 1 where two numbers are equal.
fn equals(s: f32, at: At, value: f32) -> f32 {
    return select(0.0, 1.0, s == value);
}
