// Adds scale x.r: x of the row, r of the head and the distance query - key, from a list that begins at distance -shift.
fn relative(s: f32, at: At, shift: i32, depth: u32, scale: f32) -> f32 {
    let row = u32(at.query - at.key + shift);
    var sum = 0.0;
    for (var d = 0u; d < depth; d++) {
        sum += lookup_x(At(at.batch, at.head, at.row, 0, i32(d))) * lookup_r(At(0u, at.head, row, 0, i32(d)));
    }
    return s + scale * sum;
}
