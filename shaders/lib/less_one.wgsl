// e^g - 1. S + (e^g - 1) S keeps a slow decay that e^g rounds: the same factor every step, its error would add up.
fn less_one(g: f32) -> f32 {
    let near = g * (1.0 + g / 2.0 * (1.0 + g / 3.0 * (1.0 + g / 4.0 * (1.0 + g / 5.0 * (1.0 + g / 6.0)))));
    return select(exp(g) - 1.0, near, abs(g) < 0.25);
}
