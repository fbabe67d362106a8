// Staging of Q, K and V for attend/tile. Loads are unrolled and have no branch, so that all of them are on their way before the first is
// stored. Where there is nothing to read (another row, another key) they read what there is near: nobody looks at the result.

fn key_at(first: i32, slot: u32) -> i32 {
    if (RUN) {
        return first + i32(slot);
    }
    return key_of[slot];
}

// Where a row of Q begins.
fn query_base(t: Tile, row: u32) -> u32 {
    let at = row_at(t, row);
    return args.q_offset + t.batch * args.q_s0 + at.head * args.q_s1 + min(at.row, args.queries - 1u) * args.q_s2;
}

// Blocks of four rows x four of depth: neighbours read what lies side by side.
fn ask(t: Tile, lane: u32, first: i32, last: i32, depth: u32, base: ptr<function, array<u32, 4u * Q_EACH>>,
       q: ptr<function, array<q_raw, 4u * Q_EACH>>, k: ptr<function, array<k_raw, 4u * K_EACH>>) {
    for (var n = 0u; n < 4u * Q_EACH; n++) { // unroll
        (*q)[n] = q_raw4((*base)[n], depth + (lane + n / 4u * WORKGROUP) % CHUNK * 4u, args.depth);
    }
    let begin = args.k_offset + t.batch * args.k_s0 + t.kv_head * args.k_s1;
    for (var n = 0u; n < 4u * K_EACH; n++) { // unroll
        let block = min(lane + n / 4u * WORKGROUP, K_BLOCKS - 1u);
        let j = key_at(first, block / CHUNK * 4u + n % 4u);
        (*k)[n] = k_raw4(begin + u32(clamp(j, 0, last - 1)) * args.k_s2, depth + block % CHUNK * 4u, args.depth);
    }
}

// Turns a block, so that one vec4 holds one depth of four rows. Without the exclusive or, the blocks that a subgroup stores would lie in
// the same banks.
fn stage(begin: u32, row: u32, block: u32, depth: u32, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
    let deep = block % CHUNK;
    let place = begin + deep * 4u * row + ((block / CHUNK) ^ (deep * 2u));
    // Past the end of the depth the last four were read again.
    let real = vec4<bool>(EXACT | (depth + deep * 4u < args.depth));
    if (block < row * CHUNK) {
        operands[place] = select(vec4<f32>(), vec4<f32>(a.x, b.x, c.x, d.x), real);
        operands[place + row] = select(vec4<f32>(), vec4<f32>(a.y, b.y, c.y, d.y), real);
        operands[place + 2u * row] = select(vec4<f32>(), vec4<f32>(a.z, b.z, c.z, d.z), real);
        operands[place + 3u * row] = select(vec4<f32>(), vec4<f32>(a.w, b.w, c.w, d.w), real);
    }
}

// Slots follow each other by fours of keys: first of all the first of each four.
fn ask_values(t: Tile, lane: u32, first: i32, last: i32, part: u32, v: ptr<function, array<v_raw, V_EACH>>) {
    let begin = args.v_offset + t.batch * args.v_s0 + t.kv_head * args.v_s1;
    for (var n = 0u; n < V_EACH; n++) { // unroll
        let i = lane + n * WORKGROUP;
        let slot = min(part + i / VALUE_ROW, TILE_K - 1u);
        let j = key_at(first, slot % K_ROW * 4u + slot / K_ROW);
        (*v)[n] = v_raw4(begin + u32(clamp(j, 0, last - 1)) * args.v_s2, i % VALUE_ROW * 4u, args.width);
    }
}

// By bits: arithmetic may assume that there is no NaN.
fn endless(x: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(x) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u);
}

// A masked key's NaN or infinity must not reach the row, 0 * NaN is NaN: where something is masked it is staged as 0 and added for those
// who see it. All who store `stained`, store the same.
fn stage_values(lane: u32, whole: bool, v: ptr<function, array<v_raw, V_EACH>>) {
    for (var n = 0u; n < V_EACH; n++) { // unroll
        let i = lane + n * WORKGROUP;
        var x = v_real((*v)[n]);
        if (!whole) {
            let bad = endless(x);
            x = select(x, vec4<f32>(), bad);
            if (any(bad)) {
                stained = 1u;
            }
        }
        if (VALUE_KEYS * VALUE_ROW % WORKGROUP == 0u || i < VALUE_KEYS * VALUE_ROW) {
            operands[VALUES + i] = x;
        }
    }
}

// Of causal rows the last ones see most keys: those of all heads start first, so that none of them is left for the end. In ranges of keys, tile i
// of the rows has i - r * share tiles of keys in range r, and at most a share: whole ranges first, then by what they have, empty ones last.
fn longest_first(group: u32) -> u32 {
    if (args.causal == 0u) {
        return group;
    }
    let tiles = args.tiles_per_block * args.row_blocks;
    let units = args.heads / args.pack * args.batch;
    var tile = tiles - 1u - group / units % tiles;
    var split = group / units / tiles;
    if (tiles % args.splits == 0u) {
        let share = tiles / args.splits;
        var at = group / units;                           // among those that have b + 1 ranges, then among empty ones of range b
        var b = 0u;
        while (b < args.splits && at >= (b + 1u) * share) {
            at -= (b + 1u) * share;
            b += 1u;
        }
        if (b < args.splits) {
            split = at % (b + 1u);
            tile = tiles - 1u - b * share - at / (b + 1u) + split * share;
        } else {
            b = 1u;
            while (at >= b * share) {
                at -= b * share;
                b += 1u;
            }
            split = b;
            tile = at;
        }
    }
    return (split * units + group % units) * tiles + tiles - 1u - tile;
}

// The first key tile from `slot` on that is not skipped. A loop of its own: adapters that run both sides of a branch would pay for the tile.
fn next_tile(t: Tile, bounds: vec4<i32>, slot: u32, slots: u32) -> u32 {
    var at = slot;
    while (at < slots && keys_skip(t, bounds, at)) {
        at += TILE_K;
    }
    return at;
}
