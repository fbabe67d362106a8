// Attention of a few query rows over many keys: a decode step. Bound by the bytes of K and V, each of which is read once.
//
// One workgroup: one (split, batch, KV head or query head), ROWS packed rows, which share every read of K and V.
// Threads: LANES across the depth, 8 numbers each, x GROUPS keys; every thread has LOADS keys of K and of V in flight.
// Products are summed over the lanes through workgroup memory, one thread a (key, row). Rows keep an old maximum until a score exceeds it
// by GROWTH, which any thread sees; then every thread finds the new one by itself.
// Workgroup memory: TILE_K * ROWS * (LANES + 3) floats, at most 14 KiB. Barriers a step of TILE_K keys: 2.
// With attend/rows, attend/finish, attend/decode_stage and one of attend/keys_*.

const TILE_Q: u32 = ROWS;
const GROUPS: u32 = WORKGROUP / LANES;
const TILE_K: u32 = GROUPS * LOADS;
const PAIRS: u32 = TILE_K * ROWS;
const EACH: u32 = (PAIRS + WORKGROUP - 1u) / WORKGROUP;
const PARTIAL: u32 = max(PAIRS * (LANES + 1u), WORKGROUP * 8u);
const MASKED: f32 = -1e30;          // finite: shaders may assume that there is no infinity
const SEEN: f32 = -1e27;            // no maximum is lower: weights of masked pairs are exp(MASKED - SEEN) = 0
const GROWTH: f32 = 10.0;

var<workgroup> partial: array<f32, PARTIAL>;    // [pair, lane]; at the end [group, value]
var<workgroup> scores: array<f32, PAIRS>;       // [key, row]
var<workgroup> weights: array<f32, PAIRS>;
var<workgroup> grown: array<u32, 2>;            // by step: a score exceeds its row's maximum by too much

