// Keys of one query: a list of blocks of block_keys keys (1: of tokens), -1 for an empty place.
fn entry_at(t: Tile, entry: u32) -> i32 {
    let head = t.head / (args.heads / args.list_heads);
    return indices_load(args.indices_offset + t.batch * args.indices_s0 + head * args.indices_s1 + t.block * args.indices_s2
        + entry * args.indices_s3);
}
// First key of an entry; -1 when it is empty or lies past the last key.
fn block_key(t: Tile, entry: u32) -> i32 {
    let block = entry_at(t, entry);
    // Compared before the product, which a stray index could make overflow.
    let inside = block >= 0 && u32(block) <= (args.keys - 1u) / args.block_keys;
    return select(-1, block * i32(args.block_keys), inside);
}
fn keys_count(t: Tile, bounds: vec4<i32>) -> u32 {
    return args.list_length * args.block_keys;
}
// A key tile inside one entry is skipped when the entry is empty or lies outside the rows' bounds.
fn keys_skip(t: Tile, bounds: vec4<i32>, first: u32) -> bool {
    if (args.block_keys % TILE_K != 0u) {
        return false;
    }
    let base = block_key(t, first / args.block_keys);
    let j = base + i32(first % args.block_keys);
    return base < 0 || (j >= args.prefix && (j >= bounds.y || j + i32(TILE_K) <= bounds.x));
}
fn keys_full(t: Tile, bounds: vec4<i32>, first: u32) -> bool {
    return false;
}
// Whether the keys of a tile follow each other and are seen by bounds alone.
fn keys_run(first: u32) -> bool {
    return !HAS_PREFIX && args.block_keys % TILE_K == 0u;
}
fn keys_at(t: Tile, bounds: vec4<i32>, slot: u32) -> i32 {
    if (slot >= keys_count(t, bounds)) {
        return -1;
    }
    let base = block_key(t, slot / args.block_keys);
    let j = base + i32(slot % args.block_keys);
    return select(-1, j, base >= 0 && j < i32(args.keys));
}
// Of ranges only.
fn band_first(bounds: vec4<i32>) -> i32 {
    return 0;
}
