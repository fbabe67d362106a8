// What `scan/chunks` and `scan/chunks_channel` share: the places of a record's matrices, their writers, and T from N in `pairs`.
//
// T = (I + N)^-1 diag(w) in f32: blocks of 16 rows by substitution, a column an invocation of the first 32 (`solve_block`); a barrier;
// `solve_corner`; a barrier; `solved_store`. Tokens go by quads (four neighbours), channels by vec4. Workgroup memory: 6 KiB.
// With scan/chunk_token, attend/matrix_N.

const TILES: u32 = CHUNK / N;
const N4: u32 = N / 4u;
const MATRIX: u32 = N * N4;                   // vec4 of a matrix
const LANES: u32 = WORKGROUP / SUBGROUPS;
const CHANNELS4: u32 = DEPTH_TILES * N4;
const QUADS: u32 = CHUNK / 4u;
// Where the parts of a record begin, in vec4.
const TALL: u32 = CHUNK * CHANNELS4;
const SQUARE: u32 = CHUNK * QUADS;
const KEYS_AT: u32 = TALL;
const SEEN_AT: u32 = 2u * TALL;
const HELD_AT: u32 = 2u * TALL + SQUARE;
const SOLVED_AT: u32 = 3u * TALL + SQUARE;
const PAIR_STRIDE: u32 = QUADS + 1u;          // padded against bank conflicts

var<workgroup> pairs: array<vec4<f32>, CHUNK * PAIR_STRIDE>;   // sums of keys; products [i][j]; N below the diagonal
var<workgroup> seen_sums: array<f32, SQUARE>;                  // [quad of j][i]
var<workgroup> writes: array<vec4<f32>, QUADS>;                // w, 0 of tokens that are not kept
var<workgroup> present: array<vec4<u32>, QUADS>;               // tokens that are kept

// Row `row`, vec4 `c` of a part that is `across` matrices wide.
fn place(row: u32, c: u32, across: u32) -> u32 {
    return (row / N * across + c / N4) * MATRIX + row % N * N4 + c % N4;
}

// Four channels of K~ of four tokens, which lie along the rows there; their sums stay in `pairs` for `keys_marks`.
fn keys_store(record: u32, c: u32, quad: u32, a: vec4<f16>, b: vec4<f16>, x: vec4<f16>, y: vec4<f16>) {
    for (var e = 0u; e < 4u; e++) { // unroll
        chunks_data[record + KEYS_AT + place(c * 4u + e, quad, TILES)] = vec4<f16>(a[e], b[e], x[e], y[e]);
    }
    pairs[quad * CHANNELS4 + c] = (vec4<f32>(a) + vec4<f32>(b)) + (vec4<f32>(x) + vec4<f32>(y));
}

// After a barrier; a barrier before `pairs` is written.
fn keys_marks(marks: u32, lane: u32) {
    if (lane < CHANNELS4) {
        var sum = vec4<f32>();
        for (var n = 0u; n < QUADS; n++) { // unroll
            sum += pairs[n * CHANNELS4 + lane];
        }
        marks_store4(marks, (CHANNELS4 + lane) * 4u, 2u * CHANNELS4 * 4u, sum);
    }
}

// Four neighbours of A in row i; their sum is for `seen_marks`.
fn seen_store(record: u32, i: u32, quad: u32, x: vec4<f32>) {
    chunks_data[record + SEEN_AT + place(i, quad, TILES)] = vec4<f16>(x);
    seen_sums[quad * CHUNK + i] = (x.x + x.y) + (x.z + x.w);
}

// After a barrier. The last invocations: the first ones solve.
fn seen_marks(marks: u32, lane: u32) {
    if (lane >= WORKGROUP - CHUNK) {
        let i = lane - (WORKGROUP - CHUNK);
        var sum = 0.0;
        for (var n = 0u; n < QUADS; n++) { // unroll
            sum += seen_sums[n * CHUNK + i];
        }
        marks_store(marks + 2u * CHANNELS4 * 4u + i, sum);
    }
}

// Rows 4 quad .. of column c of the inverse of I + N. It lies along row c, above the diagonal, where N has nothing.
fn solved4(c: u32, quad: u32) -> vec4<f32> {
    let i = vec4<u32>(0u, 1u, 2u, 3u) + quad * 4u;
    let x = select(vec4<f32>(), pairs[c * PAIR_STRIDE + quad], i > vec4<u32>(c));
    return select(x, vec4<f32>(1.0), i == vec4<u32>(c));
}

