// Staging of K and V for attend/matrix: vec4 of halves loaded to registers, and stored to one of two tiles.

// The next slot from which a step has keys, at or after `first`.
fn advance(t: Tile, bounds: vec4<i32>, first: u32, slots: u32) -> u32 {
    var at = first;
    while (at < slots && keys_skip(t, bounds, at)) {
        at += TILE_K;
    }
    return at;
}

// A step has no branch and little arithmetic here: where in a row an invocation's vec4 lies is found once (k_place), and a slot without a
// key reads one that the tile does see. Its score is masked.
fn key_of(t: Tile, bounds: vec4<i32>, slot: u32) -> u32 {
    if (RUN) {
        return u32(min(band_first(bounds) + i32(slot), bounds.y - 1));
    }
    return u32(max(keys_at(t, bounds, slot), 0));
}

fn k_place(t: Tile, n: u32) -> u32 {
    let d = min(n % (DEPTH_TILES * N4) * 4u, args.depth - 4u);
    return (args.k_offset + t.batch * args.k_s0 + t.kv_head * args.k_s1 + d) >> 2u;
}
fn v_place(t: Tile, n: u32) -> u32 {
    let d = min(n % (VALUE_TILES * N4) * 4u, args.width - 4u);
    return (args.v_offset + t.batch * args.v_s0 + t.kv_head * args.v_s1 + d) >> 2u;
}

fn k_part(t: Tile, bounds: vec4<i32>, first: u32, n: u32, place: u32) -> vec4<f16> {
    let x = k_raw_at(place + key_of(t, bounds, first + n / (DEPTH_TILES * N4)) * (args.k_s2 >> 2u));
    if (EXACT) {
        return x;
    }
    return select(x, vec4<f16>(), vec4<bool>(n % (DEPTH_TILES * N4) * 4u >= args.depth));
}
fn v_part(t: Tile, bounds: vec4<i32>, first: u32, n: u32, place: u32) -> vec4<f16> {
    return v_raw_at(place + key_of(t, bounds, first + n / (VALUE_TILES * N4)) * (args.v_s2 >> 2u));
}

fn k_store(buffer: u32, n: u32, x: vec4<f16>) {
    if (K_PARTS % WORKGROUP == 0u || n < K_PARTS) {
        k_tile[buffer * TILE_K * K_STRIDE + n / (DEPTH_TILES * N4) * K_STRIDE + n % (DEPTH_TILES * N4)] = x;
    }
}

fn v_store(buffer: u32, n: u32, x: vec4<f16>) {
    if (V_PARTS % WORKGROUP == 0u || n < V_PARTS) {
        v_tile[buffer * TILE_K * V_STRIDE + n / (VALUE_TILES * N4) * V_STRIDE + n % (VALUE_TILES * N4)] = x;
    }
}
