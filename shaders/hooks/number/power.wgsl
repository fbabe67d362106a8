// A power of a number above 0. The common ones are exact; the rest goes through logarithms.
fn power(s: f32, at: At, exponent: f32) -> f32 {
    if (exponent == -1.0) {
        return 1.0 / s;
    }
    if (abs(exponent) == 0.5) {
        let root = sqrt(s);
        return select(1.0 / root, root, exponent > 0.0);
    }
    return exp2(exponent * log2(s));
}
