// Which rows a workgroup holds, and which keys a row may see before the mask hooks. Shared by the attend kernels.

struct Tile {
    split: u32,
    batch: u32,
    head: u32,       // first query head
    kv_head: u32,
    block: u32,      // block of rows
    row: u32,        // first packed row in the block
}

struct RowAt {
    head: u32,
    row: u32,
    valid: bool,
}

fn tile_of(group: u32) -> Tile {
    var t: Tile;
    var rest = group;
    let tiles = args.tiles_per_block * args.row_blocks;
    // The last rows of a causal tile have the most keys: they start first.
    let tile = tiles - 1u - rest % tiles;
    rest /= tiles;
    t.block = tile / args.tiles_per_block;
    t.row = (tile % args.tiles_per_block) * TILE_Q;
    let units = args.heads / args.pack;
    t.head = (rest % units) * args.pack;
    t.kv_head = t.head / args.group;
    rest /= units;
    t.batch = rest % args.batch;
    t.split = rest / args.batch;
    return t;
}

fn row_at(t: Tile, r: u32) -> RowAt {
    let p = t.row + r;
    let i = t.block * args.block_rows + p / args.pack;
    return RowAt(t.head + p % args.pack, i, (p < args.pack * args.block_rows) & (i < args.queries));
}

fn key_limit(t: Tile) -> i32 {
    if (HAS_LENGTHS) {
        return clamp(lengths(At(t.batch, 0u, 0u, 0, 0)), 0, i32(args.keys));
    }
    return i32(args.keys);
}

fn position(t: Tile, row: u32) -> i32 {
    if (BOTTOM_RIGHT) {
        return i32(row) + key_limit(t) - i32(args.queries);
    }
    return i32(row);
}

// Keys lo <= j < hi of a row, before the prefix and the mask hooks.
fn bounds_of(t: Tile, at: RowAt) -> vec2<i32> {
    let query = position(t, at.row);
    var lo = 0;
    var hi = key_limit(t);
    if (args.causal != 0u) {
        hi = min(hi, query + 1);
    }
    if (args.window_left >= 0) {
        lo = max(lo, query - args.window_left);
    }
    if (args.window_right >= 0) {
        hi = min(hi, query + args.window_right + 1);
    }
    let here = At(t.batch, at.head, at.row, query, 0);
    if (HAS_ROW_START) {
        lo = max(lo, row_start(here));
    }
    if (HAS_ROW_END) {
        hi = min(hi, row_end(here));
    }
    if (!at.valid) {
        return vec2<i32>(0x3fffffff, 0);
    }
    let first = i32(t.split * args.split_keys);
    return vec2<i32>(max(lo, first), min(hi, first + i32(args.split_keys)));
}

fn allowed(t: Tile, at: RowAt, query: i32, bounds: vec2<i32>, key: i32) -> bool {
    return allowed_in(t, at, query, bounds, key, false);
}

// The same in a key tile of which it is known that the mask hooks allow all of it (keys_full).
fn allowed_in(t: Tile, at: RowAt, query: i32, bounds: vec2<i32>, key: i32, full: bool) -> bool {
    let first = i32(t.split * args.split_keys);
    // `&` and `|` where both sides are cheap: `&&` and `||` become branches, which keep drivers from moving loads past them.
    let early = HAS_PREFIX & (key < args.prefix) & (key >= first) & (key < first + i32(args.split_keys)) & (key < key_limit(t))
        & ((args.causal == 0u) | (key <= query));
    let inside = (key >= 0) & (((key >= bounds.x) & (key < bounds.y)) | early);
    return (at.valid & inside) && (!HAS_MASK || full || mask(At(t.batch, at.head, at.row, query, key)));
}
