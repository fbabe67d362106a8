// Which tiles of pairs the mask hooks leave: 0 none of a tile's pairs, 1 some, 2 all.
//
// One workgroup: one tile of block_rows x block_keys pairs. Its threads take the pairs in turn; where the mask hangs on the distance alone,
// those of the first row and the first column, on which every distance of the tile occurs. Workgroup memory: 4 WORKGROUP bytes.

var<workgroup> found: array<u32, WORKGROUP>;    // bit 0: an allowed pair, bit 1: one that is not

fn position(batch: u32, row: u32) -> i32 {
    var limit = i32(args.keys);
    if (HAS_LENGTHS) {
        limit = clamp(lengths(At(batch, 0u, 0u, 0, 0)), 0, limit);
    }
    return i32(row) + select(0, limit - i32(args.queries), BOTTOM_RIGHT);
}

fn kernel(group: u32, lane: u32) {
    let column = group % args.map_columns;
    let line = group / args.map_columns % args.map_lines;
    let unit = group / (args.map_columns * args.map_lines);
    let head = unit % args.map_heads;
    let batch = unit / args.map_heads;
    let first_row = line * args.block_rows;
    let first_key = column * args.block_keys;
    let rows = min(args.block_rows, args.queries - first_row);
    let keys = min(args.block_keys, args.keys - first_key);
    let total = select(rows * keys, rows + keys - 1u, DISTANCE);
    var bits = 0u;
    for (var n = lane; n < total && bits != 3u; n += WORKGROUP) {
        var row = n / keys;
        var key = n % keys;
        if (DISTANCE) {
            row = select(0u, n - keys + 1u, n >= keys);
            key = select(n, 0u, n >= keys);
        }
        let i = first_row + row;
        bits |= select(2u, 1u, mask(At(batch, head, i, position(batch, i), i32(first_key + key))));
    }
    found[lane] = bits;
    workgroupBarrier();
    if (lane == 0u) {
        for (var n = 1u; n < WORKGROUP; n++) {
            bits |= found[n];
        }
        let state = select(select(0, 2, bits == 1u), 1, bits == 3u);
        map_store(args.map_offset + batch * args.map_s0 + head * args.map_s1 + line * args.map_s2 + column * args.map_s3, state);
    }
}
