// Attention of one query of up to N heads over the keys that they share, by cooperative matrices of N x N: f16 factors, f32 sums, softmax in
// f32. Bound by the bytes of K and V, each of which is read once; matrices leave little else to do.
//
// One workgroup: one (split, batch, KV head). Its SUBGROUPS subgroups take turns at the steps of N keys and share nothing until the end: a
// subgroup stages its own keys, then its own values in the same place, while the next of both are on their way in registers. All heads see
// the same keys, so nothing that is masked ever meets a product.
// Rows keep an old maximum until the new one is larger by GROWTH; then the subgroup's accumulators pass through workgroup memory once.
// Workgroup memory: 24 KiB at D = 128 with four subgroups of 32, where two workgroups share a processor. Barriers of a subgroup a step: 4.
// With attend/rows, attend/finish, attend/keys_range, attend/matrix_rows, attend/matrix_epoch_*, attend/matrix_N.

const LANES: u32 = N * SHARE;
const TILE_Q: u32 = N;
const TILE_K: u32 = N;
const STRIDE: u32 = max(DEPTH_TILES, VALUE_TILES) * N4 + 2u;   // vec4 of halves, padded against bank conflicts
const S_STRIDE: u32 = N4 + 1u;                                 // vec4 of floats; the last is the row's
const K_ROW: u32 = DEPTH_TILES * N / 8u;                       // loads of 16 bytes of a key
const V_ROW: u32 = VALUE_TILES * N / 8u;
const K_EACH: u32 = (N * K_ROW + LANES - 1u) / LANES;
const V_EACH: u32 = (N * V_ROW + LANES - 1u) / LANES;

