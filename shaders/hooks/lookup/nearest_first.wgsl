// Where a segment begins when the segments of a row are placed downwards from `end` in descending order of their numbers, ties by index.
fn nearest_first(s: f32, at: At, count: i32, end: f32) -> f32 {
    let own = lookup_x(At(at.batch, at.head, at.row, 0, at.key));
    var start = end - f32(lookup_length(At(0u, 0u, 0u, 0, at.key)));
    for (var n = 0; n < count; n++) {
        let other = lookup_x(At(at.batch, at.head, at.row, 0, n));
        if (other > own || (other == own && n < at.key)) {
            start -= f32(lookup_length(At(0u, 0u, 0u, 0, n)));
        }
    }
    return start;
}
