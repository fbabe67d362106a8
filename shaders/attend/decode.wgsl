// Attention of a few query rows over many keys: a decode step. Bound by the bytes of K and V, each of which is read once.
//
// One workgroup: one (split, batch, KV head or query head), ROWS packed rows, which share every read of K and V.
// Threads: LANES across the depth, 8 numbers each, x GROUPS keys; every thread has LOADS keys of K and of V in flight.
// Products are summed over the lanes through workgroup memory, one thread a (key, row). Rows keep an old maximum until a score exceeds it
// by GROWTH, which any thread sees; then every thread finds the new one by itself.
// Workgroup memory: TILE_K * ROWS * (LANES + 3) floats, at most 14 KiB. Barriers a step of TILE_K keys: 2.
// With attend/rows, attend/finish and one of attend/keys_*.

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

// Eight numbers of a row of K or V; `d` is a multiple of 8.
fn k_eight(base: u32, d: u32) -> array<vec4<f32>, 2> {
    if (WIDE) {
        let i = ((base + d) >> 3u) * 2u;
        return array<vec4<f32>, 2>(k_vec(i), k_vec(i + 1u));
    }
    return array<vec4<f32>, 2>(k_load4(base, d, args.depth), k_load4(base, d + 4u, args.depth));
}
fn v_eight(base: u32, d: u32) -> array<vec4<f32>, 2> {
    if (WIDE) {
        let i = ((base + d) >> 3u) * 2u;
        return array<vec4<f32>, 2>(v_vec(i), v_vec(i + 1u));
    }
    return array<vec4<f32>, 2>(v_load4(base, d, args.width), v_load4(base, d + 4u, args.width));
}

fn key_row(t: Tile, bounds: vec4<i32>, first: u32, slots: u32, group: u32, d: u32) -> array<vec4<f32>, 2> {
    let j = keys_at(t, bounds, first + group);
    if (first < slots && j >= 0 && d < args.depth) {
        return k_eight(args.k_offset + t.batch * args.k_s0 + t.kv_head * args.k_s1 + u32(j) * args.k_s2, d);
    }
    return array<vec4<f32>, 2>();
}
fn value_row(t: Tile, bounds: vec4<i32>, first: u32, group: u32, d: u32) -> array<vec4<f32>, 2> {
    let j = keys_at(t, bounds, first + group);
    if (j >= 0 && d < args.width) {
        return v_eight(args.v_offset + t.batch * args.v_s0 + t.kv_head * args.v_s1 + u32(j) * args.v_s2, d);
    }
    return array<vec4<f32>, 2>();
}

fn advance(t: Tile, bounds: vec4<i32>, first: u32, slots: u32) -> u32 {
    var at = first;
    while (at < slots && keys_skip(t, bounds, at)) {
        at += TILE_K;
    }
    return at;
}

// By bits: arithmetic may assume that there is no NaN.
fn stained(x: vec4<f32>) -> bool {
    return any((bitcast<vec4<u32>>(x) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u));
}

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

    var first = advance(t, bounds, 0u, slots);
    var k = array<array<vec4<f32>, 2>, LOADS>();
    for (var u = 0u; u < LOADS; u++) { // unroll
        k[u] = key_row(t, bounds, first + u * GROUPS, slots, group, d);
    }
    var step = 0u;
    while (first < slots) {
        for (var u = 0u; u < LOADS; u++) { // unroll
            for (var r = 0u; r < ROWS; r++) { // unroll
                let both = q[2u * r] * k[u][0] + q[2u * r + 1u] * k[u][1];
                partial[((u * GROUPS + group) * ROWS + r) * (LANES + 1u) + lane % LANES] = both.x + both.y + both.z + both.w;
            }
        }
        var v = array<array<vec4<f32>, 2>, LOADS>();
        for (var u = 0u; u < LOADS; u++) { // unroll
            v[u] = value_row(t, bounds, first + u * GROUPS, group, d);
        }
        workgroupBarrier();
        if (lane == 0u) {
            grown[(step + 1u) & 1u] = 0u;
        }
        let unmasked = HAS_MASK && keys_full(t, bounds, first);
        var x = array<f32, EACH>();
        for (var e = 0u; e < EACH; e++) { // unroll
            let pair = lane + e * WORKGROUP;
            x[e] = select(0.0, MASKED, SOFTMAX);
            if (pair < PAIRS) {
                var s = 0.0;
                for (var n = 0u; n < LANES; n++) { // unroll
                    s += partial[pair * (LANES + 1u) + n];
                }
                let key = keys_at(t, bounds, first + pair / ROWS);
                if (allowed_in(t, own_at, own_query, own_bounds, key, unmasked)) {
                    let at = At(t.batch, own_at.head, own_at.row, own_query, key);
                    s = score(s * args.scale, at);
                    if (SOFTMAX) {
                        // A bias of -inf masks too. Written so that NaN stays.
                        x[e] = select(s, MASKED, s < MASKED);
                    } else {
                        x[e] = weight(s, at);
                    }
                }
                var w = x[e];
                if (SOFTMAX) {
                    scores[pair] = x[e];
                    w = exp(x[e] - own_top);
                    if (x[e] > own_top + GROWTH) {
                        grown[step & 1u] = 1u;
                    }
                }
                weights[pair] = w;
            }
        }
        let next = advance(t, bounds, first + TILE_K, slots);
        for (var u = 0u; u < LOADS; u++) { // unroll
            k[u] = key_row(t, bounds, next + u * GROUPS, slots, group, d);
        }
        workgroupBarrier();

        var w = array<f32, LOADS * ROWS>();
        for (var u = 0u; u < LOADS; u++) { // unroll
            for (var r = 0u; r < ROWS; r++) { // unroll
                w[u * ROWS + r] = weights[(u * GROUPS + group) * ROWS + r];
            }
        }
        if (SOFTMAX && grown[step & 1u] != 0u) {
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
                }
                for (var u = 0u; u < LOADS; u++) { // unroll
                    w[u * ROWS + r] = exp(scores[(u * GROUPS + group) * ROWS + r] - high);
                }
            }
        }
        for (var e = 0u; e < EACH; e++) { // unroll
            if (lane + e * WORKGROUP < PAIRS) {
                sum += select(x[e], exp(x[e] - own_top), SOFTMAX);
            }
        }
        // A masked key's NaN or Inf must not reach the row: 0 * NaN is NaN.
        for (var u = 0u; u < LOADS; u++) { // unroll
            if (stained(v[u][0]) || stained(v[u][1])) {
                for (var r = 0u; r < ROWS; r++) { // unroll
                    let share = w[u * ROWS + r];
                    acc[2u * r] += select(share * v[u][0], vec4<f32>(), share == 0.0);
                    acc[2u * r + 1u] += select(share * v[u][1], vec4<f32>(), share == 0.0);
                }
            } else {
                for (var r = 0u; r < ROWS; r++) { // unroll
                    acc[2u * r] += w[u * ROWS + r] * v[u][0];
                    acc[2u * r + 1u] += w[u * ROWS + r] * v[u][1];
                }
            }
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
