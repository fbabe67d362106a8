// 0 at one key.
fn except(s: f32, at: At, key: i32) -> f32 {
    return select(s, 0.0, at.key == key);
}
