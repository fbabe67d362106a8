// Times a number.
fn times(s: f32, at: At, value: f32) -> f32 {
    return s * value;
}
