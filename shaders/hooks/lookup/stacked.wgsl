// Rows of one tensor, then those of another.
fn stacked(s: f32, at: At, split: u32) -> f32 {
    if (at.row < split) {
        return lookup_a(At(at.batch, at.head, at.row, 0, at.key));
    }
    return lookup_b(At(at.batch, at.head, at.row - split, 0, at.key));
}
