// Whether one of the rectangles q0 <= i < q1, k0 <= j < k1 holds the pair: all of it (kind 0), its lower left (1: the last row sees its last
// key), its upper right (2: row 0 sees all, the rectangle's diagonal starts at its first key), or what both share (3).
fn slices(at: At, count: u32) -> bool {
    let i = i32(at.row);
    for (var n = 0u; n < count; n++) {
        let q0 = lookup_list(At(0u, 0u, n, 0, 0));
        let q1 = lookup_list(At(0u, 0u, n, 0, 1));
        let k0 = lookup_list(At(0u, 0u, n, 0, 2));
        let k1 = lookup_list(At(0u, 0u, n, 0, 3));
        let kind = lookup_list(At(0u, 0u, n, 0, 4));
        let inside = q0 <= i && i < q1 && k0 <= at.key && at.key < k1;
        let lower = (kind & 1) == 0 || at.key - k1 <= i - q1;
        let upper = (kind & 2) == 0 || at.key - k0 >= i - q0;
        if (inside && lower && upper) {
            return true;
        }
    }
    return false;
}
