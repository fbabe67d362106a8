// Attention of one tile of query rows over a set of keys, with a streaming normaliser.
//
// One workgroup: one (split, batch, KV head or query head), one block of rows, TILE_Q packed rows. Rows of the query heads that share a
// KV head are packed (row p is query p / pack of head p % pack), so that they share every read of K and V.
// Threads: scores as 8 groups of 4 rows x 16 columns of 2 keys; softmax as 4 threads a row; values as 4 rows x 16 columns of vec4.
// Workgroup memory: 9216 (operands) + 4608 (scores) + 1.3 KiB (rows) = 15.2 KiB. Barriers a key tile: 4 + 2 a 32 of D + 2 a value chunk.
// With attend/rows, attend/finish and one of attend/keys_* (keys_count, keys_at, keys_skip).

const TILE_Q: u32 = 32u;
const TILE_K: u32 = 32u;
const CHUNK: u32 = 8u;              // vec4 of depth staged at once
const STRIDE: u32 = 9u;             // padded row of CHUNK vec4, against bank conflicts
const SCORES: u32 = 36u;            // padded row of TILE_K scores
const COLUMNS: u32 = VALUE_VECS * 16u;                    // vec4 of a padded value row
const VALUE_KEYS: u32 = min(32u, 576u / COLUMNS);         // keys of V staged at once
const MASKED: f32 = -1e30;          // finite: shaders may assume that there is no infinity
const SEEN: f32 = -5e29;

var<workgroup> operands: array<vec4<f32>, 576>;   // Q chunk then K chunk, later V
// [TILE_Q, SCORES]. Single floats, because neighbours belong to different threads: a write to one component may write its whole vector.
var<workgroup> scores: array<f32, 1152>;
var<workgroup> row_bounds: array<vec2<i32>, 32>;  // keys lo <= j < hi of each row
var<workgroup> tile_bounds: vec4<i32>;            // min lo, max hi, max lo, min hi
var<workgroup> key_of: array<i32, 32>;            // key of each slot, -1 for none
var<workgroup> row_part: array<f32, 128>;
var<workgroup> row_factor: array<f32, 32>;

fn stage_chunk(t: Tile, lane: u32, depth: u32) {
    for (var n = lane; n < TILE_Q * CHUNK; n += WORKGROUP) {
        let r = n / CHUNK;
        let at = row_at(t, r);
        var x = vec4<f32>();
        if (at.valid) {
            let base = args.q_offset + t.batch * args.q_s0 + at.head * args.q_s1 + at.row * args.q_s2;
            x = q_load4(base, depth + (n % CHUNK) * 4u, args.depth);
        }
        operands[r * STRIDE + n % CHUNK] = x;
    }
    for (var n = lane; n < TILE_K * CHUNK; n += WORKGROUP) {
        let j = key_of[n / CHUNK];
        var x = vec4<f32>();
        if (j >= 0) {
            let base = args.k_offset + t.batch * args.k_s0 + t.kv_head * args.k_s1 + u32(j) * args.k_s2;
            x = k_load4(base, depth + (n % CHUNK) * 4u, args.depth);
        }
        operands[288u + (n / CHUNK) * STRIDE + n % CHUNK] = x;
    }
}

