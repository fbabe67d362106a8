// Which tiles of pairs the mask hooks leave: 0 none of a tile's pairs, 1 some, 2 all.
//
// One workgroup: one tile of block_rows x block_keys pairs. Its threads take the pairs in turn; where the mask hangs on the distance alone,
// those of the first row and the first column, on which every distance of the tile occurs; where it hangs on arguments of queries and of keys,
// those of rows and keys whose arguments are not their neighbour's. Workgroup memory: 4 (WORKGROUP + ROW_LIST + KEY_LIST + 2) bytes.

var<workgroup> found: array<u32, WORKGROUP>;    // bit 0: an allowed pair, bit 1: one that is not
var<workgroup> asked_rows: array<u32, ROW_LIST>;
var<workgroup> asked_keys: array<u32, KEY_LIST>;
var<workgroup> asked: array<atomic<u32>, 2>;    // how many rows and keys

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
    var rows = min(args.block_rows, args.queries - first_row);
    var keys = min(args.block_keys, args.keys - first_key);
    if (SEGMENTS) {
        if (lane < 2u) {
            atomicStore(&asked[lane], 0u);
        }
        workgroupBarrier();
        for (var n = lane; n < rows; n += WORKGROUP) {
            let here = At(batch, head, first_row + n, 0, i32(first_key));
            let before = At(batch, head, first_row + max(n, 1u) - 1u, 0, i32(first_key));
            if (n == 0u || !same_arguments(here, before)) {
                asked_rows[atomicAdd(&asked[0], 1u)] = n;
            }
        }
        for (var n = lane; n < keys; n += WORKGROUP) {
            let here = At(batch, head, first_row, 0, i32(first_key + n));
            let before = At(batch, head, first_row, 0, i32(first_key + max(n, 1u) - 1u));
            if (n == 0u || !same_arguments(here, before)) {
                asked_keys[atomicAdd(&asked[1], 1u)] = n;
            }
        }
        workgroupBarrier();
        rows = atomicLoad(&asked[0]);
        keys = atomicLoad(&asked[1]);
    }
    let total = select(rows * keys, rows + keys - 1u, DISTANCE);
    var bits = 0u;
    for (var n = lane; n < total && bits != 3u; n += WORKGROUP) {
        var row = n / keys;
        var key = n % keys;
        if (DISTANCE) {
            row = select(0u, n - keys + 1u, n >= keys);
            key = select(n, 0u, n >= keys);
        }
        if (SEGMENTS) {
            row = asked_rows[row];
            key = asked_keys[key];
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
