// Keys of a block of rows: a list of key blocks, as a CSR row or as a row of a block mask.
fn list_base(t: Tile) -> u32 {
    let head = t.head / (args.heads / args.list_heads);
    if (CSR) {
        return args.indptr_offset + t.batch * args.indptr_s0 + head * args.indptr_s1 + t.block * args.indptr_s2;
    }
    return args.indices_offset + t.batch * args.indices_s0 + head * args.indices_s1 + t.block * args.indices_s2;
}
fn block_at(t: Tile, entry: u32) -> i32 {
    let base = list_base(t);
    if (CSR) {
        let head = t.head / (args.heads / args.list_heads);
        let at = u32(indptr_load(base)) + entry;
        if (at >= args.list_length) {
            return -1;
        }
        let block = i32(indices_load(args.indices_offset + t.batch * args.indices_s0 + head * args.indices_s1 + at));
        return select(-1, block, block < i32(args.list_blocks));
    }
    return select(-1, i32(entry), i32(indices_load(base + entry * args.indices_s3)) != 0);
}
// First key of an entry's block, -1 for none.
fn block_key(t: Tile, entry: u32) -> i32 {
    let block = block_at(t, entry);
    return select(-1, block * i32(args.block_keys), block >= 0);
}
fn keys_count(t: Tile, bounds: vec4<i32>) -> u32 {
    if (CSR) {
        let base = list_base(t);
        let count = indptr_load(base + args.indptr_s2) - indptr_load(base);
        return u32(clamp(count, 0, i32(args.list_length))) * args.block_keys;
    }
    return args.list_blocks * args.block_keys;
}
// A key tile is skipped when every block that it touches is absent or lies outside the rows' bounds.
fn keys_skip(t: Tile, bounds: vec4<i32>, first: u32) -> bool {
    let end = min(first + TILE_K, keys_count(t, bounds));
    for (var entry = first / args.block_keys; entry * args.block_keys < end; entry++) {
        let block = block_at(t, entry);
        // The part of the block that lies in the tile.
        let start = block * i32(args.block_keys) - i32(entry * args.block_keys);
        let low = start + i32(max(first, entry * args.block_keys));
        let high = start + i32(min(end, (entry + 1u) * args.block_keys));
        if (block >= 0 && (low < args.prefix || (low < bounds.y && high > bounds.x))) {
            return false;
        }
    }
    return true;
}
// Whether the mask hooks allow every pair of a key tile.
fn keys_full(t: Tile, bounds: vec4<i32>, first: u32) -> bool {
    if (CSR || args.block_keys % TILE_K != 0u) {
        return false;
    }
    return i32(indices_load(list_base(t) + first / args.block_keys * args.indices_s3)) == 2;
}
// Whether the keys of a tile follow each other and are seen by bounds alone.
fn keys_run(first: u32) -> bool {
    return !HAS_PREFIX && args.block_keys % TILE_K == 0u;
}
fn keys_at(t: Tile, bounds: vec4<i32>, slot: u32) -> i32 {
    if (slot >= keys_count(t, bounds)) {
        return -1;
    }
    let block = block_at(t, slot / args.block_keys);
    let j = block * i32(args.block_keys) + i32(slot % args.block_keys);
    return select(-1, j, block >= 0 && j < i32(args.keys));
}
// Of ranges only.
fn band_first(bounds: vec4<i32>) -> i32 {
    return 0;
}
