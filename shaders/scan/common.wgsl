// What the portable forms of the scan share, beside scan/state and scan/addresses: tokens, decay.

fn g_row(t: Tile, j: u32) -> u32 {
    return args.g_offset + t.batch * args.g_s0 + (t.head / args.g_share) * args.g_s1 + j * args.g_s2;
}

// Four channels of a key times its write weight.
fn written_key(t: Tile, j: u32, d: u32) -> vec4<f32> {
    if (!kept(t, j)) {
        return vec4<f32>();
    }
    var x = k_load4(k_row(t, j), d, args.depth);
    if (HAS_WRITE) {
        x *= w(At(t.batch, t.head, j, 0, 0));
    }
    return x;
}

// Four channels of the bonus.
fn bonus4(t: Tile, d: u32) -> vec4<f32> {
    var x = vec4<f32>();
    for (var n = 0u; n < 4u; n++) {
        if (d + n < args.depth) {
            x[n] = u(At(t.batch, t.head, 0u, 0, i32(d + n)));
        }
    }
    return x;
}

fn token_decay(t: Tile, j: u32) -> f32 {
    if (SCALAR && kept(t, j)) {
        return g_scalar(At(t.batch, t.head, j, 0, 0));
    }
    return 0.0;
}
