// Attention of one tile of query rows by cooperative matrices of N x N: f16 factors, f32 sums, softmax in f32.
//
// One workgroup: SUBGROUPS subgroups of LANES = ROW_TILES * N invocations. A subgroup owns LANES rows, an invocation one of them: its
// maximum and sum never leave a register. Q stays in matrices, K and V are staged for all subgroups, KEYS at a time and twice buffered;
// scores leave the matrices through workgroup memory, weights return the same way as f16.
// The row rescale of the accumulator has no element-wise form on matrices, so it is lazy: rows keep an old maximum until the new one is
// larger by GROWTH (in powers of two), and only then all accumulators pass through workgroup memory.
// Barriers a step: the two of workgroupUniformLoad, which tells whether any row of the workgroup rescales.
// With attend/rows, attend/finish, attend/matrix_stage, attend/matrix_N and one of attend/keys_*.

const LANES: u32 = ROW_TILES * N;
const TILE_Q: u32 = LANES * SUBGROUPS;
const TILE_K: u32 = N * KEY_TILES;     // keys of a step
const MASKED: f32 = -1e30;          // finite: shaders may assume that there is no infinity
const SEEN: f32 = -5e29;
const GROWTH: f32 = 8.0;            // weights stay below 2^8, far from the end of f16
const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;
// Rows padded against bank conflicts, in vec4 of halves (staged operands) and of floats (scores).
const K_STRIDE: u32 = DEPTH_TILES * N / 4u + 2u;
const V_STRIDE: u32 = VALUE_TILES * N / 4u + 2u;
const S_STRIDE: u32 = TILE_K / 4u + 1u;
const P_STRIDE: u32 = TILE_K / 4u + P_PAD;
const N4: u32 = N / 4u;
const K4: u32 = TILE_K / 4u;
const K_PARTS: u32 = TILE_K * DEPTH_TILES * N / 4u;      // vec4 of a staged K or V tile
const V_PARTS: u32 = TILE_K * VALUE_TILES * N / 4u;
const K_EACH: u32 = (K_PARTS + WORKGROUP - 1u) / WORKGROUP;
const V_EACH: u32 = (V_PARTS + WORKGROUP - 1u) / WORKGROUP;

