// The element of a tensor at another head.
fn pick(s: f32, at: At, head: i32) -> f32 {
    return lookup_x(At(at.batch, u32(head), at.row, 0, at.key));
}
