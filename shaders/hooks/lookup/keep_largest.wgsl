// 0 unless the column is among the `most` largest of its row of a tensor, ties by index.
fn keep_largest(s: f32, at: At, count: i32, most: i32) -> f32 {
    let own = lookup_x(At(at.batch, at.head, at.row, 0, at.key));
    var rank = 0;
    for (var n = 0; n < count; n++) {
        let other = lookup_x(At(at.batch, at.head, at.row, 0, n));
        rank += select(0, 1, other > own || (other == own && n < at.key));
    }
    return select(0.0, s, rank < most);
}