// Column c of the inverse of its block of 16 rows on the diagonal, by forward substitution, eight rows at a time. An invocation reads N of
// the block's rows and of the inverse its own column; all that it writes lies above the diagonal: no barrier between.
fn solve_block(c: u32) {
    let first = c / 16u * 4u;
    for (var b = 0u; b < 4u; b += 2u) {
        let quad = first + b;
        let at = quad * 4u * PAIR_STRIDE;
        let i = vec4<u32>(0u, 1u, 2u, 3u) + quad * 4u;
        var x = select(vec4<f32>(), vec4<f32>(1.0), i == vec4<u32>(c));
        var y = select(vec4<f32>(), vec4<f32>(1.0), i + 4u == vec4<u32>(c));
        if (b == 2u) {
            for (var l = 0u; l < 2u; l++) { // unroll
                let s = solved4(c, first + l);
                x -= rows_by(at + first + l, s);
                y -= rows_by(at + 4u * PAIR_STRIDE + first + l, s);
            }
        }
        x = triangle(at + quad, x);
        let below = at + 4u * PAIR_STRIDE + quad;
        y = triangle(below + 1u, y - rows_by(below, x));
        // One by one: the rest of a vec4 may be N, which others read.
        for (var e = 0u; e < 4u; e++) { // unroll
            if (i[e] > c) {
                pairs[c * PAIR_STRIDE + quad][e] = x[e];
            }
            if (i[e] + 4u > c) {
                pairs[c * PAIR_STRIDE + quad + 1u][e] = y[e];
            }
        }
    }
}

// Four rows of `pairs` at a quad of columns, times a column.
fn rows_by(at: u32, x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
        dot(pairs[at], x),
        dot(pairs[at + PAIR_STRIDE], x),
        dot(pairs[at + 2u * PAIR_STRIDE], x),
        dot(pairs[at + 3u * PAIR_STRIDE], x)
    );
}

// Four rows of the diagonal, whose first row of N is at `at`.
fn triangle(at: u32, x: vec4<f32>) -> vec4<f32> {
    let y = x.y - pairs[at + PAIR_STRIDE].x * x.x;
    let z = x.z - dot(pairs[at + 2u * PAIR_STRIDE].xy, vec2<f32>(x.x, y));
    let w = x.w - dot(pairs[at + 3u * PAIR_STRIDE].xyz, vec3<f32>(x.x, y, z));
    return vec4<f32>(x.x, y, z, w);
}

// N of the later block's rows times the inverse of the earlier one, its columns along rows. After a barrier.
fn solve_corner(lane: u32) {
    for (var n = lane; n < 128u; n += WORKGROUP) {
        let j = n % 16u;
        let i = n / 16u;
        var x = 0.0;
        var y = 0.0;
        for (var l = 0u; l < 4u; l++) { // unroll
            let s = solved4(j, l);
            x += dot(pairs[(16u + i) * PAIR_STRIDE + l], s);
            y += dot(pairs[(24u + i) * PAIR_STRIDE + l], s);
        }
        pairs[j * PAIR_STRIDE + 4u + i / 4u][i % 4u] = x;
        pairs[j * PAIR_STRIDE + 6u + i / 4u][i % 4u] = y;
    }
}

// T. After a barrier.
fn solved_store(record: u32, lane: u32) {
    // The corner is the later block's inverse times the above.
    for (var n = lane; n < 64u; n += WORKGROUP) {
        let i = 16u + n / 4u;
        let quad = n % 4u;
        var x = vec4<f32>();
        for (var l = 4u; l < 8u; l++) { // unroll
            x -= rows_by(quad * 4u * PAIR_STRIDE + l, solved_row4(i, l));
        }
        chunks_data[record + SOLVED_AT + place(i, quad, TILES)] = vec4<f16>(x * writes[quad]);
    }
    for (var n = lane; n < SQUARE; n += WORKGROUP) {
        let i = n / MATRIX / TILES * N + n % MATRIX / N4;
        let quad = n / MATRIX % TILES * N4 + n % N4;
        if (i / 16u <= quad / 4u) {
            chunks_data[record + SOLVED_AT + n] = vec4<f16>(solved_row4(i, quad) * writes[quad]);
        }
    }
}

// Four neighbours of row i of the inverse, within a block.
fn solved_row4(i: u32, quad: u32) -> vec4<f32> {
    let j = vec4<u32>(0u, 1u, 2u, 3u) + quad * 4u;
    let at = quad * 4u * PAIR_STRIDE + i / 4u;
    let c = i % 4u;
    let x = vec4<f32>(pairs[at][c], pairs[at + PAIR_STRIDE][c], pairs[at + 2u * PAIR_STRIDE][c], pairs[at + 3u * PAIR_STRIDE][c]);
    return select(select(vec4<f32>(), x, j < vec4<u32>(i)), vec4<f32>(1.0), j == vec4<u32>(i));
}
