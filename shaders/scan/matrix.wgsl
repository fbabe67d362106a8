// The recurrence in chunks of 32 tokens by cooperative matrices of N x N: f16 factors, f32 sums; without decay or with a scalar one.
//
// One workgroup: one segment of one (batch, head) and 4 COLUMNS value columns, its tokens in order. The state stays in registers as f32,
// a vec4 of a row a lane and matrix; the products take it as halves, scaled by a power of two so that the largest fills them.
// A chunk: pairs Q K^T and reads Q S; decay and mask on the pairs in f32, keys decayed to the chunk's end; P V and K^T V.
// Threads: stage and finish; a subgroup multiplies its own columns, pairs are spread over all. Barriers a chunk: 4.
// Workgroup memory: 43 KiB at D = 4 COLUMNS = 128 with 8 subgroups.

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group);
    let sub = lane / LANES;
    let l = lane % LANES;
    let own = sub * COLUMN_TILES * N4;                   // first vec4 of the subgroup's columns
    let corner = sub * PATCHES * N * PATCH_STRIDE;
    let half = sub * PATCHES * N * HALF_STRIDE;
    let end = end_of(t);
    let begin = t.segment * args.segment_tokens;

    var s = array<vec4<f32>, STATE_PARTS>();
    for (var d = 0u; d < DEPTH_TILES; d++) { // unroll
        for (var c = 0u; c < COLUMN_TILES; c++) { // unroll
            for (var e = 0u; e < PATCH_EACH; e++) { // unroll
                let p = e * LANES + l;
                let row = d * N + p / N4;
                if (p < PATCH_PARTS && row < args.depth) {
                    s[(d * COLUMN_TILES + c) * PATCH_EACH + e] = state_before(t, row, t.column + (own + c * N4 + p % N4) * 4u);
                }
            }
        }
    }
    if (HAS_Z) {
        for (var d = lane; d < DEPTH4 * 4u; d += WORKGROUP) {
            var z = 0.0;
            if (d < args.depth) {
                z = z_before(t, d);
            }
            norm[d] = z;
        }
    }
    var qs = array<vec4<f16>, K_EACH>();
    var ks = array<vec4<f16>, K_EACH>();
    var vs = array<vec4<f16>, V_EACH>();
    var g = 0.0;
    for (var m = 0u; m < K_EACH; m++) { // unroll
        qs[m] = q_part(t, begin, lane + m * WORKGROUP);
        ks[m] = k_part(t, begin, lane + m * WORKGROUP);
    }
    for (var m = 0u; m < V_EACH; m++) { // unroll
        vs[m] = v_part(t, begin, lane + m * WORKGROUP);
    }
    if (SCALAR && lane < CHUNK) {
        g = gate_of(t, begin + lane);
    }

    for (var first = begin; first < end; first += CHUNK) {
        workgroupBarrier();
        for (var m = 0u; m < K_EACH; m++) { // unroll
            stage_query(lane + m * WORKGROUP, qs[m]);
            stage_key(t, first, lane + m * WORKGROUP, ks[m], 1.0);
        }
        for (var m = 0u; m < V_EACH; m++) { // unroll
            stage_value(t, first, lane + m * WORKGROUP, vs[m]);
        }
        if (SCALAR && lane < CHUNK) {
            gates[lane] = g;
        }
        var most = vec4<f32>();
        for (var n = 0u; n < STATE_PARTS; n++) { // unroll
            most = max(most, abs(s[n]));
        }
        largest[lane] = max(max(most.x, most.y), max(most.z, most.w));
        workgroupBarrier();

        // Loads run a chunk ahead of the arithmetic.
        let next = first + CHUNK;
        for (var m = 0u; m < K_EACH; m++) { // unroll
            qs[m] = q_part(t, next, lane + m * WORKGROUP);
            ks[m] = k_part(t, next, lane + m * WORKGROUP);
        }
        for (var m = 0u; m < V_EACH; m++) { // unroll
            vs[m] = v_part(t, next, lane + m * WORKGROUP);
        }
        if (SCALAR) {
            if (lane < CHUNK) {
                g = gate_of(t, next + lane);
                var sum = 0.0;
                for (var j = 0u; j < CHUNK; j++) { // unroll
                    sum += select(0.0, gates[j], j <= lane);
                }
                until[lane] = sum;
            }
        }

        // Loads at the end of the tokens parted the lanes.
        subgroupBarrier();
        for (var b = 0u; b < JOBS; b++) { // unroll
            let job = sub * JOBS + b;
            let i = job / 2u / TILES;
            let j = job / 2u % TILES;
            var pairs = MatC();
            for (var c = 0u; c < DEPTH_TILES / 2u; c++) { // unroll
                let d = (job % 2u * (DEPTH_TILES / 2u) + c) * N4;
                let a = coopLoadT<MatA>(&q_tile[i * N * K_STRIDE + d], K_STRIDE);
                pairs = coopMultiplyAdd(a, coopLoad<MatB>(&k_tile[j * N * K_STRIDE + d], K_STRIDE), pairs);
            }
            coopStoreT(pairs, &sums[(job % 2u * CHUNK + i * N) * S_STRIDE + j * N4], S_STRIDE);
        }
        let scale = scale_of(sub);
        var reads = array<MatC, TILES * COLUMN_TILES>();
        for (var d = 0u; d < DEPTH_TILES; d++) { // unroll
            for (var c = 0u; c < COLUMN_TILES; c++) { // unroll
                let to = half + (d * COLUMN_TILES + c) % PATCHES * N * HALF_STRIDE;
                for (var e = 0u; e < PATCH_EACH; e++) { // unroll
                    let p = e * LANES + l;
                    if (p < PATCH_PARTS) {
                        halves[to + p / N4 * HALF_STRIDE + p % N4] = vec4<f16>(s[(d * COLUMN_TILES + c) * PATCH_EACH + e] * scale);
                    }
                }
                subgroupBarrier();
                let b = coopLoadT<MatB>(&halves[to], HALF_STRIDE);
                for (var m = 0u; m < TILES; m++) { // unroll
                    let a = coopLoadT<MatA>(&q_tile[m * N * K_STRIDE + d * N4], K_STRIDE);
                    reads[m * COLUMN_TILES + c] = coopMultiplyAdd(a, b, reads[m * COLUMN_TILES + c]);
                }
                if (PATCHES == 1u) {
                    subgroupBarrier();
                }
            }
        }
        workgroupBarrier();

        for (var n = 0u; n < PAIR_EACH; n++) { // unroll
            weigh(lane + n * WORKGROUP);
        }
        if (SCALAR) {
            let last = until[CHUNK - 1u];
            for (var m = 0u; m < K_EACH; m++) { // unroll
                let p = lane + m * WORKGROUP;
                if (p < K_PARTS) {
                    let at = p / DEPTH4 * K_STRIDE + p % DEPTH4;
                    k_tile[at] = vec4<f16>(vec4<f32>(k_tile[at]) * exp(last - until[p / DEPTH4]));
                }
            }
        }
        workgroupBarrier();

        for (var c = 0u; c < COLUMN_TILES; c++) { // unroll
            var vb = array<MatB, TILES>();
            for (var j = 0u; j < TILES; j++) { // unroll
                vb[j] = coopLoadT<MatB>(&v_tile[j * N * V_STRIDE + own + c * N4], V_STRIDE);
            }
            for (var m = 0u; m < TILES; m++) { // unroll
                var own_pairs = MatC();
                for (var j = 0u; j < m + 1u; j++) { // unroll
                    let a = coopLoadT<MatA>(&p_tile[m * N * P_STRIDE + j * N4], P_STRIDE);
                    own_pairs = coopMultiplyAdd(a, vb[j], own_pairs);
                }
                coopStoreT(reads[m * COLUMN_TILES + c], &sums[corner], PATCH_STRIDE);
                if (PATCHES > 1u) {
                    coopStoreT(own_pairs, &sums[corner + (PATCHES - 1u) * N * PATCH_STRIDE], PATCH_STRIDE);
                }
                subgroupBarrier();
                var x = array<vec4<f32>, PATCH_EACH>();
                for (var e = 0u; e < PATCH_EACH; e++) { // unroll
                    let p = min(e * LANES + l, PATCH_PARTS - 1u);
                    x[e] = sums[corner + p / N4 * PATCH_STRIDE + p % N4] * (args.scale / scale);
                    if (SCALAR) {
                        x[e] *= exp(until[m * N + p / N4]);
                    }
                }
                if (PATCHES == 1u) {
                    subgroupBarrier();
                    coopStoreT(own_pairs, &sums[corner], PATCH_STRIDE);
                    subgroupBarrier();
                }
                for (var e = 0u; e < PATCH_EACH; e++) { // unroll
                    let p = min(e * LANES + l, PATCH_PARTS - 1u);
                    let i = m * N + p / N4;
                    x[e] += sums[corner + (PATCHES - 1u) * N * PATCH_STRIDE + p / N4 * PATCH_STRIDE + p % N4];
                    if (DIVIDE != 0u) {
                        var by = 0.0;
                        for (var n = 0u; n < 8u; n++) { // unroll
                            by += divisors[i * 8u + n];
                        }
                        x[e] = divided(x[e], by);
                    }
                    if (e * LANES + l < PATCH_PARTS && first + i < end) {
                        out_store4(out_row(t, first + i), t.column + (own + c * N4 + p % N4) * 4u, args.width, x[e]);
                    }
                }
                subgroupBarrier();
            }
            for (var d = 0u; d < DEPTH_TILES; d++) { // unroll
                let to = corner + d % PATCHES * N * PATCH_STRIDE;
                var sum = MatC();
                for (var j = 0u; j < TILES; j++) { // unroll
                    sum = coopMultiplyAdd(coopLoad<MatA>(&k_tile[j * N * K_STRIDE + d * N4], K_STRIDE), vb[j], sum);
                }
                coopStoreT(sum, &sums[to], PATCH_STRIDE);
                subgroupBarrier();
                for (var e = 0u; e < PATCH_EACH; e++) { // unroll
                    let p = min(e * LANES + l, PATCH_PARTS - 1u);
                    let n = (d * COLUMN_TILES + c) * PATCH_EACH + e;
                    if (SCALAR) {
                        s[n] += less_one(until[CHUNK - 1u]) * s[n];
                    }
                    s[n] += sums[to + p / N4 * PATCH_STRIDE + p % N4];
                }
                if (PATCHES == 1u) {
                    subgroupBarrier();
                }
            }
            subgroupBarrier();
        }
        if (HAS_Z) {
            add_to_z(lane);
        }
    }

    if (ends(t)) {
        for (var d = 0u; d < DEPTH_TILES; d++) { // unroll
            for (var c = 0u; c < COLUMN_TILES; c++) { // unroll
                for (var e = 0u; e < PATCH_EACH; e++) { // unroll
                    let p = e * LANES + l;
                    let row = d * N + p / N4;
                    if (p < PATCH_PARTS && row < args.depth) {
                        state_store4(new_row(t, row), t.column + (own + c * N4 + p % N4) * 4u, args.width, s[(d * COLUMN_TILES + c) * PATCH_EACH + e]);
                    }
                }
            }
        }
        if (HAS_Z && t.column == 0u) {
            workgroupBarrier();
            for (var d = lane * 4u; d < args.depth; d += WORKGROUP * 4u) {
                z_store4(z_row(t), d, args.depth, vec4<f32>(norm[d], norm[d + 1u], norm[d + 2u], norm[d + 3u]));
            }
        }
    }
}
