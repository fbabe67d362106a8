// Attention of one tile of query rows over a set of keys, with a streaming normaliser.
//
// One workgroup: one (split, batch, KV head or query head), one block of rows, TILE_Q packed rows. Rows of the query heads that share a
// KV head are packed (row p is query p / pack of head p % pack), so that they share every read of K and V.
// Threads: 8 row groups of ROWS_EACH rows x COLUMNS columns of KEYS_EACH keys and VALUE_VECS vec4 of the values: both products are outer
// products of what a thread reads as vec4 (four rows or four keys at one depth). Neighbours in pairs share a column and pairs of pairs a
// row, so that one request of a subgroup reads few addresses.
// Workgroup memory at 64 rows x 64 keys, D = 64: 8704 (Q and K, in their place weights and V) + 1.2 KiB (rows, keys) = 9.9 KiB.
// Barriers a key tile: 4 + 2 a 16 of D + 2 a VALUE_KEYS keys, and 3 when the maximum of a row grew.
// With attend/rows, attend/finish, attend/tile_stage, attend/tile_scores and one of attend/keys_* (keys_count, keys_at, keys_skip, keys_full, keys_run).

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
    for (var slot = next_tile(t, bounds, 0u, slots); slot < slots; slot = next_tile(t, bounds, slot + TILE_K, slots)) {
        let first = keys_at(t, bounds, slot);
        if (!RUN) {
            workgroupBarrier();
            for (var n = lane; n < TILE_K; n += WORKGROUP) {
                key_of[n] = keys_at(t, bounds, slot + n);
            }
            workgroupBarrier();
        }
        // Nothing but the rows' bounds decides what is seen of keys that follow each other; `whole`: all of it.
        let unmasked = !HAS_MASK || keys_full(t, bounds, slot);
        let straight = SOFTMAX & !HAS_SCORE & unmasked & keys_run(slot);
        let whole = straight & (first >= bounds.z) & (first + i32(TILE_K) <= bounds.w);

        var s = array<vec4<f32>, ROWS_EACH * K4>();
        if (!(RUN & PREFETCH)) {
            ask(t, lane, first, last, 0u, &q_base, &q_next, &k_next);
        }
        for (var depth = 0u; depth < args.depth; depth += CHUNK * 4u) {
            for (var n = 0u; n < Q_EACH; n++) { // unroll
                stage(0u, Q_ROW, lane + n * WORKGROUP, depth, q_real(q_next[n * 4u]), q_real(q_next[n * 4u + 1u]),
                    q_real(q_next[n * 4u + 2u]), q_real(q_next[n * 4u + 3u]));
            }
            for (var n = 0u; n < K_EACH; n++) { // unroll
                stage(KEYS, K_ROW, lane + n * WORKGROUP, depth, k_real(k_next[n * 4u]), k_real(k_next[n * 4u + 1u]),
                    k_real(k_next[n * 4u + 2u]), k_real(k_next[n * 4u + 3u]));
            }
            workgroupBarrier();
            let more = depth + CHUNK * 4u < args.depth;
            if (PREFETCH & more) {
                ask(t, lane, first, last, depth + CHUNK * 4u, &q_base, &q_next, &k_next);
            }
            for (var start = 0u; start < CHUNK * 4u; start += UNROLL) {
                for (var u = 0u; u < UNROLL; u++) { // unroll
                    let d = start + u;
                    let turned = d / 4u * 2u;       // as `stage` left them
                    var k = array<vec4<f32>, K4>();
                    for (var n = 0u; n < K4; n++) { // unroll
                        k[n] = operands[KEYS + d * K_ROW + n * COLUMNS + (column ^ turned)];
                    }
                    for (var r = 0u; r < R4; r++) { // unroll
                        let x = operands[d * Q_ROW + r * 8u + (rows ^ turned)];
                        for (var n = 0u; n < K4; n++) { // unroll
                            s[r * 4u * K4 + n] += x.x * k[n];
                            s[(r * 4u + 1u) * K4 + n] += x.y * k[n];
                            s[(r * 4u + 2u) * K4 + n] += x.z * k[n];
                            s[(r * 4u + 3u) * K4 + n] += x.w * k[n];
                        }
                    }
                }
            }
            workgroupBarrier();
            if (!PREFETCH & more) {
                ask(t, lane, first, last, depth + CHUNK * 4u, &q_base, &q_next, &k_next);
            }
        }
        if (PREFETCH) {
            ask_values(t, lane, first, last, 0u, &v_next);
        }

        if (!straight) {
            // Through workgroup memory, because copies of the hooks for every score would make the shader long. Nobody else touches
            // the vec4 of this thread, so no barrier is needed.
            for (var turn = 0u; turn < 4u; turn++) {
                for (var n = 0u; n < K4; n++) { // unroll
                    for (var r = 0u; r < R4; r++) { // unroll
                        operands[column * WEIGHTS + rows + r * 8u] = vec4<f32>(s[r * 4u * K4 + n].x, s[(r * 4u + 1u) * K4 + n].x,
                            s[(r * 4u + 2u) * K4 + n].x, s[(r * 4u + 3u) * K4 + n].x);
                    }
                    hooked(t, first, turn * K_ROW + n * COLUMNS + column, rows, column, unmasked);
                    for (var r = 0u; r < R4; r++) { // unroll
                        let four = operands[column * WEIGHTS + rows + r * 8u];
                        s[r * 4u * K4 + n].x = four.x;
                        s[(r * 4u + 1u) * K4 + n].x = four.y;
                        s[(r * 4u + 2u) * K4 + n].x = four.z;
                        s[(r * 4u + 3u) * K4 + n].x = four.w;
                    }
                }
                for (var n = 0u; n < ROWS_EACH * K4; n++) { // unroll
                    s[n] = s[n].yzwx;
                }
            }
        } else if (!FUSED) {
            for (var n = 0u; n < ROWS_EACH * K4; n++) { // unroll
                s[n] *= args.exponent;
            }
        }
        if (straight & !whole) {
            hide(first, rows, column, &s);
        }
        if (SOFTMAX) {
            weigh(lane, rows, column, select(1.0, args.exponent, straight & FUSED), &s, &top, &sum, &acc);
        }
        for (var r = 0u; r < R4; r++) { // unroll
            for (var n = 0u; n < K4; n++) { // unroll
                sum[r] += vec4<f32>(total(s[r * 4u * K4 + n]), total(s[(r * 4u + 1u) * K4 + n]), total(s[(r * 4u + 2u) * K4 + n]),
                    total(s[(r * 4u + 3u) * K4 + n]));
            }
        }

        // A turn takes the first of each four keys, and the next of them comes first. SPREAD turns are in the text.
        for (var turns = 0u; turns < 4u; turns += SPREAD) {
            for (var turn = 0u; turn < SPREAD; turn++) { // unroll
                for (var p = 0u; p < PARTS; p++) { // unroll
                    for (var q = 0u; q < PART_EACH; q++) { // unroll
                        for (var r = 0u; r < R4; r++) { // unroll
                            operands[(q * COLUMNS + column) * WEIGHTS + rows + r * 8u] = vec4<f32>(
                                s[r * 4u * K4 + p * PART_EACH + q].x, s[(r * 4u + 1u) * K4 + p * PART_EACH + q].x,
                                s[(r * 4u + 2u) * K4 + p * PART_EACH + q].x, s[(r * 4u + 3u) * K4 + p * PART_EACH + q].x);
                        }
                    }
                    for (var start = 0u; start < PART_KEYS; start += VALUE_KEYS) {
                        let part = (turns + turn) * K_ROW + p * PART_KEYS + start;
                        if (!PREFETCH) {
                            ask_values(t, lane, first, last, part, &v_next);
                        }
                        stage_values(lane, whole, &v_next);
                        workgroupBarrier();
                        if (PREFETCH) {
                            if (part + VALUE_KEYS < TILE_K) {
                                ask_values(t, lane, first, last, part + VALUE_KEYS, &v_next);
                            } else if (RUN) {
                                ask(t, lane, first + i32(TILE_K), last, 0u, &q_base, &q_next, &k_next);
                            }
                        }
                        add_values(rows, column, start, &acc);
                        if (!whole && stained != 0u) {
                            add_stained(t, first, last, rows, column, part, start, &acc);
                        }
                        workgroupBarrier();
                    }
                }
                for (var n = 0u; n < ROWS_EACH * K4; n++) { // unroll
                    s[n] = s[n].yzwx;
                }
            }
        }
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
