// The recurrence over the chunks that `scan/chunks` made, by cooperative matrices of N x N: f16 factors, f32 sums.
//
// One workgroup: one segment of one (batch, head) and 4 COLUMNS value columns, its chunks in order: out = Q S + A V, S <- decay S + K V, with the
// matrices Q, A and K of the chunk's record straight from memory, a chunk ahead of their use.
// Products of queries are spread over the subgroups by matrix and half of the depth; the write of a state's rows is their owner's.
// Barriers a chunk: 2. Workgroup memory: 24 KiB at D = 128 and 32 columns without z, up to where two workgroups share a processor of those seen.
// With scan/state, scan/chunk_state, scan/matrix_parts, attend/matrix_N.

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group);
    let sub = lane / LANES;
    let l = lane % LANES;
    let corner = sub * SLOTS * PATCH;
    let begin = t.segment * args.segment_tokens;
    let end = min(begin + args.segment_tokens, args.tokens);
    let count = (end - begin + CHUNK - 1u) / CHUNK;

    var x = array<vec4<f32>, OWNED * EACH>();
    if (!SUMS) {
        for (var n = 0u; n < OWNED; n++) { // unroll
            for (var e = 0u; e < EACH; e++) { // unroll
                let row = state_row(sub, n, e, l);
                if (row < args.depth) {
                    x[n * EACH + e] = state_before(t, row, state_column(t, n, e, l));
                }
            }
        }
    }
    var all = array<f32, NORM_EACH>();                        // decay of the segment
    for (var m = 0u; m < NORM_EACH; m++) { // unroll
        let d = lane + m * WORKGROUP;
        all[m] = 1.0;
        if (HAS_Z && d < CHANNELS) {
            var z = 0.0;
            if (!SUMS && d < args.depth) {
                z = z_before(t, d);
            }
            norm[d] = z;
        }
    }

    // What a chunk needs is on its way since the one before.
    var q = array<MatA, JOBS * HALF>(); // split
    var a = array<MatA, JOBS * KEY_HALF>(); // split
    var k = array<MatA, DEPTH_EACH * TILES>(); // split
    var start = record(t, begin / CHUNK);
    if (!SUMS) {
        for (var b = 0u; b < JOBS; b++) { // unroll
            for (var d = 0u; d < HALF; d++) { // unroll
                q[b * HALF + d] = query(start, sub * JOBS + b, d);
            }
            for (var j = 0u; j < KEY_HALF; j++) { // unroll
                a[b * KEY_HALF + j] = seen(start, sub * JOBS + b, j);
            }
        }
    }
    for (var d = 0u; d < DEPTH_EACH; d++) { // unroll
        for (var j = 0u; j < TILES; j++) { // unroll
            k[d * TILES + j] = keys(start, sub * DEPTH_EACH + d, j);
        }
    }
    stage(t, begin, 0u, lane, staged(t, begin, marks(t, begin / CHUNK), lane));
    if (!SUMS) {
        let top = top_of(x);
        if (l == 0u) {
            tops[sub] = top;
        }
    }
    workgroupBarrier();

    for (var n = 0u; n < count; n++) {
        let first = begin + n * CHUNK;
        let here = n & 1u;
        let values = here * V_TILE;
        var power = 0;
        if (!SUMS) {
            power = power_of_tops();
            for (var i = 0u; i < OWNED; i++) { // unroll
                for (var e = 0u; e < EACH; e++) { // unroll
                    let at = state_row(sub, i, e, l) * STRIDE + i % COLUMN_TILES * N4 + part(e, l) % N4;
                    state_tile[at] = vec4<f16>(x[i * EACH + e] * two_to(power));
                }
            }
        }
        workgroupBarrier();

        // Loads of matrices for the next chunk follow the last use of what they replace.
        start = record(t, begin / CHUNK + n + 1u);
        let ahead = staged(t, first + CHUNK, marks(t, begin / CHUNK + n + 1u), lane);

        // The write, through the slot that the read then takes.
        for (var i = 0u; i < OWNED; i++) { // unroll
            var sum = MatC();
            for (var j = 0u; j < TILES; j++) { // unroll
                sum = coopMultiplyAdd(k[i / COLUMN_TILES * TILES + j], coopLoadT<MatB>(&v_tile[values + j * N * STRIDE + i % COLUMN_TILES * N4], STRIDE), sum);
            }
            coopStoreT(sum, &patches[corner + i % SLOTS * PATCH], N4);
            subgroupBarrier();
            for (var e = 0u; e < EACH; e++) { // unroll
                let p = part(e, l);
                let more = patches[corner + i % SLOTS * PATCH + p];
                x[i * EACH + e] = mark_of(here, state_row(sub, i, e, l)) * x[i * EACH + e] + more;
            }
            if (SLOTS == 1u || i + 1u == OWNED) {
                subgroupBarrier();
            }
        }
        for (var d = 0u; d < DEPTH_EACH; d++) { // unroll
            for (var j = 0u; j < TILES; j++) { // unroll
                k[d * TILES + j] = keys(start, sub * DEPTH_EACH + d, j);
            }
        }
        if (!SUMS) {
            let top = top_of(x);
            if (l == 0u) {
                tops[sub] = top;
            }
            for (var b = 0u; b < JOBS; b++) { // unroll
                let job = sub * JOBS + b;
                let h = job % HALVES;
                let c = job / HALVES % COLUMN_TILES;
                var sum = MatC();
                for (var d = 0u; d < HALF; d++) { // unroll
                    let s = coopLoadT<MatB>(&state_tile[(h * HALF + d) * N * STRIDE + c * N4], STRIDE);
                    sum = coopMultiplyAdd(q[b * HALF + d], s, sum);
                }
                sum = sum * two_to(-power);
                for (var j = 0u; j < KEY_HALF; j++) { // unroll
                    let y = coopLoadT<MatB>(&v_tile[values + (h * KEY_HALF + j) * N * STRIDE + c * N4], STRIDE);
                    sum = coopMultiplyAdd(a[b * KEY_HALF + j], y, sum);
                }
                coopStoreT(sum, &patches[corner + b * PATCH], N4);
                for (var d = 0u; d < HALF; d++) { // unroll
                    q[b * HALF + d] = query(start, job, d);
                }
                for (var j = 0u; j < KEY_HALF; j++) { // unroll
                    a[b * KEY_HALF + j] = seen(start, job, j);
                }
            }
            if (DIVIDE != 0u) {
                let i = lane / SHARES;
                var by = 0.0;
                for (var m = 0u; m < SHARE4; m++) { // unroll
                    let d = lane % SHARES * SHARE4 + m;
                    let z = vec4<f32>(norm[d * 4u], norm[d * 4u + 1u], norm[d * 4u + 2u], norm[d * 4u + 3u]);
                    let at = record(t, first / CHUNK) + (i / N * DEPTH_TILES + d / N4) * MATRIX + i % N * N4 + d % N4;
                    by += dot(vec4<f32>(chunks_data[at]), z);
                }
                divisors[lane] = by;
            }
        }
        stage(t, first + CHUNK, 1u - here, lane, ahead);
        workgroupBarrier();

        if (!SUMS) {
            for (var m = 0u; m < V_EACH; m++) { // unroll
                let p = min(lane + m * WORKGROUP, V_PARTS - 1u);
                let i = p / COLUMNS;
                let at = i % N * N4 + p % COLUMNS % N4;
                let job = (i / N * COLUMN_TILES + p % COLUMNS / N4) * HALVES;
                var y = vec4<f32>();
                for (var h = 0u; h < HALVES; h++) { // unroll
                    y += patches[((job + h) / JOBS * SLOTS + (job + h) % JOBS) * PATCH + at];
                }
                if (DIVIDE != 0u) {
                    var by = mark_of(here, 2u * CHANNELS + i);
                    for (var h = 0u; h < SHARES; h++) { // unroll
                        by += divisors[i * SHARES + h];
                    }
                    y = divided(y, by);
                }
                if (lane + m * WORKGROUP < V_PARTS && first + i < end) {
                    out_store4(out_row(t, first + i), t.column + p % COLUMNS * 4u, args.width, y);
                }
            }
        }
        for (var m = 0u; m < NORM_EACH; m++) { // unroll
            let d = lane + m * WORKGROUP;
            if ((HAS_Z || SUMS) && d < CHANNELS) {
                all[m] *= mark_of(here, d);
                if (HAS_Z) {
                    norm[d] = mark_of(here, d) * norm[d] + mark_of(here, CHANNELS + d);
                }
            }
        }
    }

    if (ends(t)) {
        for (var n = 0u; n < OWNED; n++) { // unroll
            for (var e = 0u; e < EACH; e++) { // unroll
                let row = state_row(sub, n, e, l);
                if (e * LANES + l < MATRIX && row < args.depth) {
                    state_store4(new_row(t, row), state_column(t, n, e, l), args.width, x[n * EACH + e]);
                }
            }
        }
        finish(t, lane, all);
    }
}
