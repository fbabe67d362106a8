// 1 at 0, falling to 0 at a distance of 1: the weights of linear interpolation.
fn hat(s: f32, at: At) -> f32 {
    return max(1.0 - abs(s), 0.0);
}
