// 0 where a flag is set.
fn silence(s: f32, at: At, flag: bool) -> f32 {
    return select(s, 0.0, flag);
}
