// Linear bias by distance.
fn alibi(s: f32, at: At, slope: f32) -> f32 {
    return s - slope * f32(abs(at.query - at.key));
}
