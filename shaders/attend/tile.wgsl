// Attention of one tile of query rows over a set of keys, with a streaming normaliser.
//
// One workgroup: one (split, batch, KV head or query head), one block of rows, TILE_Q packed rows. Rows of the query heads that share a
// KV head are packed (row p is query p / pack of head p % pack), so that they share every read of K and V.
// Threads: 8 row groups of ROWS_EACH rows x COLUMNS columns. A thread holds the scores of its rows with TILE_K / COLUMNS keys and the sums
// of its rows in VALUE_VECS vec4 of the values: both products read far less workgroup memory than they compute.
// Workgroup memory at 64 rows: 10240 (operands) + 4352 (weights) + 1.3 KiB (rows, keys) = 15.6 KiB.
// Barriers a key tile: 4 + 2 a 16 of D + 2 a VALUE_KEYS keys.
// With attend/rows, attend/finish, attend/tile_stage, attend/tile_scores and one of attend/keys_* (keys_count, keys_at, keys_skip, keys_full, keys_run).

const TILE_Q: u32 = 8u * ROWS_EACH;
const TILE_K: u32 = 64u;
const COLUMNS: u32 = WORKGROUP / 8u;
const KEYS_EACH: u32 = TILE_K / COLUMNS;
const CHUNK: u32 = 4u;              // vec4 of depth staged at once
const STRIDE: u32 = 5u;             // padded row of CHUNK vec4, against bank conflicts
const PART_KEYS: u32 = 16u;         // keys whose weights are in workgroup memory at once
const PARTS: u32 = TILE_K / PART_KEYS;
const PART_EACH: u32 = KEYS_EACH / PARTS;
const R4: u32 = ROWS_EACH / 4u;
const WEIGHTS: u32 = TILE_Q / 4u + 1u;                    // padded row of weights: all rows of one key
const OPERANDS: u32 = (TILE_Q + TILE_K) * STRIDE;
const VALUE_ROW: u32 = VALUE_VECS * COLUMNS;              // vec4 of a padded value row
const Q_EACH: u32 = TILE_Q * CHUNK / WORKGROUP;           // vec4 that a thread stages
const K_EACH: u32 = TILE_K * CHUNK / WORKGROUP;
const V_EACH: u32 = (VALUE_KEYS * VALUE_ROW + WORKGROUP - 1u) / WORKGROUP;
const MASKED: f32 = -1e30;          // finite: shaders may assume that there is no infinity
const SEEN: f32 = -1e27;            // no maximum is lower: weights of masked pairs are exp(MASKED - SEEN) = 0

