// Staging of Q, K and V for attend/tile.

fn key_at(first: i32, slot: u32) -> i32 {
    if (RUN) {
        return first + i32(slot);
    }
    return key_of[slot];
}

fn stage_chunk(t: Tile, lane: u32, first: i32, last: i32, depth: u32) {
    for (var n = lane; n < TILE_Q * CHUNK; n += WORKGROUP) {
        let at = row_at(t, n / CHUNK);
        var x = vec4<f32>();
        if (at.valid) {
            let base = args.q_offset + t.batch * args.q_s0 + at.head * args.q_s1 + at.row * args.q_s2;
            x = q_load4(base, depth + (n % CHUNK) * 4u, args.depth);
        }
        operands[n / CHUNK * STRIDE + n % CHUNK] = x;
    }
    for (var n = lane; n < TILE_K * CHUNK; n += WORKGROUP) {
        let j = key_at(first, n / CHUNK);
        var x = vec4<f32>();
        if (j >= 0 && j < last) {
            let base = args.k_offset + t.batch * args.k_s0 + t.kv_head * args.k_s1 + u32(j) * args.k_s2;
            x = k_load4(base, depth + (n % CHUNK) * 4u, args.depth);
        }
        operands[(TILE_Q + n / CHUNK) * STRIDE + n % CHUNK] = x;
    }
}

fn stage_values(t: Tile, lane: u32, first: i32, last: i32, slot: u32, whole: bool) {
    for (var n = lane; n < VALUE_KEYS * VALUE_ROW; n += WORKGROUP) {
        let j = key_at(first, slot + n / VALUE_ROW);
        var x = vec4<f32>();
        if (j >= 0 && j < last) {
            let base = args.v_offset + t.batch * args.v_s0 + t.kv_head * args.v_s1 + u32(j) * args.v_s2;
            x = v_load4(base, (n % VALUE_ROW) * 4u, args.width);
        }
        operands[n] = x;
        // By bits: arithmetic may assume that there is no NaN. All who store, store the same.
        if (!whole && any((bitcast<vec4<u32>>(x) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u))) {
            stained = 1u;
        }
    }
}