fn kernel(workgroup: u32, lane: u32) {
    let t = tile_of(workgroup);
    let d = lane % LANES * 8u;
    let group = lane / LANES;
    var bounds = vec4<i32>(0x3fffffff, 0, 0, 0x3fffffff);
    var q: array<vec4<f32>, 2u * ROWS>;
    for (var r = 0u; r < ROWS; r++) { // unroll
        let at = row_at(t, r);
        let row = bounds_of(t, at);
        if (at.valid) {
            bounds = vec4<i32>(min(bounds.x, row.x), max(bounds.y, row.y), max(bounds.z, row.x), min(bounds.w, row.y));
            let base = args.q_offset + t.batch * args.q_s0 + at.head * args.q_s1 + at.row * args.q_s2;
            q[2u * r] = q_load4(base, d, args.depth);
            q[2u * r + 1u] = q_load4(base, d + 4u, args.depth);
        }
    }
    let slots = keys_count(t, bounds);

    // The row whose scores this thread finishes.
    let own = lane % ROWS;
    let own_at = row_at(t, own);
    let own_bounds = bounds_of(t, own_at);
    let own_query = position(t, own_at.row);
    var own_top = SEEN;
    var sum = 0.0;
    var top: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) { // unroll
        top[r] = SEEN;
    }
    var acc: array<vec4<f32>, 2u * ROWS>;
    if (lane < 2u) {
        grown[lane] = 0u;
    }

    // Every load has a whole step to arrive.
    var first = advance(t, bounds, 0u, slots);
    var k = array<array<k_raw, 2>, LOADS>();
    var v = array<array<v_raw, 2>, LOADS>();
    if (first < slots) {
        for (var u = 0u; u < LOADS; u++) { // unroll
            k[u] = key_row(t, bounds, first + group + u * GROUPS, d);
            v[u] = value_row(t, bounds, first + group + u * GROUPS, d);
        }
    }
    var step = 0u;
    while (first < slots) {
        for (var u = 0u; u < LOADS; u++) { // unroll
            let a = k_real(k[u][0]);
            let b = k_real(k[u][1]);
            for (var r = 0u; r < ROWS; r++) { // unroll
                let y = q[2u * r];
                let z = q[2u * r + 1u];
                partial[((u * GROUPS + group) * ROWS + r) * (LANES + 1u) + lane % LANES] =
                    y.x * a.x + y.y * a.y + y.z * a.z + y.w * a.w + z.x * b.x + z.y * b.y + z.z * b.z + z.w * b.w;
            }
        }
        let next = advance(t, bounds, first + TILE_K, slots);
        for (var u = 0u; u < LOADS; u++) { // unroll
            k[u] = key_row(t, bounds, next + group + u * GROUPS, d);
        }
        workgroupBarrier();
        if (lane == 0u) {
            grown[(step + 1u) & 1u] = 0u;
        }
        // Whether every row sees every key of the step.
        let unmasked = !HAS_MASK || keys_full(t, bounds, first);
        let begin = keys_at(t, bounds, first);
        let whole = unmasked & keys_run(first) & (begin >= bounds.z) & (begin + i32(TILE_K) <= bounds.w);
        var x = array<f32, EACH>();
        var mine = array<f32, EACH>();
        for (var e = 0u; e < EACH; e++) { // unroll
            let pair = lane + e * WORKGROUP;
            x[e] = select(0.0, MASKED, SOFTMAX);
            if (pair < PAIRS) {
                var s = 0.0;
                for (var n = 0u; n < LANES; n++) { // unroll
                    s += partial[pair * (LANES + 1u) + n];
                }
                let key = keys_at(t, bounds, first + pair / ROWS);
                if (whole || allowed_in(t, own_at, own_query, own_bounds, key, unmasked)) {
                    let at = At(t.batch, own_at.head, own_at.row, own_query, key);
                    s = score(s * args.scale, at);
                    if (SOFTMAX) {
                        // A bias of -inf masks too. Written so that NaN stays.
                        x[e] = select(s, MASKED, s < MASKED);
                    } else {
                        x[e] = weight(s, at);
                    }
                }
                mine[e] = x[e];
                if (SOFTMAX) {
                    scores[pair] = x[e];
                    mine[e] = exp(x[e] - own_top);
                    if (x[e] > own_top + GROWTH) {
                        grown[step & 1u] = 1u;
                    }
                }
                weights[pair] = mine[e];
            }
        }
        workgroupBarrier();

        let grows = SOFTMAX & (grown[step & 1u] != 0u);
        if (grows) {
            for (var r = 0u; r < ROWS; r++) { // unroll
                var high = top[r];
                for (var n = 0u; n < TILE_K; n++) {
                    high = max(high, scores[n * ROWS + r]);
                }
                let factor = exp(top[r] - high);
                top[r] = high;
                acc[2u * r] *= factor;
                acc[2u * r + 1u] *= factor;
                if (own == r) {
                    own_top = high;
                    sum *= factor;
                    for (var e = 0u; e < EACH; e++) { // unroll
                        mine[e] = select(0.0, exp(x[e] - high), lane + e * WORKGROUP < PAIRS);
                    }
                }
            }
        }
        for (var e = 0u; e < EACH; e++) { // unroll
            sum += mine[e];
        }
        // A masked key's NaN or Inf must not reach the row: 0 * NaN is NaN.
        var stain = false;
        if (!whole) {
            for (var u = 0u; u < LOADS; u++) { // unroll
                stain = stain | stained(v_real(v[u][0])) | stained(v_real(v[u][1]));
            }
        }
        if (grows | stain) {
            for (var n = 0u; n < LOADS * ROWS; n++) { // unroll
                let r = n % ROWS;
                let pair = (n / ROWS * GROUPS + group) * ROWS + r;
                var w = weights[pair];
                if (grows) {
                    w = exp(scores[pair] - top[r]);
                }
                acc[2u * r] += select(w * v_real(v[n / ROWS][0]), vec4<f32>(), w == 0.0);
                acc[2u * r + 1u] += select(w * v_real(v[n / ROWS][1]), vec4<f32>(), w == 0.0);
            }
        } else {
            for (var u = 0u; u < LOADS; u++) { // unroll
                let a = v_real(v[u][0]);
                let b = v_real(v[u][1]);
                for (var r = 0u; r < ROWS; r++) { // unroll
                    let w = weights[(u * GROUPS + group) * ROWS + r];
                    acc[2u * r] += w * a;
                    acc[2u * r + 1u] += w * b;
                }
            }
        }
        for (var u = 0u; u < LOADS; u++) { // unroll
            v[u] = value_row(t, bounds, next + group + u * GROUPS, d);
        }
        first = next;
        step += 1u;
    }

    // Sums over the threads of a row, then values over the groups.
    workgroupBarrier();
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half >= ROWS; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    var total = array<f32, ROWS>();
    for (var r = 0u; r < ROWS; r++) { // unroll
        total[r] = partial[r];
    }
    for (var r = 0u; r < ROWS; r++) { // unroll
        workgroupBarrier();
        for (var n = 0u; n < 4u; n++) { // unroll
            partial[group * LANES * 8u + d + n] = acc[2u * r][n];
            partial[group * LANES * 8u + d + 4u + n] = acc[2u * r + 1u][n];
        }
        workgroupBarrier();
        let at = row_at(t, r);
        let factor = finish_row(t, at, select(MASKED, top[r], top[r] > SEEN), total[r], lane == 0u);
        if (at.valid && lane * 4u < LANES * 8u) {
            var o = vec4<f32>();
            for (var n = 0u; n < GROUPS; n++) {
                let start = n * LANES * 8u + lane * 4u;
                o += vec4<f32>(partial[start], partial[start + 1u], partial[start + 2u], partial[start + 3u]);
            }
            let base = args.out_offset + t.split * args.out_s0 + t.batch * args.out_s1 + at.head * args.out_s2 + at.row * args.out_s3;
            out_store4(base, lane * 4u, args.width, o * factor);
        }
    }
}
