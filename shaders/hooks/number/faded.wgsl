// Times what is left of a key's weight at the row: e to the row's sum of log decays less the key's.
fn faded(s: f32, at: At, row: f32, key: f32) -> f32 {
    return s * exp(row - key);
}
