// What rows of q and k go through before anything else: features, a turn of neighbouring channels. A norm is a factor of
// the row, from its sum of squares.

fn mapped(kind: u32, x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(elementwise(kind, x.x), elementwise(kind, x.y), elementwise(kind, x.z), elementwise(kind, x.w));
}

// Channels d .. d + 4 of token i, turned.
fn turned(i: u32, d: u32, x: vec4<f32>) -> vec4<f32> {
    let row = args.turns_offset + min(i, args.tokens - 1u) * args.turns_s2;
    let r = turns_real(turns_raw4(row, d, args.depth));
    return vec4<f32>(x.x * r.x - x.y * r.y, x.y * r.x + x.x * r.y, x.z * r.z - x.w * r.w, x.w * r.z + x.z * r.w);
}

fn q_made(i: u32, d: u32, x: vec4<f16>) -> vec4<f32> {
    var y = mapped(Q_MAP, vec4<f32>(x));
    if (Q_TURN) {
        y = turned(i, d, y) * args.q_factor;
    }
    return y;
}

fn k_made(i: u32, d: u32, x: vec4<f16>) -> vec4<f32> {
    var y = mapped(K_MAP, vec4<f32>(x));
    if (K_TURN) {
        y = turned(i, d, y) * args.k_factor;
    }
    return y;
}

// A row of zeros without eps stays one.
fn norm_factor(squares: f32, eps: f32, factor: f32) -> f32 {
    let mean = squares / f32(args.depth) + eps;
    return select(factor / sqrt(mean), 0.0, mean == 0.0);
}

// The same as halves, times the row's factor.
fn k_half(i: u32, d: u32, x: vec4<f16>, by: f32) -> vec4<f16> {
    if (K_MAP == 0u && !K_TURN && !K_NORM) {
        return x;
    }
    return vec4<f16>(k_made(i, d, x) * by);
}

fn q_half(i: u32, d: u32, x: vec4<f16>, by: f32) -> vec4<f16> {
    if (Q_MAP == 0u && !Q_TURN && !Q_NORM) {
        return x;
    }
    return vec4<f16>(q_made(i, d, x) * by);
}
