// 1 where a key's number comes before the row's own in descending order, ties by index. Summed over the keys: the rank of the row.
fn ahead(s: f32, at: At, own: f32) -> f32 {
    return select(0.0, 1.0, s > own || (s == own && at.key < i32(at.row)));
}
