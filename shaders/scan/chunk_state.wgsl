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
const SCALED: u32 = OWNED * EACH;
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
// Of a chunk's marks, MARKS4 vec4: decays and, for z, sums of keys and of rows of A.
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

// The power of two for all rows of the state.
fn power_of_tops() -> i32 {
    var top = 0;
    for (var i = 0u; i < SUBGROUPS; i++) { // unroll
        top = max(top, tops[i]);
    }
    return power_of(top);
}
