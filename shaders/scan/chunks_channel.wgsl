// Records of chunks with a decay a channel, by cooperative matrices of N x N: f16 factors, f32 sums.
//
// One workgroup: one chunk of one (batch, head). A subgroup has CHANNELS channels; an invocation has OWN tokens in a row of four of them, in
// registers from the first load to the record.
// Let b be the highest bit in which two tokens i > j differ: j lies in an even block of b tokens, i in the odd one after it. The decay from j
// to i is that from j to the end of its block times that over i's block up to i, both at most 1: for all pairs with one b the sum over the
// channels is one product of 16 x 16 matrices, of the tokens with the bit and of those without it. Between two of these levels a query takes
// in the even block before its own, a key the odd block after its own, as products of decays: one exp a token and channel, no quotient, and after
// the last level they are what the record holds. Of a product, only blocks on the diagonal are pairs of its level. Levels 0 (neighbours)
// and the diagonal are sums in f32 by lanes.
// Barriers: 5, and one a level in a subgroup. Workgroup memory at 128 channels: 19.8 KiB.
// With scan/chunk_token, attend/matrix_N.

const LANES: u32 = WORKGROUP / SUBGROUPS;
const N4: u32 = N / 4u;
const MATRIX: u32 = N * N4;             // vec4 of a matrix
const TILES: u32 = 32u / N;             // matrices along the tokens of a chunk
const HALF: u32 = 16u / N;              // and along half of them
// Depth of a subgroup in matrices: a quarter of it all, or what gives an invocation 4 tokens at least. Channels past the last are zeros.
const SHARE: u32 = (DEPTH_TILES + SUBGROUPS - 1u) / SUBGROUPS;
const LEAST: u32 = (LANES + 2u * N - 1u) / (2u * N);
const DEPTH_EACH: u32 = SHARE * ((LEAST + SHARE - 1u) / SHARE);
const CHANNELS: u32 = DEPTH_EACH * N;
const PADDED: u32 = DEPTH_TILES * N;
const GROUPS: u32 = CHANNELS / 4u;      // invocations beside each other
const OWN: u32 = 32u * GROUPS / LANES;  // tokens of an invocation
const OWN4: u32 = OWN / 4u;
const LEVELS: u32 = 5u;
const STRIDE: u32 = GROUPS + 2u;        // padded row of a tile, in vec4, against bank conflicts
const TILE: u32 = 32u * STRIDE;
const SUM: u32 = 64u;                   // vec4 of the products of a level
const BUFFERS: u32 = 2u;
const QUADS: u32 = 256u / WORKGROUP + (WORKGROUP / 256u - WORKGROUP / 512u) / 2u; // four pairs each, of an invocation
const COPIES: u32 = CHANNELS * 8u / LANES;

var<workgroup> tile: array<vec4<f16>, SUBGROUPS * TILE>;        // tokens with a level's bit, then those without; last keys, turned
var<workgroup> products: array<vec4<f32>, BUFFERS * SUBGROUPS * SUM>;
var<workgroup> near: array<f32, SUBGROUPS * 48u>;               // [32] of the diagonal, [16] of neighbours
var<workgroup> sums: array<f32, 288>;                           // of four pairs, in padded rows of 8

// The place of a token among the 16 that have, or lack, the bit of a level.
fn place(i: u32, level: u32) -> u32 {
    return ((i >> (level + 1u)) << level) | (i & ((1u << level) - 1u));
}

fn over_channels(x: f32) -> f32 {
    var sum = x + subgroupShuffleXor(x, 1u);
    if (GROUPS > 2u) {
        sum += subgroupShuffleXor(sum, 2u);
    }
    if (GROUPS > 4u) {
        sum += subgroupShuffleXor(sum, 4u);
    }
    if (GROUPS > 8u) {
        sum += subgroupShuffleXor(sum, 8u);
    }
    return sum;
}

fn over_subgroups(at: u32) -> vec4<f32> {
    var sum = products[at];
    for (var s = 1u; s < SUBGROUPS; s++) { // unroll
        sum += products[at + s * SUM];
    }
    return sum;
}

fn near_sum(at: u32) -> f32 {
    var sum = near[at];
    for (var s = 1u; s < SUBGROUPS; s++) { // unroll
        sum += near[at + s * 48u];
    }
    return sum;
}

