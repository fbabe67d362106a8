// Staging of K and V for attend/matrix: vec4 of halves loaded to registers, and stored to one of two tiles.

// The next slot from which a step has keys, at or after `first`.
fn advance(t: Tile, bounds: vec4<i32>, first: u32, slots: u32) -> u32 {
    var at = first;
    while (at < slots && keys_skip(t, bounds, at)) {
        at += TILE_K;
    }
    return at;
}

fn k_part(t: Tile, bounds: vec4<i32>, first: u32, n: u32) -> vec4<f16> {
    let j = keys_at(t, bounds, first + n / (DEPTH_TILES * N4));
    if (n < K_PARTS && j >= 0) {
        let base = args.k_offset + t.batch * args.k_s0 + t.kv_head * args.k_s1 + u32(j) * args.k_s2;
        return k_half4(base, (n % (DEPTH_TILES * N4)) * 4u, args.depth);
    }
    return vec4<f16>();
}

fn v_part(t: Tile, bounds: vec4<i32>, first: u32, n: u32) -> vec4<f16> {
    let j = keys_at(t, bounds, first + n / (VALUE_TILES * N4));
    if (n < V_PARTS && j >= 0) {
        let base = args.v_offset + t.batch * args.v_s0 + t.kv_head * args.v_s1 + u32(j) * args.v_s2;
        return v_half4(base, (n % (VALUE_TILES * N4)) * 4u, args.width);
    }
    return vec4<f16>();
}

fn k_store(buffer: u32, n: u32, x: vec4<f16>) {
    if (n < K_PARTS) {
        k_tile[buffer * TILE_K * K_STRIDE + n / (DEPTH_TILES * N4) * K_STRIDE + n % (DEPTH_TILES * N4)] = x;
    }
}

fn v_store(buffer: u32, n: u32, x: vec4<f16>) {
    if (n < V_PARTS) {
        v_tile[buffer * TILE_K * V_STRIDE + n / (VALUE_TILES * N4) * V_STRIDE + n % (VALUE_TILES * N4)] = x;
    }
}
