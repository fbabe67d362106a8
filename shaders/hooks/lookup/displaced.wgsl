// Moved by as much as a segment that began at `origin` was: to x of the row's group and the segment.
fn displaced(s: f32, at: At, origin: f32, segment: i32, group: i32) -> f32 {
    return s + origin - lookup_x(At(at.batch, at.head, u32(group), 0, segment));
}
