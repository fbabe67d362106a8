// Raises a score by a share of its magnitude, in rows from `first`.
fn gain(s: f32, at: At, value: f32, first: u32) -> f32 {
    return select(s, s + value * abs(s), at.row >= first);
}
