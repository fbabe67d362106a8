// Attention of one tile of query rows by cooperative matrices of N x N: f16 factors, f32 sums, softmax in f32.
//
// One workgroup: SUBGROUPS subgroups of LANES invocations. A subgroup owns ROW_TILES * N rows, and SHARE invocations share a row: its
// maximum and sum never leave registers. Q stays in matrices; K and V are staged for all subgroups, N keys at a time and twice buffered;
// scores leave the matrices through workgroup memory, weights return the same way as f16.
// A step computes the scores of the next keys beside the weights of its own, so that matrices and softmax overlap. One barrier a step.
// The row rescale of the accumulator has no element-wise form on matrices. Rows keep an old maximum until the new one is larger by GROWTH
// (in powers of two); then the subgroup ends its epoch: accumulators are added to `out`, rescaled, and start at zero again. That happens
// a few times a tile, and code for it inside the step would take the registers that the step needs.
// With attend/rows, attend/finish, attend/matrix_rows, attend/matrix_stage, attend/matrix_N and one each of attend/matrix_bounds*,
// attend/matrix_epoch_* and attend/keys_*.

const LANES: u32 = ROW_TILES * N * SHARE;
const ROWS: u32 = ROW_TILES * N;       // rows of a subgroup
const TILE_Q: u32 = ROWS * SUBGROUPS;
const TILE_K: u32 = N;                 // keys of a step
// Rows padded against bank conflicts, in vec4 of halves (staged operands, weights) and of floats (scores).
const K_STRIDE: u32 = DEPTH_TILES * N4 + 2u;
const V_STRIDE: u32 = VALUE_TILES * N4 + 2u;
const S_STRIDE: u32 = N4 + 1u;
const P_STRIDE: u32 = N4 + 1u;
const K_PARTS: u32 = TILE_K * DEPTH_TILES * N4;      // vec4 of a staged K or V tile
const V_PARTS: u32 = TILE_K * VALUE_TILES * N4;
const K_EACH: u32 = (K_PARTS + WORKGROUP - 1u) / WORKGROUP;
const V_EACH: u32 = (V_PARTS + WORKGROUP - 1u) / WORKGROUP;

