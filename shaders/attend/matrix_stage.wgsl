// Staging of K and V for attend/matrix: vec4 of halves loaded to registers, and stored to one of two tiles.

// The first step comes after this one.
fn none() -> Step {
    return Step(0u - TILE_K, 0, false, 0u);
}

// The next step that has keys.
fn advance(t: Tile, bounds: vec4<i32>, now: Step, slots: u32) -> Step {
    var at = now.slot + TILE_K;
    if (ALIGNED) {
        let key = now.key + i32(TILE_K);
        if ((at < now.end) & (key < bounds.y)) {
            return Step(at, key, now.full, now.end);
        }
        return next_block(t, bounds, now.end / args.block_keys, slots);
    }
    while (at < slots && keys_skip(t, bounds, at)) {
        at += TILE_K;
    }
    return Step(at, 0, false, slots);
}

// The first step of the next block that rows see, from an entry on. Eight entries are asked at once: each waits for memory.
fn next_block(t: Tile, bounds: vec4<i32>, entry: u32, slots: u32) -> Step {
    let size = i32(args.block_keys);
    let entries = slots / args.block_keys;
    for (var first = entry; first < entries; first += 8u) {
        var found = entries;
        var key = 0;
        for (var n = 0u; n < 8u; n++) { // unroll
            let e = first + 7u - n;                        // the earliest last
            let start = block_key(t, min(e, entries - 1u));
            let seen = (e < entries) & (start >= 0) & (start < bounds.y) & (start > bounds.x - size);
            found = select(found, e, seen);
            key = select(key, start, seen);
        }
        if (found < entries) {
            let before = u32(max(bounds.x - key, 0)) / TILE_K * TILE_K;
            let slot = found * args.block_keys;
            return Step(slot + before, key + i32(before), HAS_MASK && keys_full(t, bounds, slot), slot + args.block_keys);
        }
    }
    return Step(slots, 0, false, slots);
}

// A step has no branch and little arithmetic here: where in a row an invocation's vec4 lies is found once (k_place), and a slot without a
// key reads one that the tile does see. Its score is masked.
fn key_of(t: Tile, bounds: vec4<i32>, step: Step, n: u32) -> u32 {
    if (RUN) {
        return u32(min(band_first(bounds) + i32(step.slot + n), bounds.y - 1));
    }
    if (ALIGNED) {
        return min(u32(step.key) + n, args.keys - 1u);
    }
    return u32(max(keys_at(t, bounds, step.slot + n), 0));
}

fn k_place(t: Tile, n: u32) -> u32 {
    let d = min(n % (DEPTH_TILES * N4) * 4u, args.depth - 4u);
    return (args.k_offset + t.batch * args.k_s0 + t.kv_head * args.k_s1 + d) >> 2u;
}
fn v_place(t: Tile, n: u32) -> u32 {
    let d = min(n % (VALUE_TILES * N4) * 4u, args.width - 4u);
    return (args.v_offset + t.batch * args.v_s0 + t.kv_head * args.v_s1 + d) >> 2u;
}

fn k_part(t: Tile, bounds: vec4<i32>, step: Step, n: u32, place: u32) -> vec4<f16> {
    let x = k_raw_at(place + key_of(t, bounds, step, n / (DEPTH_TILES * N4)) * (args.k_s2 >> 2u));
    if (EXACT) {
        return x;
    }
    return select(x, vec4<f16>(), vec4<bool>(n % (DEPTH_TILES * N4) * 4u >= args.depth));
}
fn v_part(t: Tile, bounds: vec4<i32>, step: Step, n: u32, place: u32) -> vec4<f16> {
    return v_raw_at(place + key_of(t, bounds, step, n / (VALUE_TILES * N4)) * (args.v_s2 >> 2u));
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
