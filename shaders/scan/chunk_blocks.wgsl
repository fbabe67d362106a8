// How the invocations of `scan/chunks` share a chunk's rows: blocks of four tokens and four channels.

const PASSES: u32 = (CHANNELS4 + 15u) / 16u;
const PASS4: u32 = CHANNELS4 / PASSES;
const WIDE: u32 = PASS4 / 8u;
const BLOCKS: u32 = PASS4 * QUADS;            // of four tokens and channels in a pass
const EACH: u32 = (BLOCKS + WORKGROUP - 1u) / WORKGROUP;
const STRIDE: u32 = PASS4 + 2u;               // padded against bank conflicts
const STEPS: u32 = (PASS4 / N4 + 3u) / 4u;    // of up to four matrices along the channels
const STEP: u32 = PASS4 / N4 / STEPS;
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

// Block e of an invocation in a pass: the last one again where there are fewer.
fn block_of(lane: u32, e: u32) -> u32 {
    return min(lane + e * WORKGROUP, BLOCKS - 1u);
}

fn is_own(lane: u32, e: u32) -> bool {
    return (BLOCKS % WORKGROUP == 0u) | (lane + e * WORKGROUP < BLOCKS);
}

// Shares of the sums of squares of rows of k, then of q, by quads of tokens: eight neighbouring invocations have a share of the same quad.
var<workgroup> lengths: array<vec4<f32>, 2u * WIDE * QUADS>;

fn share_lengths(n: u32, at: u32, of_k: vec4<f32>, of_q: vec4<f32>) {
    var y = of_k + subgroupShuffleXor(of_k, 1u);
    var x = of_q + subgroupShuffleXor(of_q, 1u);
    y += subgroupShuffleXor(y, 2u);
    x += subgroupShuffleXor(x, 2u);
    y += subgroupShuffleXor(y, 4u);
    x += subgroupShuffleXor(x, 4u);
    if (n % 8u == 0u) {
        lengths[at] = y;
        lengths[WIDE * QUADS + at] = x;
    }
}

fn lengths_of(at: u32) -> vec4<f32> {
    var sum = vec4<f32>();
    for (var n = 0u; n < WIDE; n++) { // unroll
        sum += lengths[n * QUADS + at];
    }
    return sum;
}

// After a barrier: the factors of four rows.
fn k_factors(quad: u32) -> vec4<f32> {
    if (!K_NORM) {
        return vec4<f32>(1.0);
    }
    let s = lengths_of(quad);
    return vec4<f32>(norm_factor(s.x, args.k_eps, args.k_factor), norm_factor(s.y, args.k_eps, args.k_factor),
        norm_factor(s.z, args.k_eps, args.k_factor), norm_factor(s.w, args.k_eps, args.k_factor));
}

fn q_factors(quad: u32) -> vec4<f32> {
    if (!Q_NORM) {
        return vec4<f32>(1.0);
    }
    let s = lengths_of(WIDE * QUADS + quad);
    return vec4<f32>(norm_factor(s.x, args.q_eps, args.q_factor), norm_factor(s.y, args.q_eps, args.q_factor),
        norm_factor(s.z, args.q_eps, args.q_factor), norm_factor(s.w, args.q_eps, args.q_factor));
}
