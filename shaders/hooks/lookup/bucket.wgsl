// Adds the bucket of the distance key - query, from a list that begins at distance -shift.
fn bucket(s: f32, at: At, shift: i32) -> f32 {
    return s + f32(lookup_list(At(0u, 0u, 0u, 0, at.key - at.query + shift)));
}
