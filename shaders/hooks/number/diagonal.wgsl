// Adds a number where the key is the row.
fn diagonal(s: f32, at: At, value: f32) -> f32 {
    return select(s, s + value, at.key == i32(at.row));
}
