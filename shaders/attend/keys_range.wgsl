// Keys of a tile of rows: an always-visible prefix, then the band between the tile's bounds.
fn prefix_keys() -> u32 {
    if (!HAS_PREFIX) {
        return 0u;
    }
    return u32(clamp(args.prefix, 0, i32(args.keys)));
}
fn prefix_slots() -> u32 {
    return (prefix_keys() + TILE_K - 1u) / TILE_K * TILE_K;
}
// The band begins after the prefix: no key is visited twice.
fn band_first(bounds: vec4<i32>) -> i32 {
    return max(bounds.x, i32(prefix_keys()));
}
fn keys_count(t: Tile, bounds: vec4<i32>) -> u32 {
    return prefix_slots() + u32(max(bounds.y - band_first(bounds), 0));
}
fn keys_skip(t: Tile, bounds: vec4<i32>, first: u32) -> bool {
    return false;
}
// Of lists only.
fn block_key(t: Tile, entry: u32) -> i32 {
    return -1;
}
fn keys_full(t: Tile, bounds: vec4<i32>, first: u32) -> bool {
    return false;
}
// Whether the keys of a tile follow each other and are seen by bounds alone.
fn keys_run(first: u32) -> bool {
    return !HAS_PREFIX || first >= prefix_slots();
}
fn keys_at(t: Tile, bounds: vec4<i32>, slot: u32) -> i32 {
    let head = prefix_slots();
    if (HAS_PREFIX && slot < head) {
        return select(-1, i32(slot), slot < prefix_keys());
    }
    let j = band_first(bounds) + i32(slot - head);
    return select(-1, j, j < bounds.y);
}