var<workgroup> tile: array<vec4<f16>, SUBGROUPS * N * STRIDE>;       // keys or values of a step
var<workgroup> s_tile: array<vec4<f32>, SUBGROUPS * N * S_STRIDE>;
var<workgroup> p_tile: array<vec4<f16>, SUBGROUPS * N * N4>;

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group);
    let sub = lane / LANES;
    let l = lane % LANES;
    let row = sub * N + l / SHARE;
    let column = l % SHARE * OWN4;       // first vec4 of this invocation's scores in a row
    let at = row_at(t, l / SHARE);
    let query = position(t, 0u);
    let seen = bounds_of(t, RowAt(t.head, 0u, true));
    let bounds = vec4<i32>(seen, seen);
    let slots = keys_count(t, bounds);
    let steps = (slots + N * SUBGROUPS - 1u) / (N * SUBGROUPS);

    var q = array<MatA, DEPTH_TILES>(); // split
    for (var c = 0u; c < DEPTH_TILES; c++) { // unroll
        for (var n = 0u; n < OWN4; n++) { // unroll
            var x = vec4<f16>();
            if (at.valid) {
                let base = args.q_offset + t.batch * args.q_s0 + at.head * args.q_s1;
                x = q_half4(base, c * N + (column + n) * 4u, args.depth);
            }
            p_tile[row * N4 + column + n] = x;
        }
        subgroupBarrier();
        q[c] = coopLoadT<MatA>(&p_tile[sub * N * N4], N4);
        subgroupBarrier();
    }

    // Every load has a whole step to arrive: it passes over the end of the loop, where it cannot be moved down to its use.
    var ks = array<vec4<f16>, 2u * K_EACH>();
    var vs = array<vec4<f16>, 2u * V_EACH>();
    if (steps > 0u) {
        for (var e = 0u; e < K_EACH; e++) { // unroll
            let i = k_place(t, bounds, sub * N, l + e * LANES);
            ks[2u * e] = k_raw_at(i);
            ks[2u * e + 1u] = k_raw_at(i + 1u);
        }
        for (var e = 0u; e < V_EACH; e++) { // unroll
            let i = v_place(t, bounds, sub * N, l + e * LANES);
            vs[2u * e] = v_raw_at(i);
            vs[2u * e + 1u] = v_raw_at(i + 1u);
        }
    }
    growth_start(lane);
    var top = SEEN;
    var sum = 0.0;
    var turn = 0u;
    var acc = array<MatC, VALUE_TILES>(); // split
    for (var step = 0u; step < steps; step++) {
        let first = (step * SUBGROUPS + sub) * N;
        let next = first + N * SUBGROUPS;
        for (var e = 0u; e < K_EACH; e++) { // unroll
            let n = l + e * LANES;
            if (N * K_ROW % LANES == 0u || n < N * K_ROW) {
                let d = n % K_ROW * 8u;
                tile[(sub * N + n / K_ROW) * STRIDE + d / 4u] = padded(ks[2u * e], d);
                tile[(sub * N + n / K_ROW) * STRIDE + d / 4u + 1u] = padded(ks[2u * e + 1u], d);
            }
        }
        subgroupBarrier();
        for (var e = 0u; e < K_EACH; e++) { // unroll
            let i = k_place(t, bounds, next, l + e * LANES);
            ks[2u * e] = k_raw_at(i);
            ks[2u * e + 1u] = k_raw_at(i + 1u);
        }
        var s = MatC();
        for (var c = 0u; c < DEPTH_TILES; c++) { // unroll
            s = coopMultiplyAdd(q[c], coopLoad<MatB>(&tile[sub * N * STRIDE + c * N4], STRIDE), s);
        }
        coopStoreT(s, &s_tile[sub * N * S_STRIDE], S_STRIDE);
        subgroupBarrier();

        for (var e = 0u; e < V_EACH; e++) { // unroll
            let n = l + e * LANES;
            if (N * V_ROW % LANES == 0u || n < N * V_ROW) {
                tile[(sub * N + n / V_ROW) * STRIDE + n % V_ROW * 2u] = vs[2u * e];
                tile[(sub * N + n / V_ROW) * STRIDE + n % V_ROW * 2u + 1u] = vs[2u * e + 1u];
            }
        }
        for (var e = 0u; e < V_EACH; e++) { // unroll
            let i = v_place(t, bounds, next, l + e * LANES);
            vs[2u * e] = v_raw_at(i);
            vs[2u * e + 1u] = v_raw_at(i + 1u);
        }
        let keys = Step(first, 0, false, slots);
        var x = array<vec4<f32>, OWN4>();
        for (var n = 0u; n < OWN4; n++) { // unroll
            x[n] = scored(t, at, query, bounds, keys, (column + n) * 4u, s_tile[row * S_STRIDE + column + n]);
        }
        if (!whole(t, bounds, keys)) {
            for (var n = 0u; n < OWN4; n++) { // unroll
                x[n] = within(bounds, at.valid, first + (column + n) * 4u, x[n]);
            }
        }
        let old = top;
        let high = highest(x);
        top = select(top, high, high > top + GROWTH);
        turn = select(turn + 1u, 0u, turn == 2u);
        // A row that saw nothing yet has nothing to rescale.
        let rescales = growth_any(lane, turn, (top > old) & (old > SEEN));
        // An `if` for the validator, which takes matrices in no branch that it does not know to be the subgroup's.
        loop {
            if (!rescales) {
                break;
            }
            let factor = exp2(old - top);
            sum *= factor;
            for (var c = 0u; c < VALUE_TILES; c++) { // unroll
                subgroupBarrier();
                coopStoreT(acc[c], &s_tile[sub * N * S_STRIDE], S_STRIDE);
                subgroupBarrier();
                for (var n = 0u; n < OWN4; n++) { // unroll
                    s_tile[row * S_STRIDE + column + n] *= factor;
                }
                subgroupBarrier();
                acc[c] = coopLoadT<MatC>(&s_tile[sub * N * S_STRIDE], S_STRIDE);
            }
            break;
        }
        for (var n = 0u; n < OWN4; n++) { // unroll
            let p = weights(x[n], top);
            sum += dot(p, vec4<f32>(1.0));
            p_tile[row * N4 + column + n] = vec4<f16>(p);
        }
        subgroupBarrier();
        let p = coopLoadT<MatA>(&p_tile[sub * N * N4], N4);
        for (var c = 0u; c < VALUE_TILES; c++) { // unroll
            acc[c] = coopMultiplyAdd(p, coopLoadT<MatB>(&tile[sub * N * STRIDE + c * N4], STRIDE), acc[c]);
        }
        subgroupBarrier();
    }

    // A row's maximum and sum over the subgroups.
    if (SHARE == 2u) {
        sum += subgroupShuffleXor(sum, 1u);
    }
    if (l % SHARE == 0u) {
        s_tile[row * S_STRIDE + N4] = vec4<f32>(top, sum, 0.0, 0.0);
    }
    workgroupBarrier();
    var high = SEEN;
    for (var g = 0u; g < SUBGROUPS; g++) { // unroll
        high = max(high, s_tile[(g * N + l / SHARE) * S_STRIDE + N4].x);
    }
    var total = 0.0;
    for (var g = 0u; g < SUBGROUPS; g++) { // unroll
        let part = s_tile[(g * N + l / SHARE) * S_STRIDE + N4];
        total += part.y * exp2(part.x - high);
    }
    let factor = finish_row(t, at, select(MASKED, high * LN_2, high > SEEN), total, lane < LANES && l % SHARE == 0u);
    workgroupBarrier();
    if (l % SHARE == 0u) {
        s_tile[row * S_STRIDE + N4] = vec4<f32>(exp2(top - high) * factor);
    }
    for (var c = 0u; c < VALUE_TILES; c++) { // unroll
        coopStoreT(acc[c], &s_tile[sub * N * S_STRIDE], S_STRIDE);
        workgroupBarrier();
        for (var n = lane; n < N * N4; n += WORKGROUP) {
            let to = row_at(t, n / N4);
            if (to.valid) {
                var o = vec4<f32>();
                for (var g = 0u; g < SUBGROUPS; g++) { // unroll
                    let from_row = (g * N + n / N4) * S_STRIDE;
                    o += s_tile[from_row + n % N4] * s_tile[from_row + N4].x;
                }
                let base = args.out_offset + t.split * args.out_s0 + t.batch * args.out_s1 + to.head * args.out_s2;
                out_store4(base, c * N + n % N4 * 4u, args.width, o);
            }
        }
        workgroupBarrier();
    }
}