// 24 KiB at most for 64 channels and 128 rows: seen was that two workgroups share a processor up to there, and one runs alone above.
var<workgroup> k_tile: array<vec4<f16>, 2u * TILE_K * K_STRIDE>;
var<workgroup> v_tile: array<vec4<f16>, 2u * TILE_K * V_STRIDE>;
var<workgroup> s_tile: array<vec4<f32>, TILE_Q * S_STRIDE>;
var<workgroup> p_tile: array<vec4<f16>, TILE_Q * P_STRIDE>;

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group);
    let first_row = lane / LANES * ROWS;
    let local = first_row + lane % LANES / SHARE;
    let column = lane % SHARE * OWN4;    // first vec4 of this invocation's scores in a row
    let at = row_at(t, local);
    let mine = bounds_of(t, at);
    let query = position(t, at.row);
    let bounds = bounds_of_tile(t, lane, mine);
    let slots = keys_count(t, bounds);

    // Q, one depth tile at a time through the rows of p_tile.
    var q = array<MatA, ROW_TILES * DEPTH_TILES>(); // split
    for (var c = 0u; c < DEPTH_TILES; c++) { // unroll
        for (var n = 0u; n < OWN4; n++) { // unroll
            var x = vec4<f16>();
            if (at.valid) {
                let base = args.q_offset + t.batch * args.q_s0 + at.head * args.q_s1 + at.row * args.q_s2;
                x = q_half4(base, c * N + (column + n) * 4u, args.depth);
            }
            p_tile[local * P_STRIDE + column + n] = x;
        }
        subgroupBarrier();
        for (var m = 0u; m < ROW_TILES; m++) { // unroll
            q[m * DEPTH_TILES + c] = coopLoadT<MatA>(&p_tile[(first_row + m * N) * P_STRIDE], P_STRIDE);
        }
        subgroupBarrier();
    }

    var first = advance(t, bounds, none(), slots);       // this step's keys
    var next = advance(t, bounds, first, slots);
    // Operands on their way: K of the next step and V of this one. They pass from one turn of the loop to the next, where the loads cannot
    // be moved down to their use.
    var ks = array<vec4<f16>, K_EACH>();
    var vs = array<vec4<f16>, V_EACH>();
    var k_at = array<u32, K_EACH>();
    var v_at = array<u32, V_EACH>();
    for (var n = 0u; n < K_EACH; n++) { // unroll
        k_at[n] = k_place(t, lane + n * WORKGROUP);
    }
    for (var n = 0u; n < V_EACH; n++) { // unroll
        v_at[n] = v_place(t, lane + n * WORKGROUP);
    }
    if (first.slot < slots) {
        for (var n = 0u; n < K_EACH; n++) { // unroll
            k_store(0u, lane + n * WORKGROUP, k_part(t, bounds, first, lane + n * WORKGROUP, k_at[n]));
            ks[n] = k_part(t, bounds, next, lane + n * WORKGROUP, k_at[n]);
        }
        for (var n = 0u; n < V_EACH; n++) { // unroll
            vs[n] = v_part(t, bounds, first, lane + n * WORKGROUP, v_at[n]);
        }
    }
    growth_start(lane);
    workgroupBarrier();
    for (var m = 0u; m < ROW_TILES; m++) { // unroll
        var s = MatC();
        for (var c = 0u; c < DEPTH_TILES; c++) { // unroll
            s = coopMultiplyAdd(q[m * DEPTH_TILES + c], coopLoad<MatB>(&k_tile[c * N4], K_STRIDE), s);
        }
        coopStoreT(s, &s_tile[(first_row + m * N) * S_STRIDE], S_STRIDE);
    }
    subgroupBarrier();
    var x = array<vec4<f32>, OWN4>();
    for (var n = 0u; n < OWN4; n++) { // unroll
        x[n] = scored(t, at, query, bounds, first, (column + n) * 4u, s_tile[local * S_STRIDE + column + n]);
    }
    if (!whole(t, bounds, first)) {
        for (var n = 0u; n < OWN4; n++) { // unroll
            x[n] = masked(t, at, query, mine, bounds, first, (column + n) * 4u, x[n]);
        }
    }
    var top = max(highest(x), SEEN);
    var old = top;                       // the maximum that accumulators and sum are relative to
    var sum = 0.0;
    var step = 0u;
    var turn = 0u;
    var epoch = 0u;
    var ends = false;
    let base = args.out_offset + t.split * args.out_s0 + t.batch * args.out_s1 + at.head * args.out_s2 + at.row * args.out_s3;

    loop {
        // A tile without keys. Checked here: with two ways to leave the loop of steps by their number, a driver made eight copies of it.
        if (first.slot >= slots) {
            finish_without_keys(t, at, base, column, lane);
            break;
        }
        var acc = array<MatC, ROW_TILES * VALUE_TILES>(); // split
        loop {
            for (var n = 0u; n < K_EACH; n++) { // unroll
                k_store((step + 1u) & 1u, lane + n * WORKGROUP, ks[n]);
            }
            for (var n = 0u; n < V_EACH; n++) { // unroll
                v_store(step & 1u, lane + n * WORKGROUP, vs[n]);
            }
            workgroupBarrier();
            if (TOGETHER) {
                // The step then begins again; what it staged is the same.
                ends = growth_told(turn) & !ends;
                if (ends) {
                    break;
                }
            }
            let after = advance(t, bounds, next, slots);
            for (var n = 0u; n < K_EACH; n++) { // unroll
                ks[n] = k_part(t, bounds, after, lane + n * WORKGROUP, k_at[n]);
            }
            for (var n = 0u; n < V_EACH; n++) { // unroll
                vs[n] = v_part(t, bounds, next, lane + n * WORKGROUP, v_at[n]);
            }
            let k_base = ((step + 1u) & 1u) * TILE_K * K_STRIDE;
            var s = array<MatC, ROW_TILES>(); // split
            for (var c = 0u; c < DEPTH_TILES; c++) { // unroll
                let k = coopLoad<MatB>(&k_tile[k_base + c * N4], K_STRIDE);
                for (var m = 0u; m < ROW_TILES; m++) { // unroll
                    s[m] = coopMultiplyAdd(q[m * DEPTH_TILES + c], k, s[m]);
                }
            }
            for (var n = 0u; n < OWN4; n++) { // unroll
                let p = weights(x[n], top);
                sum += dot(p, vec4<f32>(1.0));
                p_tile[local * P_STRIDE + column + n] = vec4<f16>(p);
            }
            subgroupBarrier();
            let v_base = (step & 1u) * TILE_K * V_STRIDE;
            var p = array<MatA, ROW_TILES>(); // split
            for (var m = 0u; m < ROW_TILES; m++) { // unroll
                p[m] = coopLoadT<MatA>(&p_tile[(first_row + m * N) * P_STRIDE], P_STRIDE);
            }
            for (var c = 0u; c < VALUE_TILES; c++) { // unroll
                let v = coopLoadT<MatB>(&v_tile[v_base + c * N4], V_STRIDE);
                for (var m = 0u; m < ROW_TILES; m++) { // unroll
                    acc[m * VALUE_TILES + c] = coopMultiplyAdd(p[m], v, acc[m * VALUE_TILES + c]);
                }
            }
            for (var m = 0u; m < ROW_TILES; m++) { // unroll
                coopStoreT(s[m], &s_tile[(first_row + m * N) * S_STRIDE], S_STRIDE);
            }
            subgroupBarrier();
            first = next;
            next = after;
            step += 1u;
            if (first.slot >= slots) {
                break;
            }
            for (var n = 0u; n < OWN4; n++) { // unroll
                x[n] = scored(t, at, query, bounds, first, (column + n) * 4u, s_tile[local * S_STRIDE + column + n]);
            }
            if (!whole(t, bounds, first)) {
                for (var n = 0u; n < OWN4; n++) { // unroll
                    x[n] = masked(t, at, query, mine, bounds, first, (column + n) * 4u, x[n]);
                }
            }
            if (SOFTMAX) {
                old = top;
                let high = highest(x);
                // A row that saw nothing yet has nothing to rescale.
                let grows = high > top + GROWTH;
                top = select(top, high, grows);
                let rescales = grows & (old > SEEN);
                if (TOGETHER) {
                    turn = select(turn + 1u, 0u, turn == 2u);
                    if (rescales) {
                        growth_tell(turn);
                    }
                    growth_clear(lane, select(turn + 1u, 0u, turn == 2u));
                    ends = false;
                } else {
                    if (subgroupAny(rescales)) {
                        break;
                    }
                }
            }
        }

        // The end of an epoch, or of the tile.
        let done = first.slot >= slots;
        var factor = 1.0;
        if (SOFTMAX && !done) {
            factor = exp2(old - top);
            sum *= factor;
        }
        if (done) {
            var total = sum;
            if (SHARE == 2u) {
                total += subgroupShuffleXor(total, 1u);
            }
            factor = finish_row(t, at, select(MASKED, top * LN_2, top > SEEN), total, lane % SHARE == 0u);
        }
        for (var c = 0u; c < VALUE_TILES; c++) { // unroll
            for (var m = 0u; m < ROW_TILES; m++) { // unroll
                coopStoreT(acc[m * VALUE_TILES + c], &s_tile[(first_row + m * N) * S_STRIDE], S_STRIDE);
            }
            subgroupBarrier();
            for (var n = 0u; n < OWN4; n++) { // unroll
                if (at.valid) {
                    var o = s_tile[local * S_STRIDE + column + n];
                    if (epoch != 0u) {
                        o += out_load4(base, c * N + (column + n) * 4u, args.width);
                    }
                    out_store4(base, c * N + (column + n) * 4u, args.width, o * factor);
                }
            }
            subgroupBarrier();
        }
        epoch += 1u;
        if (done) {
            break;
        }
    }
}
