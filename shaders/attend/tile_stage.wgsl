// Staging of Q, K and V for attend/tile.

fn key_at(first: i32, slot: u32) -> i32 {
    if (RUN) {
        return first + i32(slot);
    }
    return key_of[slot];
}

// Loads are unrolled and have no branch, so that all of them are on their way before the first is stored. What they read where there is
// nothing to read (another row, another key) is cleared.
fn stage_chunk(t: Tile, lane: u32, first: i32, last: i32, depth: u32) {
    for (var n = 0u; n < Q_EACH; n++) { // unroll
        let i = lane + n * WORKGROUP;
        let at = row_at(t, i / CHUNK);
        let d = depth + i % CHUNK * 4u;
        let base = args.q_offset + t.batch * args.q_s0 + at.head * args.q_s1 + min(at.row, args.queries - 1u) * args.q_s2;
        let x = q_real(q_raw4(base, d, args.depth));
        operands[i / CHUNK * STRIDE + i % CHUNK] = select(vec4<f32>(), x, at.valid & (d < args.depth));
    }
    for (var n = 0u; n < K_EACH; n++) { // unroll
        let i = lane + n * WORKGROUP;
        let j = key_at(first, i / CHUNK);
        let d = depth + i % CHUNK * 4u;
        let base = args.k_offset + t.batch * args.k_s0 + t.kv_head * args.k_s1 + u32(clamp(j, 0, last - 1)) * args.k_s2;
        let x = k_real(k_raw4(base, d, args.depth));
        operands[(TILE_Q + i / CHUNK) * STRIDE + i % CHUNK] = select(vec4<f32>(), x, (j >= 0) & (j < last) & (d < args.depth));
    }
}

fn stage_values(t: Tile, lane: u32, first: i32, last: i32, slot: u32, whole: bool) {
    for (var n = 0u; n < V_EACH; n++) { // unroll
        let i = lane + n * WORKGROUP;
        let j = key_at(first, slot + i / VALUE_ROW);
        let d = i % VALUE_ROW * 4u;
        let base = args.v_offset + t.batch * args.v_s0 + t.kv_head * args.v_s1 + u32(clamp(j, 0, last - 1)) * args.v_s2;
        let y = v_real(v_raw4(base, d, args.width));
        let x = select(vec4<f32>(), y, (j >= 0) & (j < last) & (d < args.width));
        if (VALUE_KEYS * VALUE_ROW % WORKGROUP == 0u || i < VALUE_KEYS * VALUE_ROW) {
            operands[i] = x;
        }
        // By bits: arithmetic may assume that there is no NaN. All who store, store the same.
        if (!whole & any((bitcast<vec4<u32>>(x) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u))) {
            stained = 1u;
        }
    }
}

// The first key tile from `slot` on that is not skipped. A loop of its own: adapters that run both sides of a branch would pay for the tile.
fn next_tile(t: Tile, bounds: vec4<i32>, slot: u32, slots: u32) -> u32 {
    var at = slot;
    while (at < slots && keys_skip(t, bounds, at)) {
        at += TILE_K;
    }
    return at;
}