// Rows and vec4 of columns of the chunk's pairs, in the order of the record.
fn pair_row(p: u32) -> u32 {
    return p / (TILES * MATRIX) * N + p / N4 % N;
}

fn pair_column(p: u32) -> u32 {
    return p / MATRIX % TILES * N4 + p % N4;
}

// The pairs (i, 4 c ..) of a level.
fn far_pairs(level: u32, i: u32, c: u32) -> vec4<f32> {
    let x = over_subgroups((level % BUFFERS) * SUBGROUPS * SUM + place(i, level) * 4u + place(c * 4u, level) / 4u);
    return select(x, select(x, x.zwxy, (c & 1u) != 0u), level == 1u);
}

// Two pairs come from level 1; neighbours and the diagonal are sums of their own.
fn near_pairs(i: u32, x: vec4<f32>) -> vec4<f32> {
    let own = near_sum(i);
    let next = near_sum(32u + i / 2u);
    let r = i % 4u;
    let y = vec4<f32>(select(x.x, next, r == 1u), x.y, select(own, next, r == 3u), own);
    return select(y, vec4<f32>(own), vec4<bool>(r == 0u, r == 1u, r == 2u, true));
}

fn kernel(group: u32, lane: u32) {
    let t = chunk_of(group);
    let sub = lane / LANES;
    let l = lane % LANES;
    let first = l / GROUPS * OWN;        // of the chunk's tokens
    let d = sub * CHANNELS + l % GROUPS * 4u;

    var q_in = array<q_raw, OWN>();
    var k_in = array<k_raw, OWN>();
    var g_in = array<g_raw, OWN>();
    var live = array<bool, OWN>();
    var factor = array<f32, OWN>();
    for (var m = 0u; m < OWN; m++) { // unroll
        let token = min(t.first + first + m, args.tokens - 1u);
        q_in[m] = q_raw4(q_row(t, token), d, args.depth);
        k_in[m] = k_raw4(k_row(t, token), d, args.depth);
        g_in[m] = g_raw4(g_row(t, token), d, args.depth);
        live[m] = true;
        factor[m] = 1.0;
        if (HAS_KEEP) {
            live[m] = keep(At(t.batch, t.head, token, 0, 0));
        }
        if (HAS_WRITE && DELTA == 0u) {
            factor[m] = w(At(t.batch, t.head, token, 0, 0));
        }
    }
    var q = array<vec4<f32>, OWN>();
    var k = array<vec4<f32>, OWN>();
    var decay = array<vec4<f32>, OWN>(); // of the block that begins with a token
    let inside = d < args.depth;
    for (var m = 0u; m < OWN; m++) { // unroll
        let here = inside & (t.first + first + m < args.tokens);
        let kept = here & live[m];
        q[m] = select(vec4<f32>(), q_real(q_in[m]), here);
        k[m] = select(vec4<f32>(), k_real(k_in[m]) * factor[m], kept);
        decay[m] = select(vec4<f32>(1.0), exp(max(g_real(g_in[m]), vec4<f32>(FASTEST))), kept);
    }

    for (var m = 0u; m < OWN; m++) { // unroll
        let x = over_channels(dot(q[m], k[m]));
        if (l % GROUPS == 0u) {
            near[sub * 48u + first + m] = x;
        }
        q[m] *= decay[m];
    }
    for (var m = 0u; m < OWN / 2u; m++) { // unroll
        let x = over_channels(dot(q[m * 2u + 1u], k[m * 2u]));
        if (l % GROUPS == 0u) {
            near[sub * 48u + 32u + first / 2u + m] = x;
        }
        q[m * 2u + 1u] *= decay[m * 2u];
        k[m * 2u] *= decay[m * 2u + 1u];
        decay[m * 2u] *= decay[m * 2u + 1u];
    }

    var pairs = array<vec4<f32>, QUADS>();
    let base = sub * TILE;
    for (var level = 1u; level < LEVELS; level++) { // unroll
        let b = 1u << level;
        for (var m = 0u; m < OWN; m++) { // unroll
            let odd = (select(first, m, b < OWN) & b) != 0u;
            let row = place(first + m, level) + select(16u, 0u, odd);
            tile[base + row * STRIDE + l % GROUPS] = vec4<f16>(select(k[m], q[m], odd));
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
        let to = ((level % BUFFERS) * SUBGROUPS + sub) * SUM;
        for (var i = 0u; i < HALF; i++) { // unroll
            for (var j = 0u; j < HALF; j++) { // unroll
                coopStoreT(sum[i * HALF + j], &products[to + i * N * 4u + j * N4], 4u);
            }
        }
        // Blocks twice as long.
        if (b < OWN) {
            for (var m = 0u; m < OWN; m++) { // unroll
                let begin = m / (2u * b) * (2u * b);
                if ((m & b) != 0u) {
                    q[m] *= decay[begin];
                } else {
                    k[m] *= decay[min(begin + b, OWN - 1u)];
                }
            }
            for (var m = 0u; m < OWN; m++) { // unroll
                if (m % (2u * b) == 0u) {
                    decay[m] *= decay[min(m + b, OWN - 1u)];
                }
            }
        } else {
            let other = subgroupShuffleXor(decay[0], GROUPS * (b / OWN));
            let odd = (first & b) != 0u;
            for (var m = 0u; m < OWN; m++) { // unroll
                q[m] *= select(vec4<f32>(1.0), other, odd);
                k[m] *= select(other, vec4<f32>(1.0), odd);
            }
            decay[0] *= other;
        }
        workgroupBarrier();
        for (var n = 0u; n < QUADS; n++) { // unroll
            let p = min(lane + n * WORKGROUP, 255u);
            let i = pair_row(p);
            let c = pair_column(p);
            let mine = select(firstLeadingBit(i ^ (c * 4u)), 1u, i / 4u == c) == level;
            pairs[n] = select(pairs[n], far_pairs(level, i, c), mine);
        }
        if (BUFFERS == 1u) {
            workgroupBarrier();
        }
    }

    let at = record_at(t);
    let mark = marks_at(t);
    for (var n = 0u; n < QUADS; n++) { // unroll
        let p = min(lane + n * WORKGROUP, 255u);
        let i = pair_row(p);
        let c = pair_column(p);
        let x = select(pairs[n], near_pairs(i, pairs[n]), i / 4u == c) * args.scale;
        let y = vec4<f16>(select(vec4<f32>(), x, vec4<u32>(0u, 1u, 2u, 3u) + c * 4u <= vec4<u32>(i)));
        chunks_data[at + 16u * PADDED + p] = y;
        sums[i * 9u + c] = dot(vec4<f32>(y), vec4<f32>(1.0));
    }
    var total = vec4<f32>();
    for (var m = 0u; m < OWN; m++) { // unroll
        let i = first + m;
        if (d < PADDED) {
            let to = (i / N * DEPTH_TILES + d / N) * MATRIX + i % N * N4 + d / 4u % N4;
            chunks_data[at + to] = vec4<f16>(q[m] * args.scale);
        }
        total += vec4<f32>(vec4<f16>(k[m]));
    }
    for (var m = 0u; m < OWN4; m++) { // unroll
        for (var x = 0u; x < 4u; x++) { // unroll
            let row = l % GROUPS * 4u + x;
            let token4 = first / 4u + m;
            let u = (row / N * TILES + token4 / N4) * MATRIX + row % N * N4 + token4 % N4;
            tile[base + u + u / 16u] = vec4<f16>(vec4<f32>(k[m * 4u][x], k[m * 4u + 1u][x], k[m * 4u + 2u][x], k[m * 4u + 3u][x]));
        }
    }
    for (var b = 1u; b < LANES / GROUPS; b += b) {
        total += subgroupShuffleXor(total, GROUPS * b);
    }
    if (first == 0u) {
        marks_store4(mark, d, PADDED, decay[0]);
        marks_store4(mark + PADDED, d, PADDED, total);
    }
    workgroupBarrier();
    for (var m = 0u; m < COPIES; m++) { // unroll
        let u = l + m * LANES;
        if (sub * CHANNELS * 8u + u < PADDED * 8u) {
            chunks_data[at + 8u * PADDED + sub * CHANNELS * 8u + u] = tile[base + u + u / 16u];
        }
    }
    for (var i = lane; i < 32u; i += WORKGROUP) {
        var sum = 0.0;
        for (var c = 0u; c < 8u; c++) { // unroll
            sum += sums[i * 9u + c];
        }
        marks_store(mark + 2u * PADDED + i, sum);
    }
}
