// The column that comes at place `at.key` when row `row` of a tensor is sorted in descending order, ties by index.
fn ranked(s: f32, at: At, count: i32, row: i32) -> f32 {
    for (var j = 0; j < count; j++) {
        let own = lookup_x(At(at.batch, at.head, u32(row), 0, j));
        var rank = 0;
        for (var n = 0; n < count; n++) {
            let other = lookup_x(At(at.batch, at.head, u32(row), 0, n));
            rank += select(0, 1, other > own || (other == own && n < j));
        }
        if (rank == at.key) {
            return f32(j);
        }
    }
    return 0.0;
}
