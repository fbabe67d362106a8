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
