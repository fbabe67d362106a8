// The element of another tensor, 0 past its width; `share` heads read one of its heads.
fn padded(s: f32, at: At, width: i32, share: u32) -> f32 {
    if (at.key >= width) {
        return 0.0;
    }
    return lookup_x(At(at.batch, at.head / share, at.row, 0, at.key));
}
