// Keys and values of attend/decode on their way.

// Eight numbers from `d` (a multiple of 8) of the row of a key. No branch: a slot without a key reads the first one, and the end of a row
// that is no multiple of 8 is read twice; neither counts, because its weight or its factor in q is 0.
fn key_row(t: Tile, bounds: vec4<i32>, slot: u32, d: u32) -> array<k_raw, 2> {
    let j = u32(max(keys_at(t, bounds, slot), 0));
    let base = args.k_offset + t.batch * args.k_s0 + t.kv_head * args.k_s1 + j * args.k_s2;
    if (WIDE) {
        let i = ((base + min(d, args.depth - 8u)) >> 3u) * 2u;
        return array<k_raw, 2>(k_raw_at(i), k_raw_at(i + 1u));
    }
    return array<k_raw, 2>(k_raw4(base, d, args.depth), k_raw4(base, d + 4u, args.depth));
}
fn value_row(t: Tile, bounds: vec4<i32>, slot: u32, d: u32) -> array<v_raw, 2> {
    let j = u32(max(keys_at(t, bounds, slot), 0));
    let base = args.v_offset + t.batch * args.v_s0 + t.kv_head * args.v_s1 + j * args.v_s2;
    if (WIDE) {
        let i = ((base + min(d, args.width - 8u)) >> 3u) * 2u;
        return array<v_raw, 2>(v_raw_at(i), v_raw_at(i + 1u));
    }
    return array<v_raw, 2>(v_raw4(base, d, args.width), v_raw4(base, d + 4u, args.width));
}

fn advance(t: Tile, bounds: vec4<i32>, first: u32, slots: u32) -> u32 {
    var at = first;
    while (at < slots && keys_skip(t, bounds, at)) {
        at += TILE_K;
    }
    return at;
}

// By bits: arithmetic may assume that there is no NaN.
fn stained(x: vec4<f32>) -> bool {
    return any((bitcast<vec4<u32>>(x) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u));
}
