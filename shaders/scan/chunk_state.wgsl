// What `scan/matrix` and `scan/delta` share: the state of a workgroup's columns, the chunks' records, tiles in workgroup memory.
//
// A subgroup owns DEPTH_EACH rows of matrices of the state, for all columns: f32 in registers, a vec4 of a row a lane and matrix, and as halves
// in workgroup memory for the products of all. Its halves are scaled by a power of two so that the largest fills them.

const CHUNK: u32 = 32u;
const TILES: u32 = CHUNK / N;
const N4: u32 = N / 4u;
const MATRIX: u32 = N * N4;                                   // vec4 of a matrix
const LANES: u32 = WORKGROUP / SUBGROUPS;
const CHANNELS: u32 = DEPTH_TILES * N;
const DEPTH_EACH: u32 = DEPTH_TILES / SUBGROUPS;
const EACH: u32 = (MATRIX + LANES - 1u) / LANES;              // vec4 of a matrix a lane
const OWNED: u32 = DEPTH_EACH * COLUMN_TILES;
// Where the parts of a record begin, in vec4.
const TALL: u32 = CHUNK * CHANNELS / 4u;
const SQUARE: u32 = CHUNK * CHUNK / 4u;
const KEYS_AT: u32 = TALL;
const SEEN_AT: u32 = 2u * TALL;
const HELD_AT: u32 = 2u * TALL + SQUARE;
const SOLVED_AT: u32 = 3u * TALL + SQUARE;
// Rows padded against bank conflicts, in vec4.
const STRIDE: u32 = COLUMNS + 2u;
const PATCH_STRIDE: u32 = N4 + 1u;
const PATCH: u32 = N * PATCH_STRIDE;
const V_PARTS: u32 = CHUNK * COLUMNS;
const V_EACH: u32 = (V_PARTS + WORKGROUP - 1u) / WORKGROUP;

var<workgroup> state_tile: array<vec4<f16>, CHANNELS * STRIDE>;
var<workgroup> v_tile: array<vec4<f16>, CHUNK * STRIDE>;
var<workgroup> patches: array<vec4<f32>, SUBGROUPS * SLOTS * PATCH>;      // matrices on their way to the lanes
var<workgroup> scales: array<i32, SUBGROUPS>;                             // the powers

// Chunk n of the head, where the segment ends the last one again: loads have no branches.
fn record(t: Tile, n: u32) -> u32 {
    return (args.chunks_offset + t.batch * args.chunks_s0 + t.head * args.chunks_s1 + min(n, args.records - 1u) * args.chunks_s2) >> 2u;
}

fn marks(t: Tile, n: u32) -> u32 {
    return args.marks_offset + t.batch * args.marks_s0 + t.head * args.marks_s1 + min(n, args.records - 1u) * args.marks_s2;
}

// Keys of the chunk, their tokens along the rows: what they write to rows d of matrices of the state.
fn keys(start: u32, d: u32, j: u32) -> MatA {
    return coopLoadT<MatA>(&chunks_data[start + KEYS_AT + (d * TILES + j) * MATRIX], N4);
}

fn part(e: u32, l: u32) -> u32 {
    return min(e * LANES + l, MATRIX - 1u);
}

// Row of the state that a lane's vec4 e of its matrix n lies in, and its column in the values.
fn state_row(sub: u32, n: u32, e: u32, l: u32) -> u32 {
    return (sub * DEPTH_EACH + n / COLUMN_TILES) * N + part(e, l) / N4;
}

fn state_column(t: Tile, n: u32, e: u32, l: u32) -> u32 {
    return t.column + (n % COLUMN_TILES * N4 + part(e, l) % N4) * 4u;
}

fn v_part(t: Tile, first: u32, n: u32) -> vec4<f16> {
    let p = min(n, V_PARTS - 1u);
    return v_quad(v_row(t, min(first + p / COLUMNS, args.tokens - 1u)), min(t.column + p % COLUMNS * 4u, args.width - 4u));
}

// What lies past the end, or is masked and may be NaN, is put right when it is used.
fn v_real_part(t: Tile, first: u32, n: u32, x: vec4<f16>) -> vec4<f16> {
    let there = kept(t, first + n / COLUMNS) && t.column + n % COLUMNS * 4u < args.width;
    return select(vec4<f16>(), x, there);
}

// Sizes as bits, which are ordered as the numbers are. What is not finite has none: it would leave the other columns nothing.
fn sizes(x: vec4<f32>) -> vec4<u32> {
    let bits = bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu);
    return select(bits, vec4<u32>(), bits >= vec4<u32>(0x7f800000u));
}

// The power of two that brings a subgroup's largest number to [1024, 2048), from the largest sizes of each lane. Ratios of two of them, and
// products that they scale, stay within f32.
fn power_of(most: vec4<u32>) -> i32 {
    let top = subgroupMax(max(max(most.x, most.y), max(most.z, most.w)));
    return clamp(137 - i32((top >> 23u) & 0xffu), -50, 50);
}

fn two_to(power: i32) -> f32 {
    return bitcast<f32>(u32(power + 127) << 23u);
}
