// The record of one chunk without a decay or with a scalar one, by cooperative matrices of N x N: f16 factors, f32 sums; decays, masks and
// the solve in f32.
//
// One workgroup: one chunk of 32 tokens of one (batch, head). An invocation holds blocks of four tokens and four channels of q and k: what the
// record has of them is written from registers, and they pass through workgroup memory, 64 channels at a time, for the products of pairs.
// A subgroup owns matrices of the pairs: decays and masks are its own lanes' work. With the delta rule one column an invocation is solved.
// Workgroup memory: 15 KiB, so that three fit where a processor has 48. Barriers at D = 128: 5, with the delta rule 6.
// With scan/chunk_record, scan/chunk_rows.

const PASSES: u32 = (CHANNELS4 + 15u) / 16u;
const PASS4: u32 = CHANNELS4 / PASSES;
const WIDE: u32 = PASS4 / 8u;
const BLOCKS: u32 = PASS4 * QUADS;            // of four tokens and channels in a pass
const EACH: u32 = (BLOCKS + WORKGROUP - 1u) / WORKGROUP;
const STRIDE: u32 = PASS4 + 2u;               // padded against bank conflicts
const STEPS: u32 = PASS4 / N4 / 2u;
const JOBS: u32 = TILES * TILES / SUBGROUPS;
const PARTS: u32 = (MATRIX + LANES - 1u) / LANES;

var<workgroup> rows: array<vec4<f16>, 2u * CHUNK * STRIDE>;    // keys, then queries
var<workgroup> gates: array<vec4<f32>, QUADS>;
var<workgroup> until: array<vec4<f32>, QUADS>;                 // G

// Neighbours in a subgroup of 32: 8 vec4 of a row, so that loads are whole, and 4 quads, so that rows of K~ are.
fn column_of(n: u32) -> u32 {
    return n % 8u + n / 32u % WIDE * 8u;
}

fn quad_of(n: u32) -> u32 {
    return n / 8u % 4u + n / (32u * WIDE) * 4u;
}

fn running(x: vec4<f32>) -> vec4<f32> {
    let two = x.x + x.y;
    let three = two + x.z;
    return vec4<f32>(x.x, two, three, three + x.w);
}

