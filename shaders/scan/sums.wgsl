// What the tokens of a span of segments add to the state, all spans at once, by cooperative matrices of N x N: f16 factors, f32 sums.
//
// One workgroup: the span's segments, one after another, of one (batch, head) and VALUE_TILES matrices of value columns:
// sum_j e^(G - G_j) w_j k_j v_j^T, up to the start of each segment; that of all of the span in the place of its first segment. The subgroups are
// a grid of D_SUBS x V_SUBS, and each holds its matrices of the state for all of a span; the states in memory are padded to whole matrices.
// Keys and values are staged STEP tokens at a time, the next two steps on their way, those of the next segment while a state is stored.
// Barriers: 2 a step. Workgroup memory: 36 KiB at 128 channels and columns: one workgroup, of many subgroups, has a processor.
// With scan/segment, scan/state, scan/addresses, scan/chunk_rows, attend/matrix_N.

const STEP: u32 = 32u;
const D_EACH: u32 = DEPTH_TILES / D_SUBS;
const V_EACH: u32 = VALUE_TILES / V_SUBS;
// Rows padded against bank conflicts, in vec4.
const K_STRIDE: u32 = CHANNELS4 + 2u;
const V_STRIDE: u32 = COLUMNS4 + 2u;
const K_PARTS: u32 = STEP * CHANNELS4;
const V_PARTS: u32 = STEP * COLUMNS4;
const K_LOADS: u32 = (K_PARTS + WORKGROUP - 1u) / WORKGROUP;
const V_LOADS: u32 = (V_PARTS + WORKGROUP - 1u) / WORKGROUP;
const JS: u32 = STEP / N;
const MATRIX: u32 = N * N4;                  // vec4 of a matrix

var<workgroup> k_tile: array<vec4<f16>, STEP * K_STRIDE>;
var<workgroup> v_tile: array<vec4<f16>, STEP * V_STRIDE>;
var<workgroup> patches: array<vec4<f32>, SUBGROUPS * MATRIX>;   // matrices on their way to memory; shares of z

