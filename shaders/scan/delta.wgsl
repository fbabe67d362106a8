// The delta rule in chunks of 32 tokens by cooperative matrices of N x N: f16 factors, f32 sums; without decay or with a scalar one.
//
// One workgroup: one (batch, head) and 4 COLUMNS value columns, its tokens in order. With T, A and G of `pairs`, a chunk is
// R = V - e^G K S, U = T R, out = scale e^G Q S + A U, S <- e^(G_c) S + K^T (e^(G_c - G) U).
// The state stays in registers as matrices of f32; the products take it as halves, scaled by a power of two so that the largest fills them.
// Threads: stage; a subgroup has a share of the products of each kind, and its lanes finish what it multiplied. Barriers a chunk: 4.
// Workgroup memory: 43 KiB at D = 128 and 4 subgroups.

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group);
    let sub = lane / LANES;
    let l = lane % LANES;
    let corner = sub * PATCHES * PATCH;

    var x = array<vec4<f32>, STATE_EACH * PATCH_EACH>();   // the lane's numbers of the state
    for (var n = 0u; n < STATE_EACH; n++) { // unroll
        let tile = sub * STATE_EACH + n;
        for (var e = 0u; e < PATCH_EACH; e++) { // unroll
            let p = min(e * LANES + l, PATCH_PARTS - 1u);
            let row = tile / COLUMN_TILES * N + p / N4;
            if (row < args.depth) {
                x[n * PATCH_EACH + e] = state_before(t, row, t.column + (tile % COLUMN_TILES * N4 + p % N4) * 4u);
            }
            patches[corner + n * PATCH + p / N4 * PATCH_STRIDE + p % N4] = x[n * PATCH_EACH + e];
        }
    }
    workgroupBarrier();
    var s = array<MatC, STATE_EACH>(); // split
    for (var n = 0u; n < STATE_EACH; n++) { // unroll
        s[n] = coopLoadT<MatC>(&patches[corner + n * PATCH], PATCH_STRIDE);
    }
    var ks = array<k_raw, K_EACH>();
    var qs = array<q_raw, K_EACH>();
    var ps = array<vec4<f32>, P_EACH>();
    var vs = array<v_raw, JOBS * PATCH_EACH>();
    for (var m = 0u; m < K_EACH; m++) { // unroll
        ks[m] = key_part(t, 0u, lane + m * WORKGROUP);
        qs[m] = query_part(t, 0u, lane + m * WORKGROUP);
    }
    for (var m = 0u; m < P_EACH; m++) { // unroll
        ps[m] = pair_part(t, 0u, lane + m * WORKGROUP);
    }
    for (var b = 0u; b < JOBS; b++) { // unroll
        for (var e = 0u; e < PATCH_EACH; e++) { // unroll
            vs[b * PATCH_EACH + e] = value_part(t, 0u, sub * JOBS + b, e * LANES + l);
        }
    }
    var g = gate_part(t, 0u, lane);

    for (var first = 0u; first < args.tokens; first += CHUNK) {
        let now = first / CHUNK % 2u * CHUNK;
        var most = vec4<f32>();
        for (var n = 0u; n < STATE_EACH * PATCH_EACH; n++) { // unroll
            most = max(most, abs(x[n]));
        }
        let top = subgroupMax(max(max(most.x, most.y), max(most.z, most.w)));
        if (l == 0u) {
            largest[sub] = top;
        }
        if (lane < CHUNK) {
            until[now + lane] = g;
        }
        workgroupBarrier();
        let scale = scale_of();
        // What a large state takes from the values needs its scale too.
        let shrink = min(scale, 1.0);
        for (var n = 0u; n < STATE_EACH; n++) { // unroll
            let tile = sub * STATE_EACH + n;
            for (var e = 0u; e < PATCH_EACH; e++) { // unroll
                let p = min(e * LANES + l, PATCH_PARTS - 1u);
                let at = (tile / COLUMN_TILES * N + p / N4) * W_STRIDE + tile % COLUMN_TILES * N4 + p % N4;
                state_tile[at] = vec4<f16>(x[n * PATCH_EACH + e] * scale);
            }
        }
        for (var m = 0u; m < K_EACH; m++) { // unroll
            let p = min(lane + m * WORKGROUP, K_PARTS - 1u);
            let there = p % DEPTH4 * 4u < args.depth;
            let at = p / DEPTH4 * K_STRIDE + p % DEPTH4;
            rows[at] = select(vec4<f16>(), vec4<f16>(k_real(ks[m])), there && kept(t, first + p / DEPTH4));
            rows[CHUNK * K_STRIDE + at] = select(vec4<f16>(), vec4<f16>(q_real(qs[m])), there);
        }
        for (var m = 0u; m < P_EACH; m++) { // unroll
            let p = min(lane + m * WORKGROUP, P_PARTS - 1u);
            pair_tile[(p % 16u / 8u * CHUNK + p / 16u) * P_STRIDE + p % 8u] = vec4<f16>(ps[m]);
        }
        workgroupBarrier();

        // Loads run a chunk ahead of the arithmetic.
        let next = first + CHUNK;
        for (var m = 0u; m < K_EACH; m++) { // unroll
            ks[m] = key_part(t, next, lane + m * WORKGROUP);
            qs[m] = query_part(t, next, lane + m * WORKGROUP);
        }
        for (var m = 0u; m < P_EACH; m++) { // unroll
            ps[m] = pair_part(t, next, lane + m * WORKGROUP);
        }
        g = gate_part(t, next, lane);
        subgroupBarrier();

        var reads = array<MatC, JOBS>(); // split
        for (var b = 0u; b < JOBS; b++) { // unroll
            let job = sub * JOBS + b;
            let row = (job / KEY_JOBS * CHUNK + job % KEY_JOBS / COLUMN_TILES * N) * K_STRIDE;
            for (var d = 0u; d < DEPTH_TILES; d++) { // unroll
                let a = coopLoadT<MatA>(&rows[row + d * N4], K_STRIDE);
                let c = coopLoadT<MatB>(&state_tile[d * N * W_STRIDE + job % COLUMN_TILES * N4], W_STRIDE);
                reads[b] = coopMultiplyAdd(a, c, reads[b]);
            }
            coopStoreT(reads[b], &patches[corner], PATCH_STRIDE);
            subgroupBarrier();
            for (var e = 0u; e < PATCH_EACH; e++) { // unroll
                let p = min(e * LANES + l, PATCH_PARTS - 1u);
                let i = job % KEY_JOBS / COLUMN_TILES * N + p / N4;
                let old = patches[corner + p / N4 * PATCH_STRIDE + p % N4] * (exp(until[now + i]) / scale);
                let value = select(vec4<f32>(), v_real(vs[b * PATCH_EACH + e]), kept(t, first + i));
                if (job < KEY_JOBS) {
                    left[i * W_STRIDE + job % COLUMN_TILES * N4 + p % N4] = vec4<f16>((value - old) * shrink);
                }
            }
            subgroupBarrier();
        }
        for (var b = 0u; b < JOBS; b++) { // unroll
            for (var e = 0u; e < PATCH_EACH; e++) { // unroll
                vs[b * PATCH_EACH + e] = value_part(t, next, sub * JOBS + b, e * LANES + l);
            }
        }
        workgroupBarrier();

        let last = until[now + CHUNK - 1u];
        for (var b = 0u; b < JOBS; b++) { // unroll
            let job = sub * JOBS + b;
            let m = job % KEY_JOBS / COLUMN_TILES;
            var u = MatC();
            for (var j = 0u; j < TILES; j++) { // unroll
                let a = coopLoadT<MatA>(&pair_tile[m * N * P_STRIDE + j * N4], P_STRIDE);
                u = coopMultiplyAdd(a, coopLoadT<MatB>(&left[j * N * W_STRIDE + job % COLUMN_TILES * N4], W_STRIDE), u);
            }
            coopStoreT(u, &patches[corner], PATCH_STRIDE);
            subgroupBarrier();
            for (var e = 0u; e < PATCH_EACH; e++) { // unroll
                let p = min(e * LANES + l, PATCH_PARTS - 1u);
                let i = m * N + p / N4;
                let y = patches[corner + p / N4 * PATCH_STRIDE + p % N4];
                if (job < KEY_JOBS) {
                    let at = i * W_STRIDE + job % COLUMN_TILES * N4 + p % N4;
                    news[at] = vec4<f16>(y);
                    lasting[at] = vec4<f16>(y * exp(last - until[now + i]));
                }
            }
            subgroupBarrier();
        }
        workgroupBarrier();

        for (var b = 0u; b < JOBS; b++) { // unroll
            let job = sub * JOBS + b;
            let m = job % KEY_JOBS / COLUMN_TILES;
            var own = MatC();
            for (var j = 0u; j < TILES; j++) { // unroll
                let a = coopLoadT<MatA>(&pair_tile[(CHUNK + m * N) * P_STRIDE + j * N4], P_STRIDE);
                own = coopMultiplyAdd(a, coopLoadT<MatB>(&news[j * N * W_STRIDE + job % COLUMN_TILES * N4], W_STRIDE), own);
            }
            coopStoreT(reads[b], &patches[corner], PATCH_STRIDE);
            coopStoreT(own, &patches[corner + PATCH], PATCH_STRIDE);
            subgroupBarrier();
            for (var e = 0u; e < PATCH_EACH; e++) { // unroll
                let p = e * LANES + l;
                let at = corner + min(p, PATCH_PARTS - 1u) / N4 * PATCH_STRIDE + p % N4;
                let i = m * N + p / N4;
                if (job >= KEY_JOBS && p < PATCH_PARTS && first + i < args.tokens) {
                    let y = patches[at] * (args.scale * exp(until[now + i]) / scale) + patches[at + PATCH] / shrink;
                    out_store4(out_row(t, first + i), t.column + (job % COLUMN_TILES * N4 + p % N4) * 4u, args.width, y);
                }
            }
            subgroupBarrier();
        }
        for (var n = 0u; n < STATE_EACH; n++) { // unroll
            let tile = sub * STATE_EACH + n;
            var sum = MatC();
            for (var j = 0u; j < TILES; j++) { // unroll
                let a = coopLoad<MatA>(&rows[j * N * K_STRIDE + tile / COLUMN_TILES * N4], K_STRIDE);
                sum = coopMultiplyAdd(a, coopLoadT<MatB>(&lasting[j * N * W_STRIDE + tile % COLUMN_TILES * N4], W_STRIDE), sum);
            }
            s[n] = s[n] * exp(last) + sum * (1.0 / shrink);
            coopStoreT(s[n], &patches[corner + n * PATCH], PATCH_STRIDE);
        }
        subgroupBarrier();
        for (var n = 0u; n < STATE_EACH; n++) { // unroll
            for (var e = 0u; e < PATCH_EACH; e++) { // unroll
                let p = min(e * LANES + l, PATCH_PARTS - 1u);
                x[n * PATCH_EACH + e] = patches[corner + n * PATCH + p / N4 * PATCH_STRIDE + p % N4];
            }
        }
        subgroupBarrier();
    }

    for (var n = 0u; n < STATE_EACH; n++) { // unroll
        let tile = sub * STATE_EACH + n;
        for (var e = 0u; e < PATCH_EACH; e++) { // unroll
            let p = e * LANES + l;
            let row = tile / COLUMN_TILES * N + p / N4;
            if (p < PATCH_PARTS && row < args.depth) {
                state_store4(new_row(t, row), t.column + (tile % COLUMN_TILES * N4 + p % N4) * 4u, args.width, x[n * PATCH_EACH + e]);
            }
        }
    }
}