// Where eight numbers of the row of a key lie. No branch: a slot without a key reads the last one, and the end of a row is read twice;
// neither counts, because its weight or its factor in q is 0.
fn k_place(t: Tile, bounds: vec4<i32>, first: u32, n: u32) -> u32 {
    let j = u32(min(band_first(bounds) + i32(first + n / K_ROW), bounds.y - 1));
    let base = args.k_offset + t.batch * args.k_s0 + t.kv_head * args.k_s1 + j * args.k_s2;
    return ((base + min(n % K_ROW * 8u, args.depth - 8u)) >> 3u) * 2u;
}

fn v_place(t: Tile, bounds: vec4<i32>, first: u32, n: u32) -> u32 {
    let j = u32(min(band_first(bounds) + i32(first + n / V_ROW), bounds.y - 1));
    let base = args.v_offset + t.batch * args.v_s0 + t.kv_head * args.v_s1 + j * args.v_s2;
    return ((base + min(n % V_ROW * 8u, args.width - 8u)) >> 3u) * 2u;
}

// Four scores, of which those past the last key are none. A subgroup may come to a step that has no key at all.
fn within(bounds: vec4<i32>, valid: bool, slot: u32, x: vec4<f32>) -> vec4<f32> {
    let j = vec4<i32>(band_first(bounds) + i32(slot)) + vec4<i32>(0, 1, 2, 3);
    return select(vec4<f32>(select(MASKED, args.masked, FUSED)), x, (j < vec4<i32>(bounds.y)) & vec4<bool>(valid));
}

fn padded(x: vec4<f16>, d: u32) -> vec4<f16> {
    if (EXACT) {
        return x;
    }
    return select(x, vec4<f16>(), vec4<bool>(d >= args.depth));
}