var<workgroup> k_tile: array<vec4<f16>, 2u * TILE_K * K_STRIDE>;
var<workgroup> v_tile: array<vec4<f16>, 2u * TILE_K * V_STRIDE>;
var<workgroup> s_tile: array<vec4<f32>, TILE_Q * S_STRIDE>;
var<workgroup> p_tile: array<vec4<f16>, TILE_Q * P_STRIDE>;
var<workgroup> row_bounds: array<vec2<i32>, TILE_Q>;
var<workgroup> tile_bounds: array<vec4<i32>, 1>;   // min lo, max hi, max lo, min hi
var<workgroup> grows: array<u32, 2>;

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group);
    let at = row_at(t, lane);
    let mine = bounds_of(t, at);
    let query = position(t, at.row);
    let first_row = lane / LANES * LANES;
    row_bounds[lane] = mine;
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
        tile_bounds[0] = b;
        grows[0] = 0u;
    }
    let bounds = workgroupUniformLoad(&tile_bounds[0]);
    let slots = keys_count(t, bounds);

    // Q, one depth tile at a time through the rows of p_tile.
    var q: array<MatA, ROW_TILES * DEPTH_TILES>;
    for (var c = 0u; c < DEPTH_TILES; c++) { // unroll
        for (var n = 0u; n < N4; n++) { // unroll
            var x = vec4<f16>();
            if (at.valid) {
                let base = args.q_offset + t.batch * args.q_s0 + at.head * args.q_s1 + at.row * args.q_s2;
                x = q_half4(base, c * N + n * 4u, args.depth);
            }
            p_tile[lane * P_STRIDE + n] = x;
        }
        workgroupBarrier();
        for (var m = 0u; m < ROW_TILES; m++) { // unroll
            q[m * DEPTH_TILES + c] = coopLoadT<MatA>(&p_tile[(first_row + m * N) * P_STRIDE], P_STRIDE);
        }
        workgroupBarrier();
    }

    var acc: array<MatC, ROW_TILES * VALUE_TILES>;
    var top = MASKED;
    var sum = 0.0;

    var first = advance(t, bounds, 0u, slots);
    var step = 0u;
    for (var n = 0u; n < K_EACH; n++) { // unroll
        k_store(0u, lane + n * WORKGROUP, k_part(t, bounds, first, lane + n * WORKGROUP));
    }
    workgroupBarrier();
    for (var j = 0u; j < KEY_TILES; j++) { // unroll
        for (var m = 0u; m < ROW_TILES; m++) { // unroll
            var s = MatC();
            for (var c = 0u; c < DEPTH_TILES; c++) { // unroll
                s = coopMultiplyAdd(q[m * DEPTH_TILES + c], coopLoad<MatB>(&k_tile[j * N * K_STRIDE + c * N4], K_STRIDE), s);
            }
            coopStoreT(s, &s_tile[(first_row + m * N) * S_STRIDE + j * N4], S_STRIDE);
        }
    }
    subgroupBarrier();

    while (first < slots) {
        let next_first = advance(t, bounds, first + TILE_K, slots);
        // Loads are issued before the softmax, which hides them, and stored after it.
        var ks = array<vec4<f16>, K_EACH>();
        var vs = array<vec4<f16>, V_EACH>();
        for (var n = 0u; n < K_EACH; n++) { // unroll
            ks[n] = k_part(t, bounds, next_first, lane + n * WORKGROUP);
        }
        for (var n = 0u; n < V_EACH; n++) { // unroll
            vs[n] = v_part(t, bounds, first, lane + n * WORKGROUP);
        }

        var x = array<f32, TILE_K>();
        let j0 = keys_at(t, bounds, first);
        let j1 = keys_at(t, bounds, first + TILE_K - 1u);
        let unmasked = !HAS_MASK || keys_full(t, bounds, first);
        let full = unmasked && j0 >= bounds.z && j1 < bounds.w && j1 - j0 == i32(TILE_K) - 1;
        for (var n = 0u; n < K4; n++) { // unroll
            let four = s_tile[lane * S_STRIDE + n] * args.scale;
            x[n * 4u] = four.x;
            x[n * 4u + 1u] = four.y;
            x[n * 4u + 2u] = four.z;
            x[n * 4u + 3u] = four.w;
        }
        if (HAS_SCORE || !SOFTMAX) {
            for (var n = 0u; n < TILE_K; n++) { // unroll
                let pair = At(t.batch, at.head, at.row, query, keys_at(t, bounds, first + n));
                x[n] = score(x[n], pair);
                if (SOFTMAX) {
                    x[n] = select(x[n], MASKED, x[n] < MASKED);
                } else {
                    x[n] = weight(x[n], pair);
                }
            }
        }
        if (!full) {
            for (var n = 0u; n < TILE_K; n++) { // unroll
                let seen = allowed_in(t, at, query, mine, keys_at(t, bounds, first + n), unmasked);
                x[n] = select(select(0.0, MASKED, SOFTMAX), x[n], seen);
            }
        }
        var scale = 1.0;
        if (SOFTMAX) {
            var high = x[0];
            for (var n = 1u; n < TILE_K; n++) { // unroll
                high = max(high, x[n]);
            }
            high *= LOG2_E;
            if (high > top + GROWTH) {
                if (top > SEEN) {
                    scale = exp2(top - high);
                    grows[step & 1u] = 1u;
                }
                top = high;
            }
        }
        for (var n = 0u; n < K_EACH; n++) { // unroll
            k_store((step + 1u) & 1u, lane + n * WORKGROUP, ks[n]);
        }
        for (var n = 0u; n < V_EACH; n++) { // unroll
            v_store(step & 1u, lane + n * WORKGROUP, vs[n]);
        }
        if (lane == 0u) {
            grows[(step + 1u) & 1u] = 0u;
        }
        let rescale = workgroupUniformLoad(&grows[step & 1u]);

        if (rescale != 0u) {
            sum *= scale;
            for (var c = 0u; c < VALUE_TILES; c++) { // unroll
                for (var m = 0u; m < ROW_TILES; m++) { // unroll
                    coopStoreT(acc[m * VALUE_TILES + c], &s_tile[(first_row + m * N) * S_STRIDE], S_STRIDE);
                }
                subgroupBarrier();
                for (var n = 0u; n < N4; n++) { // unroll
                    s_tile[lane * S_STRIDE + n] *= scale;
                }
                subgroupBarrier();
                for (var m = 0u; m < ROW_TILES; m++) { // unroll
                    acc[m * VALUE_TILES + c] = coopLoadT<MatC>(&s_tile[(first_row + m * N) * S_STRIDE], S_STRIDE);
                }
                subgroupBarrier();
            }
        }
        for (var n = 0u; n < K4; n++) { // unroll
            var p = vec4<f32>(x[n * 4u], x[n * 4u + 1u], x[n * 4u + 2u], x[n * 4u + 3u]);
            if (SOFTMAX) {
                p = select(exp2(p * LOG2_E - top), vec4<f32>(), p <= vec4<f32>(SEEN));
            }
            let rounded = vec4<f16>(p);
            sum += p.x + p.y + p.z + p.w;
            p_tile[lane * P_STRIDE + n] = rounded;
        }
        subgroupBarrier();

        // O += P V of this step, then S of the next.
        let v_base = (step & 1u) * TILE_K * V_STRIDE;
        for (var j = 0u; j < KEY_TILES; j++) { // unroll
            var p = array<MatA, ROW_TILES>();
            for (var m = 0u; m < ROW_TILES; m++) { // unroll
                p[m] = coopLoadT<MatA>(&p_tile[(first_row + m * N) * P_STRIDE + j * N4], P_STRIDE);
            }
            for (var c = 0u; c < VALUE_TILES; c++) { // unroll
                let v = coopLoadT<MatB>(&v_tile[v_base + j * N * V_STRIDE + c * N4], V_STRIDE);
                for (var m = 0u; m < ROW_TILES; m++) { // unroll
                    acc[m * VALUE_TILES + c] = coopMultiplyAdd(p[m], v, acc[m * VALUE_TILES + c]);
                }
            }
        }
        let k_base = ((step + 1u) & 1u) * TILE_K * K_STRIDE;
        for (var j = 0u; j < KEY_TILES; j++) { // unroll
            var s = array<MatC, ROW_TILES>();
            for (var c = 0u; c < DEPTH_TILES; c++) { // unroll
                let k = coopLoad<MatB>(&k_tile[k_base + j * N * K_STRIDE + c * N4], K_STRIDE);
                for (var m = 0u; m < ROW_TILES; m++) { // unroll
                    s[m] = coopMultiplyAdd(q[m * DEPTH_TILES + c], k, s[m]);
                }
            }
            for (var m = 0u; m < ROW_TILES; m++) { // unroll
                coopStoreT(s[m], &s_tile[(first_row + m * N) * S_STRIDE + j * N4], S_STRIDE);
            }
        }
        subgroupBarrier();
        first = next_first;
        step += 1u;
    }

    let factor = finish_row(t, at, select(MASKED, top * LN_2, top > SEEN), sum);
    let base = args.out_offset + t.split * args.out_s0 + t.batch * args.out_s1 + at.head * args.out_s2 + at.row * args.out_s3;
    for (var c = 0u; c < VALUE_TILES; c++) { // unroll
        for (var m = 0u; m < ROW_TILES; m++) { // unroll
            coopStoreT(acc[m * VALUE_TILES + c], &s_tile[(first_row + m * N) * S_STRIDE], S_STRIDE);
        }
        subgroupBarrier();
        for (var n = 0u; n < N4; n++) { // unroll
            if (at.valid) {
                out_store4(base, c * N + n * 4u, args.width, s_tile[lane * S_STRIDE + n] * factor);
            }
        }
        subgroupBarrier();
    }
}