fn stage_values(t: Tile, lane: u32, first: u32) {
    for (var n = lane; n < VALUE_KEYS * COLUMNS; n += WORKGROUP) {
        let slot = first + n / COLUMNS;
        var x = vec4<f32>();
        if (slot < TILE_K) {
            let j = key_of[slot];
            if (j >= 0) {
                let base = args.v_offset + t.batch * args.v_s0 + t.kv_head * args.v_s1 + u32(j) * args.v_s2;
                x = v_load4(base, (n % COLUMNS) * 4u, args.width);
            }
        }
        operands[n] = x;
    }
}

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group);
    if (lane < TILE_Q) {
        row_bounds[lane] = bounds_of(t, row_at(t, lane));
    }
    workgroupBarrier();
    if (lane == 0u) {
        var b = vec4<i32>(0x3fffffff, 0, 0, 0x3fffffff);
        for (var r = 0u; r < TILE_Q; r++) {
            let row = row_bounds[r];
            b = vec4<i32>(min(b.x, row.x), max(b.y, row.y), max(b.z, row.x), min(b.w, row.y));
        }
        tile_bounds = b;
    }
    let bounds = workgroupUniformLoad(&tile_bounds);

    let rows = (lane / 16u) * 4u;       // first of this thread's rows
    let column = lane % 16u;
    var acc: array<vec4<f32>, 4u * VALUE_VECS>;
    var top = MASKED;                   // row maximum and this thread's part of the row sum, for row lane / 4
    var sum = 0.0;

    let slots = keys_count(t, bounds);
    for (var first = 0u; first < slots; first += TILE_K) {
        if (keys_skip(t, bounds, first)) {
            continue;
        }
        let unmasked = HAS_MASK && keys_full(t, bounds, first);
        workgroupBarrier();
        if (lane < TILE_K) {
            key_of[lane] = keys_at(t, bounds, first + lane);
        }
        workgroupBarrier();

        var s = array<vec2<f32>, 4>();
        for (var depth = 0u; depth < args.depth; depth += CHUNK * 4u) {
            stage_chunk(t, lane, depth);
            workgroupBarrier();
            for (var c = 0u; c < CHUNK; c++) {
                let k0 = operands[288u + column * STRIDE + c];
                let k1 = operands[288u + (column + 16u) * STRIDE + c];
                for (var r = 0u; r < 4u; r++) { // unroll
                    let x = operands[(rows + r) * STRIDE + c];
                    s[r] += vec2<f32>(dot(x, k0), dot(x, k1));
                }
            }
            workgroupBarrier();
        }

        for (var r = 0u; r < 4u; r++) { // unroll
            scores[(rows + r) * SCORES + column] = s[r].x;
            scores[(rows + r) * SCORES + column + 16u] = s[r].y;
        }
        // Hooks and mask; masked pairs hold MASKED (or weight 0 without softmax). Each thread visits its own eight scores through memory:
        // a counter may not index registers, and eight copies of the hooks would make the shader long.
        for (var n = 0u; n < 8u; n++) {
            let row = rows + n / 2u;
            let slot = column + (n % 2u) * 16u;
            let at = row_at(t, row);
            let query = position(t, at.row);
            let key = key_of[slot];
            let pair = At(t.batch, at.head, at.row, query, key);
            var x = select(0.0, MASKED, SOFTMAX);
            if (allowed_in(t, at, query, row_bounds[row], key, unmasked)) {
                x = score(scores[row * SCORES + slot] * args.scale, pair);
                if (SOFTMAX) {
                    // A bias of -inf masks too. Written so that NaN stays.
                    x = select(x, MASKED, x < MASKED);
                } else {
                    x = weight(x, pair);
                }
            }
            scores[row * SCORES + slot] = x;
        }
        workgroupBarrier();

        let own = (lane / 4u) * SCORES + (lane % 4u) * 8u;
        var a = vec4<f32>(scores[own], scores[own + 1u], scores[own + 2u], scores[own + 3u]);
        var b = vec4<f32>(scores[own + 4u], scores[own + 5u], scores[own + 6u], scores[own + 7u]);
        if (SOFTMAX) {
            let high = max(a, b);
            row_part[lane] = max(max(high.x, high.y), max(high.z, high.w));
            workgroupBarrier();
            let quad = lane & ~3u;
            let high4 = max(max(row_part[quad], row_part[quad + 1u]), max(row_part[quad + 2u], row_part[quad + 3u]));
            let next = max(top, high4);
            let scale = exp(top - next);
            a = select(exp(a - next), vec4<f32>(), a <= vec4<f32>(SEEN));
            b = select(exp(b - next), vec4<f32>(), b <= vec4<f32>(SEEN));
            for (var n = 0u; n < 4u; n++) { // unroll
                scores[own + n] = a[n];
                scores[own + 4u + n] = b[n];
            }
            sum *= scale;
            top = next;
            if (lane % 4u == 0u) {
                row_factor[lane / 4u] = scale;
            }
        }
        let both = a + b;
        sum += both.x + both.y + both.z + both.w;
        workgroupBarrier();

        if (SOFTMAX) {
            for (var r = 0u; r < 4u; r++) { // unroll
                for (var c = 0u; c < VALUE_VECS; c++) { // unroll
                    acc[r * VALUE_VECS + c] *= row_factor[rows + r];
                }
            }
        }
        for (var start = 0u; start < TILE_K; start += VALUE_KEYS) {
            stage_values(t, lane, start);
            workgroupBarrier();
            for (var k = 0u; k < min(VALUE_KEYS, TILE_K - start); k++) {
                let slot = start + k;
                for (var r = 0u; r < 4u; r++) { // unroll
                    let p = scores[(rows + r) * SCORES + slot];
                    for (var c = 0u; c < VALUE_VECS; c++) { // unroll
                        let x = operands[k * COLUMNS + column + c * 16u];
                        // A masked key's NaN or Inf must not reach the row: 0 * NaN is NaN.
                        acc[r * VALUE_VECS + c] += select(p * x, vec4<f32>(), p == 0.0);
                    }
                }
            }
            workgroupBarrier();
        }
    }

    row_part[lane] = sum;
    workgroupBarrier();
    if (lane % 4u == 0u) {
        let total = row_part[lane] + row_part[lane + 1u] + row_part[lane + 2u] + row_part[lane + 3u];
        row_factor[lane / 4u] = finish_row(t, row_at(t, lane / 4u), top, total);
    }
    workgroupBarrier();
    for (var r = 0u; r < 4u; r++) { // unroll
        let at = row_at(t, rows + r);
        if (at.valid) {
            let base = args.out_offset + t.split * args.out_s0 + t.batch * args.out_s1 + at.head * args.out_s2 + at.row * args.out_s3;
            for (var c = 0u; c < VALUE_VECS; c++) { // unroll
                let d = (column + c * 16u) * 4u;
                out_store4(base, d, args.width, acc[r * VALUE_VECS + c] * row_factor[rows + r]);
            }
        }
    }
}