fn kernel(group: u32, lane: u32) {
    let t = chunk_of(group);
    let record = record_at(t);
    let marks = marks_at(t);
    var ks = array<k_raw, PASSES * EACH * 4u>();
    var qs = array<q_raw, PASSES * EACH * 4u>();
    for (var p = 0u; p < PASSES; p++) { // unroll
        for (var e = 0u; e < EACH; e++) { // unroll
            let n = min(lane + e * WORKGROUP, BLOCKS - 1u);
            let d = (p * PASS4 + column_of(n)) * 4u;
            for (var r = 0u; r < 4u; r++) { // unroll
                let token = min(t.first + quad_of(n) * 4u + r, args.tokens - 1u);
                ks[(p * EACH + e) * 4u + r] = k_raw4(k_row(t, token), d, args.depth);
                qs[(p * EACH + e) * 4u + r] = q_raw4(q_row(t, token), d, args.depth);
            }
        }
    }
    if (Q_NORM | K_NORM) {
        for (var e = 0u; e < EACH; e++) { // unroll
            let n = min(lane + e * WORKGROUP, BLOCKS - 1u);
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

    // What the record has of rows.
    var kh = array<vec4<f16>, PASSES * EACH * 4u>();
    var qh = array<vec4<f16>, PASSES * EACH * 4u>();
    var decay = 1.0;                          // of the chunk
    for (var e = 0u; e < EACH; e++) { // unroll
        let n = min(lane + e * WORKGROUP, BLOCKS - 1u);
        let quad = quad_of(n);
        let there = lane + e * WORKGROUP < BLOCKS;
        var before = vec4<f32>(1.0);
        var after = vec4<f32>(1.0);
        if (SCALAR) {
            var sum = 0.0;
            var all = 0.0;
            for (var l = 0u; l < QUADS; l++) { // unroll
                let own = running(gates[l]).w;
                sum += select(0.0, own, l < quad);
                all += own;
            }
            let g = sum + running(gates[quad]);
            before = exp(g);
            after = exp(all - g);
            decay = exp(all);
            if (column_of(n) == 0u) {
                until[quad] = g;
            }
        }
        let is_kept = present[quad] != vec4<u32>();
        let k_by = k_factors(quad);
        let q_by = q_factors(quad);
        let within = vec4<u32>(0u, 1u, 2u, 3u) + (t.first + quad * 4u) < vec4<u32>(args.tokens);
        var written = after;
        if (DELTA == 0u) {
            written *= writes[quad];
        }
        for (var p = 0u; p < PASSES; p++) { // unroll
            let c = p * PASS4 + column_of(n);
            let deep = c * 4u < args.depth;
            for (var r = 0u; r < 4u; r++) { // unroll
                let m = (p * EACH + e) * 4u + r;
                let token = t.first + quad * 4u + r;
                kh[m] = select(vec4<f16>(), vec4<f16>(k_made(token, c * 4u, ks[m]) * k_by[r]), deep & is_kept[r]);
                qh[m] = select(vec4<f16>(), vec4<f16>(q_made(token, c * 4u, qs[m]) * q_by[r]), deep & within[r]);
                let at = place(quad * 4u + r, c, DEPTH_TILES);
                if (there) {
                    chunks_data[record + at] = vec4<f16>(vec4<f32>(qh[m]) * (args.scale * before[r]));
                    if (DELTA == 1u) {
                        chunks_data[record + HELD_AT + at] = vec4<f16>(vec4<f32>(kh[m]) * before[r]);
                    }
                }
            }
            if (there) {
                let m = (p * EACH + e) * 4u;
                keys_store(record, c, quad, vec4<f16>(vec4<f32>(kh[m]) * written.x), vec4<f16>(vec4<f32>(kh[m + 1u]) * written.y),
                    vec4<f16>(vec4<f32>(kh[m + 2u]) * written.z), vec4<f16>(vec4<f32>(kh[m + 3u]) * written.w));
            }
        }
    }

    let sub = lane / LANES;
    var seen = array<MatC, JOBS>(); // split
    var kept_pairs = array<MatC, JOBS>(); // split
    for (var p = 0u; p < PASSES; p++) { // unroll
        if (p > 0u) {
            workgroupBarrier();
        }
        for (var e = 0u; e < EACH; e++) { // unroll
            let n = min(lane + e * WORKGROUP, BLOCKS - 1u);
            let at = quad_of(n) * 4u * STRIDE + column_of(n);
            if (lane + e * WORKGROUP < BLOCKS) {
                for (var r = 0u; r < 4u; r++) { // unroll
                    rows[at + r * STRIDE] = kh[(p * EACH + e) * 4u + r];
                    rows[CHUNK * STRIDE + at + r * STRIDE] = qh[(p * EACH + e) * 4u + r];
                }
            }
        }
        workgroupBarrier();
        if (p == 0u) {
            keys_marks(marks, lane);
            if (lane < CHANNELS4) {
                marks_store4(marks, lane * 4u, CHANNELS4 * 4u, vec4<f32>(decay));
            }
        }
        for (var s = 0u; s < STEPS; s++) {
            for (var h = 0u; h < 2u; h++) { // unroll
                let d = (s * 2u + h) * N4;
                for (var b = 0u; b < JOBS; b++) { // unroll
                    let i = (sub * JOBS + b) / TILES * N * STRIDE + d;
                    let j = (sub * JOBS + b) % TILES * N * STRIDE + d;
                    let k = coopLoad<MatB>(&rows[j], STRIDE);
                    seen[b] = coopMultiplyAdd(coopLoadT<MatA>(&rows[CHUNK * STRIDE + i], STRIDE), k, seen[b]);
                    if (DELTA == 1u) {
                        kept_pairs[b] = coopMultiplyAdd(coopLoadT<MatA>(&rows[i], STRIDE), k, kept_pairs[b]);
                    }
                }
            }
        }
    }
    if (PASSES == 1u) {
        workgroupBarrier();
    }

    for (var b = 0u; b < JOBS; b++) { // unroll
        let job = sub * JOBS + b;
        coopStoreT(seen[b], &pairs[job / TILES * N * PAIR_STRIDE + job % TILES * N4], PAIR_STRIDE);
    }
    subgroupBarrier();
    for (var b = 0u; b < JOBS; b++) { // unroll
        for (var e = 0u; e < PARTS; e++) { // unroll
            let at = pair_of(sub * JOBS + b, e, lane % LANES);
            var x = pairs[at.x * PAIR_STRIDE + at.y] * pair_decay(at.x, at.y) * args.scale;
            if (DELTA == 0u) {
                x *= writes[at.y];
            }
            seen_store(record, at.x, at.y, select(vec4<f32>(), x, later(at.x, at.y) | same(at.x, at.y)));
        }
    }
    if (DELTA == 1u) {
        subgroupBarrier();
        for (var b = 0u; b < JOBS; b++) { // unroll
            let job = sub * JOBS + b;
            coopStoreT(kept_pairs[b], &pairs[job / TILES * N * PAIR_STRIDE + job % TILES * N4], PAIR_STRIDE);
        }
        subgroupBarrier();
        for (var b = 0u; b < JOBS; b++) { // unroll
            for (var e = 0u; e < PARTS; e++) { // unroll
                let at = pair_of(sub * JOBS + b, e, lane % LANES);
                if (e * LANES + lane % LANES < MATRIX) {
                    pairs[at.x * PAIR_STRIDE + at.y] *= pair_decay(at.x, at.y) * writes[at.x / 4u][at.x % 4u];
                }
            }
        }
    }
    workgroupBarrier();
    seen_marks(marks, lane);
    if (DELTA == 1u) {
        if (lane < CHUNK) {
            solve(lane);
        }
        workgroupBarrier();
        solved_store(record, lane);
    }
}

// Row and quad of part e of a lane in matrix `job` of the pairs.
fn pair_of(job: u32, e: u32, l: u32) -> vec2<u32> {
    let n = min(e * LANES + l, MATRIX - 1u);
    return vec2<u32>(job / TILES * N + n / N4, job % TILES * N4 + n % N4);
}

fn later(i: u32, quad: u32) -> vec4<bool> {
    return vec4<u32>(0u, 1u, 2u, 3u) + quad * 4u < vec4<u32>(i);
}

fn same(i: u32, quad: u32) -> vec4<bool> {
    return vec4<u32>(0u, 1u, 2u, 3u) + quad * 4u == vec4<u32>(i);
}

// What is left in row i of what its tokens before wrote; of later ones anything finite.
fn pair_decay(i: u32, quad: u32) -> vec4<f32> {
    if (!SCALAR) {
        return vec4<f32>(1.0);
    }
    return exp(select(vec4<f32>(), until[i / 4u][i % 4u] - until[quad], later(i, quad)));
}
