// What `scan/chunks` and `scan/chunks_channel` share: the places of a record's matrices, their writers, and T from the products of keys.
//
// Tokens go by quads (four neighbours), channels by vec4. Workgroup memory: 6 KiB.
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

// Rows 4 quad .. of column c of (I + N)^-1. It lies along row c, above the diagonal, where N has nothing.
fn solved4(c: u32, quad: u32) -> vec4<f32> {
    let i = vec4<u32>(0u, 1u, 2u, 3u) + quad * 4u;
    let x = select(vec4<f32>(), pairs[c * PAIR_STRIDE + quad], i > vec4<u32>(c));
    return select(x, vec4<f32>(1.0), i == vec4<u32>(c));
}

// Column c of (I + N)^-1 by forward substitution, eight rows at a time. An invocation reads N of all rows and of the inverse its own column;
// all that it writes lies above the diagonal: no barrier between.
fn solve(c: u32) {
    for (var b = 0u; b < QUADS; b += 2u) {
        let at = b * 4u * PAIR_STRIDE;
        var x = vec4<f32>();
        var y = vec4<f32>();
        for (var l = 0u; l < b; l++) {
            let s = solved4(c, l);
            let n = at + l;
            x -= vec4<f32>(dot(pairs[n], s), dot(pairs[n + PAIR_STRIDE], s), dot(pairs[n + 2u * PAIR_STRIDE], s), dot(pairs[n + 3u * PAIR_STRIDE], s));
            let m = n + 4u * PAIR_STRIDE;
            y -= vec4<f32>(dot(pairs[m], s), dot(pairs[m + PAIR_STRIDE], s), dot(pairs[m + 2u * PAIR_STRIDE], s), dot(pairs[m + 3u * PAIR_STRIDE], s));
        }
        let i = vec4<u32>(0u, 1u, 2u, 3u) + b * 4u;
        x += select(vec4<f32>(), vec4<f32>(1.0), i == vec4<u32>(c));
        y += select(vec4<f32>(), vec4<f32>(1.0), i + 4u == vec4<u32>(c));
        x = triangle(at + b, x);
        let m = at + 4u * PAIR_STRIDE + b;
        y -= vec4<f32>(dot(pairs[m], x), dot(pairs[m + PAIR_STRIDE], x), dot(pairs[m + 2u * PAIR_STRIDE], x), dot(pairs[m + 3u * PAIR_STRIDE], x));
        y = triangle(m + 1u, y);
        // One by one: the rest of a vec4 may be N, which others read.
        for (var e = 0u; e < 4u; e++) { // unroll
            if (b * 4u + e > c) {
                pairs[c * PAIR_STRIDE + b][e] = x[e];
            }
            if (b * 4u + 4u + e > c) {
                pairs[c * PAIR_STRIDE + b + 1u][e] = y[e];
            }
        }
    }
}

// Four rows of the diagonal, whose first row of N is at `at`.
fn triangle(at: u32, x: vec4<f32>) -> vec4<f32> {
    let y = x.y - pairs[at + PAIR_STRIDE].x * x.x;
    let z = x.z - dot(pairs[at + 2u * PAIR_STRIDE].xy, vec2<f32>(x.x, y));
    let w = x.w - dot(pairs[at + 3u * PAIR_STRIDE].xyz, vec3<f32>(x.x, y, z));
    return vec4<f32>(x.x, y, z, w);
}

// T of all rows; after a barrier.
fn solved_store(record: u32, lane: u32) {
    for (var n = lane; n < SQUARE; n += WORKGROUP) {
        let i = n / MATRIX / TILES * N + n % MATRIX / N4;
        let quad = n / MATRIX % TILES * N4 + n % N4;
        var x = vec4<f32>();
        for (var e = 0u; e < 4u; e++) { // unroll
            let j = quad * 4u + e;
            x[e] = select(0.0, pairs[j * PAIR_STRIDE + i / 4u][i % 4u], i > j);
            x[e] = select(x[e], 1.0, i == j);
        }
        chunks_data[record + SOLVED_AT + n] = vec4<f16>(x * writes[quad]);
    }
}
