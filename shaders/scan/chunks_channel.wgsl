// The record of one chunk with a decay a channel, by cooperative matrices of N x N: f16 factors, f32 sums; decays, masks and the solve in f32.
//
// One workgroup: one chunk of 32 tokens of one (batch, head). A subgroup has CHANNELS channels; an invocation has OWN neighbouring tokens of
// four of them, in registers from the first load to the record.
// Let b be the highest bit in which two tokens i > j differ: j lies in an even block of b tokens, i in the odd one after it. The decay from j
// to i is that from j to the end of its block times that over i's block up to i, both at most 1. So the pairs of one b are one product of
// 16 x 16 matrices, of the tokens that have the bit with those that lack it; blocks off its diagonal are pairs of another b and go unused.
// Between two such levels a query takes in the decay of the even block before its own, a key that of the odd block after its own, as factors:
// one exp a token and channel, no quotient, and after the last level they are what the record holds. Neighbours and the diagonal (b = 1 and
// i = j) are sums in f32.
// Barriers: 8, with the delta rule 19; one in a subgroup for each product. Workgroup memory at D = 128: 15.8 KiB, with the delta rule 20.3.
// With scan/chunk_record, scan/chunk_levels.

fn kernel(group: u32, lane: u32) {
    let t = chunk_of(group);
    let sub = lane / LANES;
    let l = lane % LANES;
    let g = l % GROUPS;
    let first = l / GROUPS * OWN;        // of the chunk's tokens
    let d = sub * CHANNELS + g * 4u;

    var q_in = array<q_raw, OWN>();
    var k_in = array<k_raw, OWN>();
    var g_in = array<g_raw, OWN>();
    var kept = array<bool, OWN>();
    var factor = array<f32, OWN>();
    for (var m = 0u; m < OWN; m++) { // unroll
        let token = min(t.first + first + m, args.tokens - 1u);
        let at = At(t.batch, t.head, token, 0, 0);
        q_in[m] = q_raw4(q_row(t, token), d, args.depth);
        k_in[m] = k_raw4(k_row(t, token), d, args.depth);
        g_in[m] = g_raw4(g_row(t, token), d, args.depth);
        kept[m] = (t.first + first + m < args.tokens) & (keep(at) | !HAS_KEEP);
        factor[m] = select(1.0, w(at), HAS_WRITE);
    }
    var q = array<vec4<f32>, OWN>();     // with the decay of their blocks up to them
    var held = array<vec4<f32>, OWN>();  // keys in the place of queries
    var k = array<vec4<f32>, OWN>();     // with the decay of their blocks after them
    var decay = array<vec4<f32>, OWN>(); // of the block that begins with a token
    let inside = d < args.depth;
    for (var m = 0u; m < OWN; m++) { // unroll
        let token = t.first + first + m;
        var key = k_made(token, d, vec4<f16>(k_real(k_in[m])));
        if (DELTA == 0u) {
            key *= factor[m];
        }
        q[m] = select(vec4<f32>(), q_made(token, d, vec4<f16>(q_real(q_in[m]))), inside & (token < args.tokens));
        k[m] = select(vec4<f32>(), key, inside & kept[m]);
        decay[m] = select(vec4<f32>(1.0), exp(max(g_real(g_in[m]), vec4<f32>(FASTEST))), inside & kept[m]);
    }
    let near = sub * NEAR + first;
    for (var m = 0u; m < OWN; m++) { // unroll
        let own = over_channels(dot(q[m], k[m]));
        if (g == 0u) {
            seen_sums[near + m] = own;
            if (DELTA == 1u) {
                writes[(first + m) / 4u][m % 4u] = select(0.0, factor[m], kept[m]);
            }
        }
        q[m] *= decay[m];
        held[m] = k[m] * decay[m];
    }
    for (var m = 0u; m < OWN / 2u; m++) { // unroll
        let next = over_channels(dot(q[m * 2u + 1u], k[m * 2u]));
        if (g == 0u) {
            seen_sums[sub * NEAR + 32u + first / 2u + m] = next;
        }
        if (DELTA == 1u) {
            let held_next = over_channels(dot(held[m * 2u + 1u], k[m * 2u]));
            if (g == 0u) {
                seen_sums[sub * NEAR + 48u + first / 2u + m] = held_next;
            }
        }
        q[m * 2u + 1u] *= decay[m * 2u];
        held[m * 2u + 1u] *= decay[m * 2u];
        k[m * 2u] *= decay[m * 2u + 1u];
        decay[m * 2u] *= decay[m * 2u + 1u];
    }

    let record = record_at(t);
    let marks = marks_at(t);
    var sums = vec2<f32>();
    let base = sub * TILE;
    // It stays a loop: written out, a driver on a CPU takes four times as long, and nothing but the growth of blocks needs its number.
    for (var level = 1u; level < LEVELS; level++) {
        let b = 1u << level;
        for (var kind = 0u; kind < KINDS; kind++) { // unroll
            for (var m = 0u; m < OWN; m++) { // unroll
                let odd = (select(first, m, b < OWN) & b) != 0u;
                let at = base + (rank(first + m, level) + select(16u, 0u, odd)) * STRIDE + g;
                if (kind == 0u) {
                    tile[at] = vec4<f16>(select(k[m], q[m], odd));
                } else {
                    if (odd) {
                        tile[at] = vec4<f16>(held[m]);
                    }
                }
            }
            subgroupBarrier();
            var sum = array<MatC, HALF * HALF>(); // split
            for (var c = 0u; c < DEPTH_EACH; c++) { // unroll
                for (var i = 0u; i < HALF; i++) { // unroll
                    let x = coopLoadT<MatA>(&tile[base + i * N * STRIDE + c * N4], STRIDE);
                    for (var j = 0u; j < HALF; j++) { // unroll
                        let y = coopLoad<MatB>(&tile[base + (16u + j * N) * STRIDE + c * N4], STRIDE);
                        sum[i * HALF + j] = coopMultiplyAdd(x, y, sum[i * HALF + j]);
                    }
                }
            }
            if (level + kind > 1u) {
                workgroupBarrier();
            }
            for (var i = 0u; i < HALF; i++) { // unroll
                for (var j = 0u; j < HALF; j++) { // unroll
                    coopStoreT(sum[i * HALF + j], &pairs[sub * PRODUCT + i * N * 4u + j * N4], 4u);
                }
            }
            workgroupBarrier();
            sums[kind] += take(record, level, kind, lane);
        }
        // Blocks twice as long; registers have no index that is not a constant.
        for (var e = 1u; e < LEVELS; e++) { // unroll
            let size = 1u << e;
            if (level == e) {
                if (size < OWN) {
                    for (var m = 0u; m < OWN; m++) { // unroll
                        let begin = m / (2u * size) * (2u * size);
                        if ((m & size) != 0u) {
                            q[m] *= decay[begin];
                            held[m] *= decay[begin];
                        } else {
                            k[m] *= decay[min(begin + size, OWN - 1u)];
                        }
                    }
                    for (var m = 0u; m < OWN; m++) { // unroll
                        if (m % (2u * size) == 0u) {
                            decay[m] *= decay[min(m + size, OWN - 1u)];
                        }
                    }
                }
            }
        }
        if (b >= OWN) {
            let other = subgroupShuffleXor(decay[0], GROUPS * (b / OWN));
            let odd = (first & b) != 0u;
            let before = select(vec4<f32>(1.0), other, odd);
            let after = select(other, vec4<f32>(1.0), odd);
            for (var m = 0u; m < OWN; m++) { // unroll
                q[m] *= before;
                held[m] *= before;
                k[m] *= after;
            }
            decay[0] *= other;
        }
    }

    // The rest of A.
    if (lane < CHUNK) {
        seen_sums[lane / 4u * CHUNK + lane] = sums.x;
    }
    for (var n = lane; n < SQUARE; n += WORKGROUP) {
        if (n / CHUNK > n % CHUNK / 4u) {
            seen_store(record, n % CHUNK, n / CHUNK, vec4<f32>());
        }
    }
    var total = vec4<f32>();
    for (var m = 0u; m < OWN; m++) { // unroll
        if (d < PADDED) {
            let at = record + place(first + m, d / 4u, DEPTH_TILES);
            chunks_data[at] = vec4<f16>(q[m] * args.scale);
            if (DELTA == 1u) {
                chunks_data[at + HELD_AT] = vec4<f16>(held[m]);
            }
        }
        total += vec4<f32>(vec4<f16>(k[m]));
    }
    for (var m = 0u; m < OWN / 4u; m++) { // unroll
        for (var x = 0u; x < 4u; x++) { // unroll
            let n = place(g * 4u + x, first / 4u + m, TILES);
            tile[base + n + n / 16u] = vec4<f16>(vec4<f32>(k[m * 4u][x], k[m * 4u + 1u][x], k[m * 4u + 2u][x], k[m * 4u + 3u][x]));
        }
    }
    for (var n = GROUPS; n < LANES; n += n) {
        total += subgroupShuffleXor(total, n);
    }
    if (first == 0u) {
        marks_store4(marks, d, PADDED, decay[0]);
        marks_store4(marks + PADDED, d, PADDED, total);
    }
    workgroupBarrier();
    for (var m = 0u; m < COPIES; m++) { // unroll
        let n = l + m * LANES;
        if (sub * CHANNELS * QUADS + n < TALL) {
            chunks_data[record + KEYS_AT + sub * CHANNELS * QUADS + n] = tile[base + n + n / 16u];
        }
    }
    seen_marks(marks, lane);
    if (DELTA == 1u) {
        for (var n = lane; n < CHUNK * PAIR_STRIDE; n += WORKGROUP) {
            pairs[n] = inner[n];
        }
        workgroupBarrier();
        if (lane < CHUNK) {
            solve_block(lane);
        }
        workgroupBarrier();
        solve_corner(lane);
        workgroupBarrier();
        solved_store(record, lane);
    }
}
