// Adds the head's bias of the bucket of the distance key - query.
fn bucket_bias(s: f32, at: At, shift: i32) -> f32 {
    let b = lookup_list(At(0u, 0u, 0u, 0, at.key - at.query + shift));
    return s + lookup_bias(At(0u, at.head, 0u, 0, b));
}
