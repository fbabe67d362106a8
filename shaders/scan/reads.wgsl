// What the queries of each segment read, all segments at once, by cooperative matrices of N x N: f16 factors, f32 sums.
//
// One workgroup: TILE_Q rows of one segment of one (batch, head) and VALUE_TILES matrices of value columns,
// out_i = scale (e^G_i q_i^T S + sum_{j <= i} e^(G_i - G_j) w_j (q_i k_j) v_j), S the state at the segment's start.
// A subgroup owns ROW_TILES * N rows, and SHARE invocations share a row. Queries stay in matrices. The state is staged some matrices of rows
// at a time, with the power of two that makes its largest number fill f16; then the segment's keys and values, KEY_TILES matrices at a time.
// Scores pass through workgroup memory, where decays and the mask join in f32, and return as f16.
// Barriers: 2 a step of any of these. Workgroup memory: 46 KiB for 256 rows of 128 channels and columns.
// With scan/segment, scan/reads_parts, scan/powers, scan/state, scan/addresses, scan/chunk_rows, attend/matrix_N.

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group / PARTS);
    let part = group % PARTS * TILE_Q;                    // first row in the segment
    let begin = t.segment * SEGMENT;
    let sub = lane / LANES;
    let l = lane % LANES;
    let first_row = sub * ROWS;
    let local = first_row + l / SHARE;
    let column = l % SHARE * OWN4;                        // first vec4 of this invocation's scores in a row
    let i = part + local;                                 // its row in the segment

    // Queries come to matrices in rounds, those of the next round on their way; with a decay first as they meet the state.
    var rows = array<vec4<f16>, ROUND_LOADS>();
    for (var m = 0u; m < ROUND_LOADS; m++) { // unroll
        rows[m] = query_part(t, begin + part, 0u, lane + m * WORKGROUP);
    }
    var xs = array<vec4<f32>, S_ROUNDS * S_LOADS>();
    for (var s = 0u; s < S_ROUNDS; s++) { // unroll
        for (var m = 0u; m < S_LOADS; m++) { // unroll
            xs[s * S_LOADS + m] = state_part(t, s * S_TILES * N, lane + m * WORKGROUP);
        }
    }
    gates(t, lane);
    let z = z4(t, lane % CHANNELS4 * 4u);
    var q = array<MatA, ROW_TILES * DEPTH_TILES>(); // split
    for (var r = 0u; r < ROUNDS; r++) { // unroll
        for (var m = 0u; m < ROUND_LOADS; m++) { // unroll
            let p = lane + m * WORKGROUP;
            let d = p % CHANNELS4 * 4u;
            let row = r * STAGED + p / CHANNELS4;
            let x = query_made(begin + part, row, d, rows[m]);
            rows[m] = query_part(t, begin + part, (r + 1u) % ROUNDS, p);
            if (DIVIDE != 0u) {
                share_divisor(row, lane, dot(vec4<f32>(x), z));
            }
            tile[p / CHANNELS4 * STRIDE + p % CHANNELS4] = decayed(x, part + row);
        }
        workgroupBarrier();
        // A subgroup goes one way, which naga does not know: matrices are refused inside an `if` by `lane`, and taken after a `break`.
        loop {
            if (sub / OWNERS != r) {
                break;
            }
            for (var m = 0u; m < ROW_TILES; m++) { // unroll
                for (var c = 0u; c < DEPTH_TILES; c++) { // unroll
                    q[m * DEPTH_TILES + c] = coopLoadT<MatA>(&tile[(sub % OWNERS * ROWS + m * N) * STRIDE + c * N4], STRIDE);
                }
            }
            break;
        }
        workgroupBarrier();
    }

    // What is read of the state.
    var acc = array<MatC, ROW_TILES * VALUE_TILES>(); // split
    var power = 0;
    for (var s = 0u; s < S_ROUNDS; s++) { // unroll
        var own = array<vec4<f32>, S_LOADS>();
        for (var m = 0u; m < S_LOADS; m++) { // unroll
            own[m] = xs[s * S_LOADS + m];
        }
        let top = top_of(own);
        if (l == 0u) {
            tops[s % 2u * SUBGROUPS + sub] = top;
        }
        workgroupBarrier();
        let before = power;
        power = power_of_tops(s % 2u);
        for (var m = 0u; m < S_LOADS; m++) { // unroll
            let p = min(lane + m * WORKGROUP, S_PARTS - 1u);
            // Rows past the depth are keys of 0 times values, which may not be finite.
            let there = s * S_TILES * N + p / COLUMNS4 < args.depth;
            tile[p / COLUMNS4 * STRIDE + p % COLUMNS4] = select(vec4<f16>(), vec4<f16>(own[m] * two_to(power)), there);
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
        acc[c] = acc[c] * (two_to(-power) * args.scale);
    }
    // Then as they meet keys.
    if (SCALAR) {
        for (var r = 0u; r < ROUNDS; r++) { // unroll
            workgroupBarrier();
            for (var m = 0u; m < ROUND_LOADS; m++) { // unroll
                let p = lane + m * WORKGROUP;
                let d = p % CHANNELS4 * 4u;
                let x = query_made(begin + part, r * STAGED + p / CHANNELS4, d, rows[m]);
                tile[p / CHANNELS4 * STRIDE + p % CHANNELS4] = x;
                if (r + 1u < ROUNDS) {
                    rows[m] = query_part(t, begin + part, r + 1u, p);
                }
            }
            workgroupBarrier();
            loop {
                if (sub / OWNERS != r) {
                    break;
                }
                for (var m = 0u; m < ROW_TILES; m++) { // unroll
                    for (var c = 0u; c < DEPTH_TILES; c++) { // unroll
                        q[m * DEPTH_TILES + c] = coopLoadT<MatA>(&tile[(sub % OWNERS * ROWS + m * N) * STRIDE + c * N4], STRIDE);
                    }
                }
                break;
            }
        }
    }
    let own = select(0.0, until[i / 4u][i % 4u], SCALAR); // decay up to the row, as a power of two

    // Keys and values are loaded when they are staged: the registers hold the scores of a step instead, so that later ones are computed beside
    // the weights of the first.
    let end = min(part + TILE_Q, args.tokens - begin);    // of the keys that these rows see
    var sum = 0.0;
    for (var step = 0u; step * STEP < end; step++) {
        let first = step * STEP;
        workgroupBarrier();
        for (var m = 0u; m < K_LOADS; m++) { // unroll
            key_store(t, first, lane + m * WORKGROUP, key_part(t, begin + first, lane + m * WORKGROUP));
        }
        for (var m = 0u; m < V_LOADS; m++) { // unroll
            value_store(t, first, lane + m * WORKGROUP, value_part(t, begin + first, lane + m * WORKGROUP));
        }
        workgroupBarrier();
        // Later keys are nothing to the rows of the first subgroups. Barriers of subgroups are for all: on software devices they wait for all.
        let late = first >= part + first_row + ROWS;
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
                if (h == 0u) {
                    for (var m = 0u; m < ROW_TILES; m++) { // unroll
                        coopStoreT(s[m], &s_tile[(first_row + m * N) * S_STRIDE], S_STRIDE);
                    }
                }
            }
            break;
        }
        for (var h = 0u; h < KEY_TILES; h++) { // unroll
            subgroupBarrier();
            if (!late) {
                for (var n = 0u; n < OWN4; n++) { // unroll
                    let p = weighed(s_tile[local * S_STRIDE + column + n], i, own, first / 4u + h * N4 + column + n);
                    sum += dot(p, vec4<f32>(1.0));
                    p_tile[local * P_STRIDE + column + n] = vec4<f16>(p);
                }
            }
            subgroupBarrier();
            loop {
                if (late) {
                    break;
                }
                var p = array<MatA, ROW_TILES>(); // split
                for (var m = 0u; m < ROW_TILES; m++) { // unroll
                    p[m] = coopLoadT<MatA>(&p_tile[(first_row + m * N) * P_STRIDE], P_STRIDE);
                }
                if (h + 1u < KEY_TILES) {
                    for (var m = 0u; m < ROW_TILES; m++) { // unroll
                        coopStoreT(s[(KEY_TILES - 1u) * ROW_TILES + m], &s_tile[(first_row + m * N) * S_STRIDE], S_STRIDE);
                    }
                }
                for (var c = 0u; c < VALUE_TILES; c++) { // unroll
                    let v = coopLoadT<MatB>(&tile[(KEY_TILES + h) * N * STRIDE + c * N4], STRIDE);
                    for (var m = 0u; m < ROW_TILES; m++) { // unroll
                        acc[m * VALUE_TILES + c] = coopMultiplyAdd(p[m], v, acc[m * VALUE_TILES + c]);
                    }
                }
                break;
            }
        }
    }

    if (DIVIDE != 0u) {
        let by = row_sum(sum) + divisor_of(local) * exp2(own) * args.scale;
        subgroupBarrier();
        if (l % SHARE == 0u) {
            divisors[local * SHARES] = by;
        }
    }
    // Neighbours store neighbours: a row of a matrix is 4 N bytes.
    for (var c = 0u; c < VALUE_TILES; c++) { // unroll
        for (var m = 0u; m < ROW_TILES; m++) { // unroll
            coopStoreT(acc[m * VALUE_TILES + c], &s_tile[(first_row + m * N) * S_STRIDE], S_STRIDE);
        }
        subgroupBarrier();
        for (var n = 0u; n < OWN4; n++) { // unroll
            let row = first_row + (n * LANES + l) / N4;
            let e = (n * LANES + l) % N4;
            var y = s_tile[row * S_STRIDE + e];
            if (DIVIDE != 0u) {
                y = divided(y, divisors[row * SHARES]);
            }
            if (begin + part + row < args.tokens) {
                out_store4(out_row(t, begin + part + row), t.column + c * N + e * 4u, args.width, y);
            }
        }
        subgroupBarrier();
    }
}
