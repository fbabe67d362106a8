// What `scan/matrix` and `scan/delta` share: the state of a workgroup's columns, the chunks' records, tiles in workgroup memory.
//
// A subgroup owns DEPTH_EACH rows of matrices of the state, for all columns: f32 in registers, a vec4 of a row a lane and matrix, and as halves
// in workgroup memory for the products of all. The halves are scaled by a power of two so that the largest of all rows fills them; it is found
// when the rows change, for the chunk that comes, so that the barrier there serves it too.

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
// Rows padded against bank conflicts, in vec4; the last row of a tile needs no padding.
const PAD: u32 = 2u;
const STRIDE: u32 = COLUMNS + PAD;
const PATCH: u32 = MATRIX;
const V_PARTS: u32 = CHUNK * COLUMNS;
const V_EACH: u32 = (V_PARTS + WORKGROUP - 1u) / WORKGROUP;
const V_TILE: u32 = CHUNK * STRIDE - PAD;
// Of a chunk's marks: decays and, for z, sums of keys and of rows of A.
const MARKS4: u32 = (CHANNELS + select(0u, CHANNELS + CHUNK, HAS_Z)) / 4u;
const MARKS_EACH: u32 = (MARKS4 + WORKGROUP - 1u) / WORKGROUP;

var<workgroup> state_tile: array<vec4<f16>, CHANNELS * STRIDE - PAD>;
// Values and marks of a chunk and of the next one.
var<workgroup> v_tile: array<vec4<f16>, 2u * V_TILE>;
var<workgroup> marks_tile: array<vec4<f32>, 2u * MARKS4>;
var<workgroup> patches: array<vec4<f32>, SUBGROUPS * SLOTS * PATCH>;      // matrices on their way to the lanes
var<workgroup> tops: array<i32, SUBGROUPS>;                               // the largest size of a subgroup's rows

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

// What is staged of a chunk. It is loaded and stored in one stretch without a branch or the end of a loop's turn between: a driver moves loads
// over those, down to their use.
struct Staged {
    values: array<vec4<f16>, V_EACH>,
    marks: array<vec4<f32>, MARKS_EACH>,
}

fn staged(t: Tile, first: u32, mark: u32, lane: u32) -> Staged {
    var s = Staged();
    for (var m = 0u; m < V_EACH; m++) { // unroll
        let p = min(lane + m * WORKGROUP, V_PARTS - 1u);
        s.values[m] = v_quad(v_row(t, min(first + p / COLUMNS, args.tokens - 1u)), min(t.column + p % COLUMNS * 4u, args.width - 4u));
    }
    for (var m = 0u; m < MARKS_EACH; m++) { // unroll
        s.marks[m] = marks_raw4(mark, (lane + m * WORKGROUP) * 4u, MARKS4 * 4u);
    }
    return s;
}

// To one of the two tiles. What lies past the end, or is masked and may be NaN, is put right here.
fn stage(t: Tile, first: u32, which: u32, lane: u32, s: Staged) {
    for (var m = 0u; m < V_EACH; m++) { // unroll
        let p = min(lane + m * WORKGROUP, V_PARTS - 1u);
        let there = kept(t, first + p / COLUMNS) & (t.column + p % COLUMNS * 4u < args.width);
        v_tile[which * V_TILE + p / COLUMNS * STRIDE + p % COLUMNS] = select(vec4<f16>(), s.values[m], there);
    }
    for (var m = 0u; m < MARKS_EACH; m++) { // unroll
        marks_tile[which * MARKS4 + min(lane + m * WORKGROUP, MARKS4 - 1u)] = s.marks[m];
    }
}

fn mark_of(which: u32, i: u32) -> f32 {
    return marks_tile[which * MARKS4 + i / 4u][i % 4u];
}

// The largest size of a subgroup's rows, as bits, which are ordered as the numbers are. What is not finite is negative here: a scale for it
// would leave the other columns nothing. By exchanges: the maximum of a subgroup was a call to a driver, around which all registers moved.
fn top_of(x: array<vec4<f32>, OWNED * EACH>) -> i32 {
    var most = vec4<i32>();
    for (var i = 0u; i < OWNED * EACH; i++) { // unroll
        most = max(most, bitcast<vec4<i32>>((bitcast<vec4<u32>>(x[i]) & vec4<u32>(0x7fffffffu)) + vec4<u32>(0x00800000u)));
    }
    var top = max(max(most.x, most.y), max(most.z, most.w));
    top = max(top, subgroupShuffleXor(top, 1u));
    top = max(top, subgroupShuffleXor(top, 2u));
    if (LANES > 4u) {
        top = max(top, subgroupShuffleXor(top, 4u));
    }
    if (LANES > 8u) {
        top = max(top, subgroupShuffleXor(top, 8u));
    }
    if (LANES > 16u) {
        top = max(top, subgroupShuffleXor(top, 16u));
    }
    if (LANES > 32u) {
        top = max(top, subgroupShuffleXor(top, 32u));
    }
    return top;
}

// The power of two that brings the largest number of all rows to [1024, 2048). Products that it scales stay within f32.
fn power_of_tops() -> i32 {
    var top = 0;
    for (var i = 0u; i < SUBGROUPS; i++) { // unroll
        top = max(top, tops[i]);
    }
    return clamp(138 - (top >> 23u), -50, 50);
}

fn two_to(power: i32) -> f32 {
    return bitcast<f32>(u32(power + 127) << 23u);
}
