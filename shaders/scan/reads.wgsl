// What the queries of each segment read, all segments at once, by cooperative matrices of N x N: f16 factors, f32 sums.
//
// One workgroup: TILE_Q rows of one segment of one (batch, head) and VALUE_TILES matrices of value columns,
// out_i = scale (e^G_i q_i^T S + sum_{j <= i} e^(G_i - G_j) w_j (q_i k_j) v_j), S the state at the segment's start: that at the span's start,
// decayed, and what the span adds up to there.
// A subgroup owns ROWS rows. Queries stay in matrices. The state is staged some matrices of rows at a time, with the power of two that makes its
// largest number fill f16; then the segment's keys and values, STEP of each at a time, those of the next steps on their way.
// Scores pass through workgroup memory, where decays and the mask join in f32, and return as f16.
// Barriers: 2 a step of the state or of keys. Workgroup memory: 32 KiB for 128 rows of 128 channels and columns.
// With scan/segment, scan/reads_parts, scan/powers, scan/state, scan/addresses, scan/chunk_rows, attend/matrix_N.

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group / PARTS);
    let sub = lane / LANES;
    let l = lane % LANES;
    let local = sub * ROWS;
    let first_row = group % PARTS * TILE_Q + local;       // in the segment

    let decay = since_first(t);
    var rows = array<vec4<f16>, Q_LOADS>();
    for (var c = 0u; c < Q_LOADS; c++) { // unroll
        rows[c] = query_part(t, first_row, l, c);
    }
    var xs = array<vec4<f32>, S_ROUNDS * S_LOADS>();
    for (var s = 0u; s < S_ROUNDS; s++) { // unroll
        for (var m = 0u; m < S_LOADS; m++) { // unroll
            xs[s * S_LOADS + m] = state_part(t, decay, s * S_TILES * N, lane + m * WORKGROUP);
        }
    }
    gates(t, lane);
    var sums = array<f32, QUADS>();
    var q = array<MatA, ROW_TILES * DEPTH_TILES>(); // split
    for (var c = 0u; c < DEPTH_TILES; c++) { // unroll
        for (var n = 0u; n < QUADS; n++) { // unroll
            let x = query_made(first_row, l, c, n, rows[c * QUADS + n]);
            sums[n] += divisor_part(t, decay, first_row, l, c, n, x);
            p_tile[p_place(local, l, n)] = decayed(first_row, l, n, x);
        }
        subgroupBarrier();
        for (var m = 0u; m < ROW_TILES; m++) { // unroll
            q[m * DEPTH_TILES + c] = coopLoadT<MatA>(&p_tile[(local + m * N) * P_STRIDE], P_STRIDE);
        }
        subgroupBarrier();
    }

    // The first keys and values are on their way.
    var ks = array<vec4<f16>, AHEAD * K_LOADS>();
    var vs = array<vec4<f16>, AHEAD * V_LOADS>();
    for (var a = 0u; a < AHEAD; a++) { // unroll
        for (var m = 0u; m < K_LOADS; m++) { // unroll
            ks[a * K_LOADS + m] = key_load(t, a * STEP, lane + m * WORKGROUP);
        }
        for (var m = 0u; m < V_LOADS; m++) { // unroll
            vs[a * V_LOADS + m] = value_load(t, a * STEP, lane + m * WORKGROUP);
        }
    }
    // What is read of the state.
    var acc = array<MatC, ROW_TILES * VALUE_TILES>(); // split
    var power = 0;
    for (var s = 0u; s < S_ROUNDS; s++) { // unroll
        var own = array<vec4<f32>, S_LOADS>();
        for (var m = 0u; m < S_LOADS; m++) { // unroll
            own[m] = xs[s * S_LOADS + m];
        }
        put_top(lane, s, top_of(own));
        workgroupBarrier();
        let before = power;
        power = power_of_tops(s % 2u);
        for (var m = 0u; m < S_LOADS; m++) { // unroll
            state_store_half(lane + m * WORKGROUP, own[m], power);
        }
        workgroupBarrier();
        if (s > 0u) {
            for (var c = 0u; c < ROW_TILES * VALUE_TILES; c++) { // unroll
                acc[c] = acc[c] * two_to(power - before);
            }
        }
        for (var h = 0u; h < S_TILES; h++) { // unroll
            for (var c = 0u; c < VALUE_TILES; c++) { // unroll
                let x = coopLoadT<MatB>(&tile[h * N * STRIDE + c * N4], STRIDE);
                for (var m = 0u; m < ROW_TILES; m++) { // unroll
                    acc[m * VALUE_TILES + c] = coopMultiplyAdd(q[m * DEPTH_TILES + s * S_TILES + h], x, acc[m * VALUE_TILES + c]);
                }
            }
        }
    }
    for (var c = 0u; c < ROW_TILES * VALUE_TILES; c++) { // unroll
        acc[c] = acc[c] * two_to(-power);
    }
    // Queries as they meet keys.
    if (SCALAR) {
        for (var c = 0u; c < Q_LOADS; c++) { // unroll
            rows[c] = query_part(t, first_row, l, c);
        }
        for (var c = 0u; c < DEPTH_TILES; c++) { // unroll
            for (var n = 0u; n < QUADS; n++) { // unroll
                p_tile[p_place(local, l, n)] = query_made(first_row, l, c, n, rows[c * QUADS + n]);
            }
            subgroupBarrier();
            for (var m = 0u; m < ROW_TILES; m++) { // unroll
                q[m * DEPTH_TILES + c] = coopLoadT<MatA>(&p_tile[(local + m * N) * P_STRIDE], P_STRIDE);
            }
            subgroupBarrier();
        }
    }

    let steps = (min(first_row - local + TILE_Q, args.tokens - begin(t)) + STEP - 1u) / STEP;  // with keys that these rows see
    let own_steps = (first_row + ROWS - 1u) / STEP + 1u;      // and those that this subgroup's rows see
    for (var round = 0u; round < steps; round += AHEAD) {
        for (var a = 0u; a < AHEAD; a++) { // unroll
            workgroupBarrier();
            let step = round + a;
            let first = step * STEP;
            for (var m = 0u; m < K_LOADS; m++) { // unroll
                key_store(first, lane + m * WORKGROUP, ks[a * K_LOADS + m]);
            }
            for (var m = 0u; m < V_LOADS; m++) { // unroll
                value_store(first, lane + m * WORKGROUP, vs[a * V_LOADS + m]);
            }
            workgroupBarrier();
            for (var m = 0u; m < K_LOADS; m++) { // unroll
                ks[a * K_LOADS + m] = key_load(t, first + AHEAD * STEP, lane + m * WORKGROUP);
            }
            for (var m = 0u; m < V_LOADS; m++) { // unroll
                vs[a * V_LOADS + m] = value_load(t, first + AHEAD * STEP, lane + m * WORKGROUP);
            }
            // Later keys are nothing to the rows of the first subgroups. A subgroup goes one way, which naga does not know: matrices are refused
            // inside an `if` by `lane`, and taken after a `break`. Barriers of subgroups are for all: on software devices they wait for all.
            let late = step >= own_steps;
            var s = array<MatC, KEY_TILES * ROW_TILES>(); // split
            loop {
                if (late) {
                    break;
                }
                for (var h = 0u; h < KEY_TILES; h++) { // unroll
                    for (var c = 0u; c < DEPTH_TILES; c++) { // unroll
                        let k = coopLoad<MatB>(&tile[h * N * STRIDE + c * N4], STRIDE);
                        for (var m = 0u; m < ROW_TILES; m++) { // unroll
                            s[h * ROW_TILES + m] = coopMultiplyAdd(q[m * DEPTH_TILES + c], k, s[h * ROW_TILES + m]);
                        }
                    }
                }
                for (var m = 0u; m < ROW_TILES; m++) { // unroll
                    coopStoreT(s[m], &s_tile[(local + m * N) * S_STRIDE], S_STRIDE);
                }
                break;
            }
            for (var h = 0u; h < KEY_TILES; h++) { // unroll
                subgroupBarrier();
                if (!late) {
                    let whole = first + h * N + N <= first_row + 1u;
                    for (var n = 0u; n < QUADS; n++) { // unroll
                        let p = weighed(s_tile[s_place(local, l, n)], first_row, l, n, first + h * N, whole);
                        sums[n] += dot(p, vec4<f32>(1.0));
                        p_tile[p_place(local, l, n)] = vec4<f16>(p);
                    }
                }
                subgroupBarrier();
                loop {
                    if (late) {
                        break;
                    }
                    var p = array<MatA, ROW_TILES>(); // split
                    for (var m = 0u; m < ROW_TILES; m++) { // unroll
                        p[m] = coopLoadT<MatA>(&p_tile[(local + m * N) * P_STRIDE], P_STRIDE);
                    }
                    if (h + 1u < KEY_TILES) {
                        for (var m = 0u; m < ROW_TILES; m++) { // unroll
                            coopStoreT(s[(KEY_TILES - 1u) * ROW_TILES + m], &s_tile[(local + m * N) * S_STRIDE], S_STRIDE);
                        }
                    }
                    for (var c = 0u; c < VALUE_TILES; c++) { // unroll
                        let v = coopLoadT<MatB>(&tile[(STEP + h * N) * STRIDE + c * N4], STRIDE);
                        for (var m = 0u; m < ROW_TILES; m++) { // unroll
                            acc[m * VALUE_TILES + c] = coopMultiplyAdd(p[m], v, acc[m * VALUE_TILES + c]);
                        }
                    }
                    break;
                }
            }
        }
    }

    for (var n = 0u; n < QUADS; n++) { // unroll
        sums[n] = row_sum(sums[n]);
    }
    // Neighbours store neighbours: a row of a matrix is 4 N bytes.
    for (var c = 0u; c < VALUE_TILES; c++) { // unroll
        for (var m = 0u; m < ROW_TILES; m++) { // unroll
            coopStoreT(acc[m * VALUE_TILES + c], &s_tile[(local + m * N) * S_STRIDE], S_STRIDE);
        }
        subgroupBarrier();
        for (var n = 0u; n < QUADS; n++) { // unroll
            put_outputs(t, c, n, first_row, l, divided(s_tile[s_place(local, l, n)], sums[n]));
        }
        subgroupBarrier();
    }
}
