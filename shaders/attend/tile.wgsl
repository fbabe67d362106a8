// Attention of one tile of query rows over a set of keys, with a streaming normaliser.
//
// One workgroup: one (split, batch, KV head or query head), one block of rows, TILE_Q packed rows. Rows of the query heads that share a
// KV head are packed (row p is query p / pack of head p % pack), so that they share every read of K and V.
// Threads: 8 row groups of ROWS_EACH rows x COLUMNS columns of KEYS_EACH keys and VALUE_VECS vec4 of the values: both products are outer
// products of what a thread reads as vec4 (four rows or four keys at one depth). Neighbours in pairs share a column and pairs of pairs a
// row, so that one request of a subgroup reads few addresses.
// Workgroup memory at 64 rows x 64 keys, D = 64: 8704 (Q and K, in their place weights and V) + 1.2 KiB (rows, keys) = 9.9 KiB.
// Barriers a key tile: 4 + 2 a 16 of D + 2 a VALUE_KEYS keys, and 3 when the maximum of a row grew.
// With attend/rows, attend/finish, attend/tile_keys, attend/tile_stage, attend/tile_scores and one of attend/keys_* (keys_count, keys_at, keys_skip, keys_full, keys_run).

const TILE_Q: u32 = 8u * ROWS_EACH;
const COLUMNS: u32 = WORKGROUP / 8u;
const TILE_K: u32 = COLUMNS * KEYS_EACH;
const R4: u32 = ROWS_EACH / 4u;
const K4: u32 = KEYS_EACH / 4u;
const CHUNK: u32 = 4u;              // vec4 of depth staged at once
const PART_KEYS: u32 = 16u;         // keys whose weights are in workgroup memory at once
const PART_EACH: u32 = PART_KEYS / COLUMNS;
const Q_ROW: u32 = TILE_Q / 4u;     // all rows at one depth
const K_ROW: u32 = TILE_K / 4u;
const PARTS: u32 = K_ROW / PART_KEYS;                     // of a quarter of the keys
const KEYS: u32 = CHUNK * 4u * Q_ROW;                     // where K begins
const WEIGHTS: u32 = Q_ROW + 2u;    // padded row of weights: all rows of one key
const VALUES: u32 = PART_KEYS * WEIGHTS;                  // where V begins
const VALUE_ROW: u32 = VALUE_VECS * COLUMNS;              // vec4 of a padded value row
const Q_BLOCKS: u32 = Q_ROW * CHUNK;                      // 4 rows x 4 of depth, which a thread stages
const K_BLOCKS: u32 = K_ROW * CHUNK;
const Q_EACH: u32 = (Q_BLOCKS + WORKGROUP - 1u) / WORKGROUP;
const K_EACH: u32 = (K_BLOCKS + WORKGROUP - 1u) / WORKGROUP;
const V_EACH: u32 = (VALUE_KEYS * VALUE_ROW + WORKGROUP - 1u) / WORKGROUP;
const MASKED: f32 = -1e30;          // finite: shaders may assume that there is no infinity
const SEEN: f32 = -1e27;            // no maximum is lower: weights of masked pairs are exp2(MASKED - SEEN) = 0
const GROWN: f32 = 8.0;             // an old maximum serves until a score is 2^GROWN above it
const PREFETCH: bool = EARLY != 0u;
const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;

var<workgroup> operands: array<vec4<f32>, max(KEYS + CHUNK * 4u * K_ROW, VALUES + VALUE_KEYS * VALUE_ROW)>;
var<workgroup> row_bounds: array<vec2<i32>, TILE_Q>;      // keys lo <= j < hi of each row
var<workgroup> tile_bounds: vec4<i32>;                    // min lo, max hi, max lo, min hi
var<workgroup> key_of: array<i32, TILE_K>;                // key of each slot, -1 for none
var<workgroup> row_factor: array<f32, TILE_Q>;
var<workgroup> grown: u32;                                // a row of the tile needs a new maximum
var<workgroup> stained: u32;                              // a value of a tile with masks is NaN or infinite

