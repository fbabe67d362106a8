// Features of one channel, by their number in `transform::Feature`.

// 1 / (1 + e^-x) without an overflow.
fn sigmoid(x: f32) -> f32 {
    let e = exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

fn elementwise(kind: u32, x: f32) -> f32 {
    switch kind {
        case 1u: {
            return select(exp(min(x, 0.0)), x + 1.0, x > 0.0);
        }
        case 2u: {
            return max(x, 0.0);
        }
        case 3u: {
            return max(x, 0.0) * max(x, 0.0);
        }
        case 4u: {
            return x * sigmoid(x);
        }
        case 5u: {
            return sigmoid(x);
        }
        case 6u: {
            return exp(x);
        }
        default: {
            return x;
        }
    }
}
