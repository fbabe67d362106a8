// The natural logarithm of a number above 0.
fn logarithm(s: f32, at: At) -> f32 {
    return log(s);
}
