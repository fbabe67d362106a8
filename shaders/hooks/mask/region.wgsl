// Rows first <= i < first + count whose flag in a row of a table is set.
fn region(at: At, first: i32, count: i32, row: u32) -> bool {
    let p = i32(at.row) - first;
    if (p < 0 || p >= count) {
        return false;
    }
    return lookup_flags(At(0u, 0u, row, 0, p));
}
