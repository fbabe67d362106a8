// Columns of one tensor, then those of another.
fn joined(s: f32, at: At, split: i32) -> f32 {
    if (at.key < split) {
        return lookup_a(At(at.batch, at.head, at.row, 0, at.key));
    }
    return lookup_b(At(at.batch, at.head, at.row, 0, at.key - split));
}
