// The bounds of a tile of rows for attend/matrix, where they follow from a row's number alone.
//
// They grow from row to row, so the first and the last say all. Without workgroup memory, of which there is none to spare, and of values that
// are the same in all invocations and known to be.

// The keys that any and that every row of the tile sees: min lo, max hi, max lo, min hi.
fn bounds_of_tile(t: Tile, lane: u32, mine: vec2<i32>) -> vec4<i32> {
    let rows = args.pack * args.block_rows;
    let first = t.block * args.block_rows + t.row / args.pack;
    let last = min(t.block * args.block_rows + (min(t.row + TILE_Q, rows) - 1u) / args.pack, args.queries - 1u);
    if ((t.row >= rows) | (first > last)) {
        return vec4<i32>(0x3fffffff, 0, 0, 0x3fffffff);
    }
    let a = bounds_of(t, RowAt(t.head, first, true));
    let b = bounds_of(t, RowAt(t.head, last, true));
    return vec4<i32>(a.x, b.y, b.x, a.y);
}
