// Sum of another tensor over heads h0 <= h < h1, rows i0 <= i < i1 and columns j0 <= j < j1 of the batch entry.
fn box_sum(s: f32, at: At, h0: i32, h1: i32, i0: i32, i1: i32, j0: i32, j1: i32) -> f32 {
    var sum = 0.0;
    for (var h = h0; h < h1; h++) {
        for (var i = i0; i < i1; i++) {
            for (var j = j0; j < j1; j++) {
                sum += lookup_x(At(at.batch, u32(h), u32(i), 0, j));
            }
        }
    }
    return sum;
}