var<workgroup> operands: array<vec4<f32>, OPERANDS>;      // Q chunk then K chunk, later V
var<workgroup> weights: array<vec4<f32>, PART_KEYS * WEIGHTS>;   // [key, rows]; also what a column knows of each row
var<workgroup> row_bounds: array<vec2<i32>, TILE_Q>;      // keys lo <= j < hi of each row
var<workgroup> tile_bounds: vec4<i32>;                    // min lo, max hi, max lo, min hi
var<workgroup> key_of: array<i32, TILE_K>;                // key of each slot, -1 for none
var<workgroup> row_top: array<f32, TILE_Q>;
var<workgroup> row_factor: array<f32, TILE_Q>;
var<workgroup> stained: u32;                              // a staged value is NaN or infinite

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group);
    for (var r = lane; r < TILE_Q; r += WORKGROUP) {
        row_bounds[r] = bounds_of(t, row_at(t, r));
        row_top[r] = SEEN;
    }
    workgroupBarrier();
    if (lane == 0u) {
        var b = vec4<i32>(0x3fffffff, 0, 0, 0x3fffffff);
        for (var r = 0u; r < TILE_Q; r++) {
            let row = row_bounds[r];
            // Rows past the end (lo beyond any key) do not count.
            if (row.x < 0x3fffffff) {
                b = vec4<i32>(min(b.x, row.x), max(b.y, row.y), max(b.z, row.x), min(b.w, row.y));
            }
        }
        tile_bounds = b;
        stained = 0u;
    }
    let bounds = workgroupUniformLoad(&tile_bounds);

    let rows = lane / COLUMNS * ROWS_EACH;      // first of this thread's rows
    let column = lane % COLUMNS;
    var acc: array<vec4<f32>, ROWS_EACH * VALUE_VECS>;
    var sum: array<f32, ROWS_EACH>;             // this thread's part of the row sums

    let slots = keys_count(t, bounds);
    let last = select(i32(args.keys), bounds.y, RUN);
    for (var slot = next_tile(t, bounds, 0u, slots); slot < slots; slot = next_tile(t, bounds, slot + TILE_K, slots)) {
        let first = keys_at(t, bounds, slot);
        if (!RUN) {
            workgroupBarrier();
            if (lane < TILE_K) {
                key_of[lane] = keys_at(t, bounds, slot + lane);
            }
            workgroupBarrier();
        }
        // Nothing but the rows' bounds decides what is seen of keys that follow each other; `whole`: all of it.
        let unmasked = !HAS_MASK || keys_full(t, bounds, slot);
        let straight = SOFTMAX & !HAS_SCORE & unmasked & keys_run(slot);
        let whole = straight & (first >= bounds.z) & (first + i32(TILE_K) <= bounds.w);

        var s = array<f32, ROWS_EACH * KEYS_EACH>();
        for (var depth = 0u; depth < args.depth; depth += CHUNK * 4u) {
            stage_chunk(t, lane, first, last, depth);
            workgroupBarrier();
            for (var c = 0u; c < CHUNK; c++) {
                var k = array<vec4<f32>, KEYS_EACH>();
                for (var n = 0u; n < KEYS_EACH; n++) { // unroll
                    k[n] = operands[(TILE_Q + column + n * COLUMNS) * STRIDE + c];
                }
                for (var r = 0u; r < ROWS_EACH; r++) { // unroll
                    let x = operands[(rows + r) * STRIDE + c];
                    for (var n = 0u; n < KEYS_EACH; n++) { // unroll
                        s[r * KEYS_EACH + n] += x.x * k[n].x;
                        s[r * KEYS_EACH + n] += x.y * k[n].y;
                        s[r * KEYS_EACH + n] += x.z * k[n].z;
                        s[r * KEYS_EACH + n] += x.w * k[n].w;
                    }
                }
            }
            workgroupBarrier();
        }

        if (!straight) {
            // Through workgroup memory, because copies of the hooks for every score would make the shader long. Nobody else touches
            // the vec4 of this thread, so no barrier is needed.
            for (var p = 0u; p < PARTS; p++) { // unroll
                for (var n = 0u; n < PART_EACH; n++) { // unroll
                    for (var r = 0u; r < R4; r++) { // unroll
                        let i = r * 4u * KEYS_EACH + p * PART_EACH + n;
                        weights[(column + n * COLUMNS) * WEIGHTS + rows / 4u + r] =
                            vec4<f32>(s[i], s[i + KEYS_EACH], s[i + 2u * KEYS_EACH], s[i + 3u * KEYS_EACH]);
                    }
                }
                hooked(t, first, p * PART_KEYS, rows, column, unmasked);
                for (var n = 0u; n < PART_EACH; n++) { // unroll
                    for (var r = 0u; r < R4; r++) { // unroll
                        let i = r * 4u * KEYS_EACH + p * PART_EACH + n;
                        let four = weights[(column + n * COLUMNS) * WEIGHTS + rows / 4u + r];
                        s[i] = four.x;
                        s[i + KEYS_EACH] = four.y;
                        s[i + 2u * KEYS_EACH] = four.z;
                        s[i + 3u * KEYS_EACH] = four.w;
                    }
                }
            }
        } else {
            for (var n = 0u; n < ROWS_EACH * KEYS_EACH; n++) { // unroll
                s[n] *= args.scale;
            }
        }
        if (straight & !whole) {
            for (var r = 0u; r < ROWS_EACH; r++) { // unroll
                let mine = row_bounds[rows + r];
                for (var n = 0u; n < KEYS_EACH; n++) { // unroll
                    let j = first + i32(column + n * COLUMNS);
                    s[r * KEYS_EACH + n] = select(MASKED, s[r * KEYS_EACH + n], (j >= mine.x) & (j < mine.y));
                }
            }
        }

        if (SOFTMAX) {
            for (var r = 0u; r < R4; r++) { // unroll
                var high = vec4<f32>(SEEN);
                for (var n = 0u; n < KEYS_EACH; n++) { // unroll
                    let i = r * 4u * KEYS_EACH + n;
                    high = max(high, vec4<f32>(s[i], s[i + KEYS_EACH], s[i + 2u * KEYS_EACH], s[i + 3u * KEYS_EACH]));
                }
                weights[column * WEIGHTS + rows / 4u + r] = high;
            }
            workgroupBarrier();
            if (lane < TILE_Q) {
                let top = row_top[lane];
                var high = top;
                for (var n = 0u; n < COLUMNS; n++) {
                    high = max(high, weights[n * WEIGHTS + lane / 4u][lane % 4u]);
                }
                row_top[lane] = high;
                row_factor[lane] = exp(top - high);
            }
            workgroupBarrier();
            for (var r = 0u; r < ROWS_EACH; r++) { // unroll
                let top = row_top[rows + r];
                let factor = row_factor[rows + r];
                sum[r] *= factor;
                for (var c = 0u; c < VALUE_VECS; c++) { // unroll
                    acc[r * VALUE_VECS + c] *= factor;
                }
                for (var n = 0u; n < KEYS_EACH; n++) { // unroll
                    s[r * KEYS_EACH + n] = exp(s[r * KEYS_EACH + n] - top);
                }
            }
        }
        for (var r = 0u; r < ROWS_EACH; r++) { // unroll
            for (var n = 0u; n < KEYS_EACH; n++) { // unroll
                sum[r] += s[r * KEYS_EACH + n];
            }
        }

        for (var p = 0u; p < PARTS; p++) { // unroll
            for (var n = 0u; n < PART_EACH; n++) { // unroll
                for (var r = 0u; r < R4; r++) { // unroll
                    let i = r * 4u * KEYS_EACH + p * PART_EACH + n;
                    weights[(column + n * COLUMNS) * WEIGHTS + rows / 4u + r] =
                        vec4<f32>(s[i], s[i + KEYS_EACH], s[i + 2u * KEYS_EACH], s[i + 3u * KEYS_EACH]);
                }
            }
            for (var start = 0u; start < PART_KEYS; start += VALUE_KEYS) {
                stage_values(t, lane, first, last, p * PART_KEYS + start, whole);
                workgroupBarrier();
                // A masked key's NaN or Inf must not reach the row: 0 * NaN is NaN.
                if (!whole & (stained != 0u)) {
                    for (var n = 0u; n < VALUE_KEYS; n++) {
                        for (var r = 0u; r < ROWS_EACH; r++) { // unroll
                            let w = weights[(start + n) * WEIGHTS + rows / 4u + r / 4u][r % 4u];
                            for (var c = 0u; c < VALUE_VECS; c++) { // unroll
                                let x = operands[n * VALUE_ROW + column + c * COLUMNS];
                                acc[r * VALUE_VECS + c] += select(w * x, vec4<f32>(), w == 0.0);
                            }
                        }
                    }
                } else {
                    for (var n = 0u; n < VALUE_KEYS; n++) {
                        var x = array<vec4<f32>, VALUE_VECS>();
                        for (var c = 0u; c < VALUE_VECS; c++) { // unroll
                            x[c] = operands[n * VALUE_ROW + column + c * COLUMNS];
                        }
                        for (var r = 0u; r < R4; r++) { // unroll
                            let w = weights[(start + n) * WEIGHTS + rows / 4u + r];
                            for (var c = 0u; c < VALUE_VECS; c++) { // unroll
                                acc[r * 4u * VALUE_VECS + c] += w.x * x[c];
                                acc[(r * 4u + 1u) * VALUE_VECS + c] += w.y * x[c];
                                acc[(r * 4u + 2u) * VALUE_VECS + c] += w.z * x[c];
                                acc[(r * 4u + 3u) * VALUE_VECS + c] += w.w * x[c];
                            }
                        }
                    }
                }
                workgroupBarrier();
            }
        }
    }

    workgroupBarrier();
    for (var r = 0u; r < R4; r++) { // unroll
        weights[column * WEIGHTS + rows / 4u + r] = vec4<f32>(sum[r * 4u], sum[r * 4u + 1u], sum[r * 4u + 2u], sum[r * 4u + 3u]);
    }
    workgroupBarrier();
    if (lane < TILE_Q) {
        var total = 0.0;
        for (var n = 0u; n < COLUMNS; n++) {
            total += weights[n * WEIGHTS + lane / 4u][lane % 4u];
        }
        row_factor[lane] = finish_row(t, row_at(t, lane), select(MASKED, row_top[lane], row_top[lane] > SEEN), total, true);
    }
    workgroupBarrier();
    for (var r = 0u; r < ROWS_EACH; r++) { // unroll
        let at = row_at(t, rows + r);
        if (at.valid) {
            let base = args.out_offset + t.split * args.out_s0 + t.batch * args.out_s1 + at.head * args.out_s2 + at.row * args.out_s3;
            for (var c = 0u; c < VALUE_VECS; c++) { // unroll
                out_store4(base, (column + c * COLUMNS) * 4u, args.width, acc[r * VALUE_VECS + c] * row_factor[rows + r]);
            }
        }
    }
}
