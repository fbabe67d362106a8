// The record of one chunk without a decay or with a scalar one, by cooperative matrices of N x N: f16 factors, f32 sums; decays, masks and
// the solve in f32.
//
// One workgroup: one chunk of 32 tokens of one (batch, head). An invocation holds blocks of four tokens and four channels of q and k: what the
// record has of them is written from registers, and they pass through workgroup memory, 64 channels at a time, for the products of pairs.
// A subgroup owns matrices of the pairs: decays and masks are its own lanes' work. With the delta rule one column an invocation is solved.
// Workgroup memory: 15 KiB, so that three fit where a processor has 48. Barriers: 4 up to 64 channels, 6 above, and 2 of the delta rule.
// With scan/chunk_record, scan/chunk_rows, scan/chunk_blocks.

fn kernel(group: u32, lane: u32) {
    let t = chunk_of(group);
    let record = record_at(t);
    let marks = marks_at(t);
    // Without a branch, so that all are in flight.
    var ks = array<vec4<f16>, PASSES * EACH * 4u>();
    var qs = array<vec4<f16>, PASSES * EACH * 4u>();
    for (var p = 0u; p < PASSES; p++) { // unroll
        for (var e = 0u; e < EACH; e++) { // unroll
            let n = block_of(lane, e);
            let d = min((p * PASS4 + column_of(n)) * 4u, args.depth - 4u);
            for (var r = 0u; r < 4u; r++) { // unroll
                let token = min(t.first + quad_of(n) * 4u + r, args.tokens - 1u);
                ks[(p * EACH + e) * 4u + r] = k_quad(k_row(t, token), d);
                qs[(p * EACH + e) * 4u + r] = q_quad(q_row(t, token), d);
            }
        }
    }
    if (Q_NORM | K_NORM) {
        for (var e = 0u; e < EACH; e++) { // unroll
            let n = block_of(lane, e);
            var of_k = vec4<f32>();
            var of_q = vec4<f32>();
            for (var p = 0u; p < PASSES; p++) { // unroll
                let d = (p * PASS4 + column_of(n)) * 4u;
                for (var r = 0u; r < 4u; r++) { // unroll
                    let token = t.first + quad_of(n) * 4u + r;
                    let y = k_made(token, d, ks[(p * EACH + e) * 4u + r]);
                    let x = q_made(token, d, qs[(p * EACH + e) * 4u + r]);
                    of_k[r] += select(0.0, dot(y, y), d < args.depth);
                    of_q[r] += select(0.0, dot(x, x), d < args.depth);
                }
            }
            share_lengths(n, n / 32u % WIDE * QUADS + quad_of(n), of_k, of_q);
        }
    }
    if (lane < CHUNK) {
        let at = At(t.batch, t.head, min(t.first + lane, args.tokens - 1u), 0, 0);
        let is_kept = (t.first + lane < args.tokens) & (keep(at) | !HAS_KEEP);
        gates[lane / 4u][lane % 4u] = select(0.0, max(g_scalar(at), FASTEST), is_kept & SCALAR);
        writes[lane / 4u][lane % 4u] = select(0.0, select(1.0, w(at), HAS_WRITE), is_kept);
        present[lane / 4u][lane % 4u] = u32(is_kept);
    }
    workgroupBarrier();

    var before = array<vec4<f32>, EACH>();
    var after = array<vec4<f32>, EACH>();
    var decay = 1.0;                          // of the chunk
    for (var e = 0u; e < EACH; e++) { // unroll
        let n = block_of(lane, e);
        let quad = quad_of(n);
        before[e] = vec4<f32>(1.0);
        after[e] = vec4<f32>(1.0);
        if (SCALAR) {
            var sum = 0.0;
            var all = 0.0;
            for (var l = 0u; l < QUADS; l++) { // unroll
                let own = running(gates[l]).w;
                sum += select(0.0, own, l < quad);
                all += own;
            }
            let g = sum + running(gates[quad]);
            before[e] = exp(g);
            after[e] = exp(all - g);
            decay = exp(all);
            if (column_of(n) == 0u) {
                until[quad] = g;
            }
        }
        if (DELTA == 0u) {
            after[e] *= writes[quad];
        }
        let is_kept = present[quad] != vec4<u32>();
        let k_by = k_factors(quad);
        let q_by = q_factors(quad);
        let within = vec4<u32>(0u, 1u, 2u, 3u) + (t.first + quad * 4u) < vec4<u32>(args.tokens);
        for (var p = 0u; p < PASSES; p++) { // unroll
            let deep = (p * PASS4 + column_of(n)) * 4u < args.depth;
            for (var r = 0u; r < 4u; r++) { // unroll
                let m = (p * EACH + e) * 4u + r;
                let token = t.first + quad * 4u + r;
                let d = (p * PASS4 + column_of(n)) * 4u;
                ks[m] = select(vec4<f16>(), k_half(token, d, ks[m], k_by[r]), deep & is_kept[r]);
                qs[m] = select(vec4<f16>(), q_half(token, d, qs[m], q_by[r]), deep & within[r]);
            }
        }
    }

    let sub = lane / LANES;
    let l = lane % LANES;
    var seen = array<MatC, JOBS>(); // split
    var alike = array<MatC, JOBS>(); // split
    for (var p = 0u; p < PASSES; p++) { // unroll
        if (p > 0u) {
            workgroupBarrier();
        }
        for (var e = 0u; e < EACH; e++) { // unroll
            let n = block_of(lane, e);
            let at = quad_of(n) * 4u * STRIDE + column_of(n);
            if (is_own(lane, e)) {
                for (var r = 0u; r < 4u; r++) { // unroll
                    rows[at + r * STRIDE] = ks[(p * EACH + e) * 4u + r];
                    rows[CHUNK * STRIDE + at + r * STRIDE] = qs[(p * EACH + e) * 4u + r];
                }
                let m = (p * EACH + e) * 4u;
                keys_store(record, p * PASS4 + column_of(n), quad_of(n), scaled(ks[m], after[e].x), scaled(ks[m + 1u], after[e].y),
                    scaled(ks[m + 2u], after[e].z), scaled(ks[m + 3u], after[e].w));
            }
        }
        workgroupBarrier();
        for (var s = 0u; s < STEPS; s++) {
            for (var h = 0u; h < STEP; h++) { // unroll
                let c = (s * STEP + h) * N4;
                for (var b = 0u; b < JOBS; b++) { // unroll
                    let i = (sub * JOBS + b) / TILES * N * STRIDE + c;
                    let k = coopLoad<MatB>(&rows[(sub * JOBS + b) % TILES * N * STRIDE + c], STRIDE);
                    seen[b] = coopMultiplyAdd(coopLoadT<MatA>(&rows[CHUNK * STRIDE + i], STRIDE), k, seen[b]);
                    if (DELTA == 1u) {
                        alike[b] = coopMultiplyAdd(coopLoadT<MatA>(&rows[i], STRIDE), k, alike[b]);
                    }
                }
            }
        }
    }
    keys_marks(marks, lane);
    if (lane < CHANNELS4) {
        marks_store4(marks, lane * 4u, CHANNELS4 * 4u, vec4<f32>(decay));
    }
    workgroupBarrier();

    // A and N, each by the subgroup that has its products.
    var left = array<vec4<f32>, JOBS * PARTS>();
    for (var b = 0u; b < JOBS; b++) { // unroll
        coopStoreT(seen[b], &pairs[corner_of(sub * JOBS + b)], PAIR_STRIDE);
    }
    subgroupBarrier();
    for (var b = 0u; b < JOBS; b++) { // unroll
        for (var e = 0u; e < PARTS; e++) { // unroll
            let at = pair_of(sub * JOBS + b, e, l);
            left[b * PARTS + e] = pair_decay(at.x, at.y);
            var x = pairs[at.x * PAIR_STRIDE + at.y] * left[b * PARTS + e] * args.scale;
            if (DELTA == 0u) {
                x *= writes[at.y];
            }
            let up_to = vec4<u32>(0u, 1u, 2u, 3u) + at.y * 4u <= vec4<u32>(at.x);
            seen_store(record, at.x, at.y, select(vec4<f32>(), x, up_to));
        }
    }
    if (DELTA == 1u) {
        subgroupBarrier();
        for (var b = 0u; b < JOBS; b++) { // unroll
            coopStoreT(alike[b], &pairs[corner_of(sub * JOBS + b)], PAIR_STRIDE);
        }
        subgroupBarrier();
        for (var b = 0u; b < JOBS; b++) { // unroll
            for (var e = 0u; e < PARTS; e++) { // unroll
                let at = pair_of(sub * JOBS + b, e, l);
                if ((MATRIX % LANES == 0u) | (e * LANES + l < MATRIX)) {
                    pairs[at.x * PAIR_STRIDE + at.y] *= left[b * PARTS + e] * writes[at.x / 4u][at.x % 4u];
                }
            }
        }
    }
    workgroupBarrier();
    // The first subgroup solves while the others go on.
    if (DELTA == 1u) {
        if (lane < CHUNK) {
            solve_block(lane);
        }
    }
    seen_marks(marks, lane);
    for (var e = 0u; e < EACH; e++) { // unroll
        let n = block_of(lane, e);
        if (is_own(lane, e)) {
            for (var p = 0u; p < PASSES; p++) { // unroll
                for (var r = 0u; r < 4u; r++) { // unroll
                    let m = (p * EACH + e) * 4u + r;
                    let at = record + place(quad_of(n) * 4u + r, p * PASS4 + column_of(n), DEPTH_TILES);
                    chunks_data[at] = scaled(qs[m], args.scale * before[e][r]);
                    if (DELTA == 1u) {
                        chunks_data[at + HELD_AT] = scaled(ks[m], before[e][r]);
                    }
                }
            }
        }
    }
    if (DELTA == 1u) {
        workgroupBarrier();
        solve_corner(lane);
        workgroupBarrier();
        solved_store(record, lane);
    }
}

fn scaled(x: vec4<f16>, by: f32) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(x) * by);
}

fn corner_of(job: u32) -> u32 {
    return job / TILES * N * PAIR_STRIDE + job % TILES * N4;
}

// Row and quad of part e of a lane in matrix `job` of the pairs.
fn pair_of(job: u32, e: u32, l: u32) -> vec2<u32> {
    let n = min(e * LANES + l, MATRIX - 1u);
    return vec2<u32>(job / TILES * N + n / N4, job % TILES * N4 + n % N4);
}

// What is left in row i of what its tokens before wrote; of later ones anything finite.
fn pair_decay(i: u32, quad: u32) -> vec4<f32> {
    if (!SCALAR) {
        return vec4<f32>(1.0);
    }
    return exp(select(vec4<f32>(), until[i / 4u][i % 4u] - until[quad], vec4<u32>(0u, 1u, 2u, 3u) + quad * 4u < vec4<u32>(i)));
}
