// Every allowed key weighs 1: the mass counts them.
fn one(s: f32, at: At) -> f32 {
    return 1.0;
}
