// Keys of a tile of rows: an always-visible prefix, then the band between the tile's bounds.
fn prefix_keys(bounds: vec4<i32>) -> u32 {
    return u32(clamp(min(args.prefix, bounds.x), 0, i32(args.keys)));
}
fn prefix_slots(bounds: vec4<i32>) -> u32 {
    return (prefix_keys(bounds) + TILE_K - 1u) / TILE_K * TILE_K;
}
fn keys_count(t: Tile, bounds: vec4<i32>) -> u32 {
    return prefix_slots(bounds) + u32(max(bounds.y - bounds.x, 0));
}
fn keys_skip(t: Tile, bounds: vec4<i32>, first: u32) -> bool {
    return false;
}
fn keys_at(t: Tile, bounds: vec4<i32>, slot: u32) -> i32 {
    let head = prefix_slots(bounds);
    if (slot < head) {
        return select(-1, i32(slot), slot < prefix_keys(bounds));
    }
    let j = bounds.x + i32(slot - head);
    return select(-1, j, j < bounds.y);
}