fn kernel(group: u32, lane: u32) {
    let t = tile_of(longest_first(group));
    for (var r = lane; r < TILE_Q; r += WORKGROUP) {
        row_bounds[r] = bounds_of(t, row_at(t, r));
    }
    workgroupBarrier();
    if (lane == 0u) {
        tile_bounds = bounds_of_all();
        stained = 0u;
        grown = 0u;
    }
    let bounds = workgroupUniformLoad(&tile_bounds);

    let rows = (lane & 1u) | (lane / (2u * COLUMNS) * 2u);      // the first four of this thread's rows, the next are 8 fours on
    let column = (lane >> 1u) % COLUMNS;
    var acc: array<vec4<f32>, ROWS_EACH * VALUE_VECS>;
    var sum: array<vec4<f32>, R4>;              // this thread's part of the row sums
    var top: array<vec4<f32>, R4>;
    for (var r = 0u; r < R4; r++) { // unroll
        top[r] = vec4<f32>(SEEN);
    }
    // What is on its way from memory, as it is stored there.
    var q_next: array<q_raw, 4u * Q_EACH>;
    var k_next: array<k_raw, 4u * K_EACH>;
    var v_next: array<v_raw, V_EACH>;
    var q_base: array<u32, 4u * Q_EACH>;
    for (var n = 0u; n < 4u * Q_EACH; n++) { // unroll
        q_base[n] = query_base(t, min(lane + n / 4u * WORKGROUP, Q_BLOCKS - 1u) / CHUNK * 4u + n % 4u);
    }

    let slots = keys_count(t, bounds);
    let last = select(i32(args.keys), bounds.y, RUN);
    if (RUN & PREFETCH & (slots != 0u)) {
        ask(t, lane, keys_at(t, bounds, 0u), last, 0u, &q_base, &q_next, &k_next);
    }
    var slot = next_tile(t, bounds, 0u, slots);
    while (slot < slots) {
        // Tiles that every row sees whole have a text of their own, without masks and what masked values need.
        if (APART != 0u) {
            while (slot < slots && sees_whole(t, bounds, slot)) {
                find_keys(t, bounds, lane, slot);
                visit(t, lane, rows, column, keys_at(t, bounds, slot), last, true, true, true, &q_base, &q_next, &k_next, &v_next, &top, &sum, &acc);
                slot = next_tile(t, bounds, slot + TILE_K, slots);
            }
            if (slot >= slots) {
                break;
            }
        }
        find_keys(t, bounds, lane, slot);
        let whole = (APART == 0u) & sees_whole(t, bounds, slot);
        let unmasked = !HAS_MASK || keys_full(t, bounds, slot);
        visit(t, lane, rows, column, keys_at(t, bounds, slot), last, unmasked, is_straight(t, bounds, slot), whole, &q_base, &q_next, &k_next,
            &v_next, &top, &sum, &acc);
        slot = next_tile(t, bounds, slot + TILE_K, slots);
    }

    workgroupBarrier();
    for (var r = 0u; r < R4; r++) { // unroll
        operands[column * WEIGHTS + rows + r * 8u] = sum[r];
        if (column == 0u) {
            operands[VALUES + rows + r * 8u] = top[r];
        }
    }
    workgroupBarrier();
    if (lane < TILE_Q) {
        var mass = 0.0;
        for (var n = 0u; n < COLUMNS; n++) {
            mass += operands[n * WEIGHTS + lane / 4u][lane % 4u];
        }
        let high = operands[VALUES + lane / 4u][lane % 4u];
        row_factor[lane] = finish_row(t, row_at(t, lane), select(MASKED, high * LN_2, high > SEEN), mass, true);
    }
    workgroupBarrier();
    for (var r = 0u; r < ROWS_EACH; r++) { // unroll
        let row = (rows + r / 4u * 8u) * 4u + r % 4u;
        let at = row_at(t, row);
        if (at.valid) {
            let base = args.out_offset + t.split * args.out_s0 + t.batch * args.out_s1 + at.head * args.out_s2 + at.row * args.out_s3;
            for (var c = 0u; c < VALUE_VECS; c++) { // unroll
                out_store4(base, (column + c * COLUMNS) * 4u, args.width, acc[r * VALUE_VECS + c] * row_factor[row]);
            }
        }
    }
}