fn kernel(group: u32, lane: u32) {
    let rest = group / args.tiles;
    let line = rest / args.runs;
    var t = Tile(line / args.heads, line % args.heads, group % args.tiles * COLUMNS * 4u, rest % args.runs * args.span);
    let last = min(t.segment + args.span, args.segments) - 1u;
    let sub = lane / LANES;
    var begin = t.segment * SEGMENT;
    let channel = lane % CHANNELS4 * 4u;

    // Two steps are on their way: one is half of what the memory's latency asks for.
    var ks = array<vec4<f16>, 2u * K_LOADS>();
    var vs = array<vec4<f16>, 2u * V_LOADS>();
    for (var h = 0u; h < 2u; h++) { // unroll
        for (var m = 0u; m < K_LOADS; m++) { // unroll
            ks[h * K_LOADS + m] = key_part(t, begin + h * STEP, lane + m * WORKGROUP);
        }
        for (var m = 0u; m < V_LOADS; m++) { // unroll
            vs[h * V_LOADS + m] = value_part(t, begin + h * STEP, lane + m * WORKGROUP);
        }
    }
    let home = t.segment;
    var decay = 0.0;                          // of the span up to here, as a power of two
    var sums = array<MatC, D_EACH * V_EACH>(); // split
    var z = vec4<f32>();
    loop {
        let count = (min(SEGMENT, args.tokens - begin) + STEP - 1u) / STEP;      // the last may be one more, of zeros
        let all = gates(t, lane);
        if (SCALAR) {
            decay += all;
            for (var n = 0u; n < D_EACH * V_EACH; n++) { // unroll
                sums[n] = sums[n] * exp2(all);
            }
            z *= exp2(all);
            factors(lane, all);
        }
        for (var n = 0u; n < count; n += 2u) {
            for (var h = 0u; h < 2u; h++) { // unroll
                let first = (n + h) * STEP;
                // Whether all of these tokens are there and kept.
                let whole = !HAS_KEEP & (begin + first + STEP <= args.tokens);
                workgroupBarrier();
                for (var m = 0u; m < K_LOADS; m++) { // unroll
                    let p = min(lane + m * WORKGROUP, K_PARTS - 1u);
                    let j = first + p / CHANNELS4;
                    var x = made(begin + j, p % CHANNELS4 * 4u, ks[h * K_LOADS + m], writes[j / 4u][j % 4u]);
                    if (!whole) {
                        x = select(vec4<f16>(), x, kept_at(j));
                    }
                    k_tile[p / CHANNELS4 * K_STRIDE + p % CHANNELS4] = x;
                    if (HAS_Z && (K_PARTS % WORKGROUP == 0u || lane + m * WORKGROUP < K_PARTS)) {
                        z += vec4<f32>(x);
                    }
                }
                for (var m = 0u; m < V_LOADS; m++) { // unroll
                    let p = min(lane + m * WORKGROUP, V_PARTS - 1u);
                    var x = vs[h * V_LOADS + m];
                    if (!whole) {
                        x = select(vec4<f16>(), x, kept_at(first + p / COLUMNS4));
                    }
                    v_tile[p / COLUMNS4 * V_STRIDE + p % COLUMNS4] = x;
                }
                workgroupBarrier();
                for (var m = 0u; m < K_LOADS; m++) { // unroll
                    ks[h * K_LOADS + m] = key_part(t, begin + first + 2u * STEP, lane + m * WORKGROUP);
                }
                for (var m = 0u; m < V_LOADS; m++) { // unroll
                    vs[h * V_LOADS + m] = value_part(t, begin + first + 2u * STEP, lane + m * WORKGROUP);
                }
                // A loop in the loop: a driver made eight copies of one that had none, and moved the loads to their use.
                for (var j = 0u; j < JS; j++) {
                    var k = array<MatA, D_EACH>(); // split
                    for (var d = 0u; d < D_EACH; d++) { // unroll
                        k[d] = coopLoad<MatA>(&k_tile[j * N * K_STRIDE + (sub / V_SUBS * D_EACH + d) * N4], K_STRIDE);
                    }
                    for (var c = 0u; c < V_EACH; c++) { // unroll
                        let v = coopLoadT<MatB>(&v_tile[j * N * V_STRIDE + (sub % V_SUBS * V_EACH + c) * N4], V_STRIDE);
                        for (var d = 0u; d < D_EACH; d++) { // unroll
                            sums[d * V_EACH + c] = coopMultiplyAdd(k[d], v, sums[d * V_EACH + c]);
                        }
                    }
                }
            }
        }

        // Through workgroup memory, so that neighbours store neighbours.
        var to = t;
        to.segment = select(t.segment + 1u, home, t.segment == last);
        let corner = sub * MATRIX;
        for (var d = 0u; d < D_EACH; d++) { // unroll
            for (var c = 0u; c < V_EACH; c++) { // unroll
                coopStoreT(sums[d * V_EACH + c], &patches[corner], N4);
                subgroupBarrier();
                for (var e = lane % LANES; e < MATRIX; e += LANES) {
                    let row = new_row(to, (sub / V_SUBS * D_EACH + d) * N + e / N4);
                    state_store4(row, t.column + (sub % V_SUBS * V_EACH + c) * N + e % N4 * 4u, args.state_s2, patches[corner + e]);
                }
                subgroupBarrier();
            }
        }
        if (HAS_Z) {
            workgroupBarrier();
            patches[lane] = z;
            workgroupBarrier();
            if (lane < CHANNELS4 && t.column == 0u) {
                var sum = vec4<f32>();
                for (var n = 0u; n < WORKGROUP / CHANNELS4; n++) { // unroll
                    sum += patches[n * CHANNELS4 + lane];
                }
                for (var e = 0u; e < 4u; e++) { // unroll
                    if (channel + e < args.depth) {
                        z_store(z_row(to) + channel + e, sum[e]);
                    }
                }
            }
        }
        if (SCALAR && lane == 0u && t.column == 0u) {
            total_store(total_row(to), exp2(decay));
        }
        if (t.segment == last) {
            break;
        }
        t.segment += 1u;
        begin += SEGMENT;
        workgroupBarrier();
    }
}

// Part n of K_PARTS or V_PARTS, four channels or columns of a token, from token `first` on. Past the end the last ones again, so that
// loads have no branches.
fn key_part(t: Tile, first: u32, n: u32) -> vec4<f16> {
    let p = min(n, K_PARTS - 1u);
    return k_quad(k_row(t, min(first + p / CHANNELS4, args.tokens - 1u)), min(p % CHANNELS4 * 4u, args.depth - 4u));
}

fn value_part(t: Tile, first: u32, n: u32) -> vec4<f16> {
    let p = min(n, V_PARTS - 1u);
    let column = min(t.column + p % COLUMNS4 * 4u, args.width - 4u);
    return v_quad(v_row(t, min(first + p / COLUMNS4, args.tokens - 1u)), column);
}

// In place of the write weights what keys meet the end of the segment with; in place of the decays the weights. One barrier.
fn factors(lane: u32, all: f32) {
    for (var r = 0u; r < RUN; r++) { // unroll
        let n = lane * RUN + r;
        if (n < SEGMENT) {
            let by = writes[n / 4u][n % 4u];
            writes[n / 4u][n % 4u] = by * exp2(all - until[n / 4u][n % 4u]);
            until[n / 4u][n % 4u] = by;
        }
    }
    workgroupBarrier();
}

// Whether a token writes. What is masked may be NaN.
fn kept_at(j: u32) -> bool {
    if (SCALAR) {
        return until[j / 4u][j % 4u] != 0.0;
    }
    return writes[j / 4u][j % 4u] != 0.0;
}

// Four channels of a key as they are written. Without weights, decays and maps it is there or not.
fn made(j: u32, d: u32, x: vec4<f16>, by: f32) -> vec4<f16> {
    if (SCALAR || HAS_WRITE || K_MAP != 0u) {
        return vec4<f16>(k_made(j, d, x) * by);
    }
    return x * f16(by);
}
