// The workgroup memory of `scan/chunk`, the state's way in and out, and the steps on it alone.
//
// Loops of a few turns are written out: not every driver does it, and a loop that is left waits for each of its reads.

const CHUNK: u32 = 16u;
const SLAB: u32 = 8u;               // vec4 of depth staged at once
const STRIDE: u32 = 9u;             // padded row of SLAB vec4, against bank conflicts
const KEY_STRIDE: u32 = 33u;
const PARTS: u32 = min(16u / COLUMNS, 8u); // shares of a read's sum

var<workgroup> state: array<vec4<f32>, DEPTH * COLUMNS>;
var<workgroup> queries: array<vec4<f32>, 144>;        // [CHUNK, STRIDE]; after the slabs partial sums of all threads
var<workgroup> keys: array<f32, 528>;                 // [CHUNK, KEY_STRIDE], decayed to the chunk's end; after the slabs the pairs
var<workgroup> values: array<vec4<f32>, CHUNK * COLUMNS>;
var<workgroup> factors: array<vec4<f32>, FACTORS>;    // [CHUNK, SLAB] channel decay; later its first row: the product of all tokens
var<workgroup> norm: array<f32, NORM>;                // z
var<workgroup> divisors: array<f32, 64>;              // [CHUNK, 4] parts of the divisors
var<workgroup> gate: array<vec4<f32>, 4>;             // scalar log decay of the tokens
var<workgroup> enter: array<f32, CHUNK>;              // scalar decay from the state before the chunk to a row's read
var<workgroup> leave: array<f32, CHUNK>;              // scalar decay from after a token to the chunk's end
var<workgroup> whole: f32;                            // scalar decay over the chunk, less one
var<workgroup> totals: array<f32, TOTALS>;            // product of the segment's decays, by channel or the one

// A key on its way through the rows of a chunk with channel decay, and the decay of the state on that way; two vec4 of depth each.
struct Way {
    key0: vec4<f32>,      // decayed up to the row; 0 before row j
    key1: vec4<f32>,
    enter0: vec4<f32>,    // decay up to the read of row j
    enter1: vec4<f32>,
    all0: vec4<f32>,
    all1: vec4<f32>,
}

fn advance(way: Way, i: u32, j: u32, part: u32, k0: vec4<f32>, k1: vec4<f32>) -> Way {
    var next = way;
    let f0 = factors[i * SLAB + part];
    let f1 = factors[i * SLAB + part + 4u];
    next.key0 = select(way.key0 * f0, k0, i == j);
    next.key1 = select(way.key1 * f1, k1, i == j);
    next.all0 = way.all0 * f0;
    next.all1 = way.all1 * f1;
    let enters = i < j || (i == j && !READ_BEFORE);
    next.enter0 = select(way.enter0, next.all0, enters);
    next.enter1 = select(way.enter1, next.all1, enters);
    return next;
}

// Scalar log decay of the tokens first <= l < end. A sum of its own for each pair: a difference of two long sums has their error.
fn decay_between(first: u32, end: u32) -> f32 {
    let l = vec4<u32>(0u, 1u, 2u, 3u);
    let from4 = vec4<u32>(first);
    let end4 = vec4<u32>(end);
    let none = vec4<f32>();
    let a = select(none, gate[0], (l >= from4) & (l < end4));
    let b = select(none, gate[1], (l + 4u >= from4) & (l + 4u < end4));
    let c = select(none, gate[2], (l + 8u >= from4) & (l + 8u < end4));
    let d = select(none, gate[3], (l + 12u >= from4) & (l + 12u < end4));
    return dot((a + b) + (c + d), vec4<f32>(1.0));
}

// One past the last token whose decay row i's read sees.
fn read_end(i: u32) -> u32 {
    return select(i + 1u, i, READ_BEFORE);
}

fn writes_at(n: u32) -> bool {
    return n < args.key_chunks;
}

fn reads_at(n: u32) -> bool {
    return !SUMS && (!BIDIRECTIONAL || !writes_at(n));
}

// First token of chunk n, of the keys or of the queries.
fn first_of(n: u32) -> u32 {
    return (n - select(args.key_chunks, 0u, writes_at(n))) * CHUNK;
}

fn norm4(d: u32) -> vec4<f32> {
    return vec4<f32>(norm[d], norm[d + 1u], norm[d + 2u], norm[d + 3u]);
}

fn keep_key(at: u32, x: vec4<f32>) {
    keys[at] = x.x;
    keys[at + 1u] = x.y;
    keys[at + 2u] = x.z;
    keys[at + 3u] = x.w;
}

fn load_state(t: Tile, lane: u32) {
    for (var n = lane; n < DEPTH * COLUMNS; n += WORKGROUP) {
        let d = n / COLUMNS;
        var x = vec4<f32>();
        if (d < args.depth) {
            x = state_before(t, d, t.column + (n % COLUMNS) * 4u);
        }
        state[n] = x;
    }
    if (SUMS && (CHANNEL || SCALAR)) {
        for (var d = lane; d < TOTALS; d += WORKGROUP) {
            totals[d] = 1.0;
        }
    }
    if (HAS_Z) {
        for (var d = lane; d < DEPTH; d += WORKGROUP) {
            var x = 0.0;
            if (d < args.depth) {
                x = z_before(t, d);
            }
            norm[d] = x;
        }
    }
}

fn store_state(t: Tile, lane: u32) {
    if (!ends(t)) {
        return;
    }
    if (SUMS && t.column == 0u && (CHANNEL || SCALAR)) {
        for (var d = lane; d < min(TOTALS, args.depth); d += WORKGROUP) {
            total_store(total_row(t) + d, totals[d]);
        }
    }
    for (var n = lane; n < args.depth * COLUMNS; n += WORKGROUP) {
        state_store4(new_row(t, n / COLUMNS), t.column + (n % COLUMNS) * 4u, args.width, state[n]);
    }
    if (HAS_Z && t.column == 0u) {
        for (var d = lane * 4u; d < args.depth; d += WORKGROUP * 4u) {
            z_store4(z_row(t), d, args.depth, norm4(d));
        }
    }
}

// Rows of the state from depth on: decayed over the chunk, and the chunk's keys and values added.
fn add_chunk(lane: u32, depth: u32) {
    for (var n = lane; n < SLAB * 4u * COLUMNS; n += WORKGROUP) {
        let d = n / COLUMNS;
        let column = n % COLUMNS;
        var x = state[depth * COLUMNS + n];
        var z = 0.0;
        let has_z = HAS_Z && column == 0u;
        if (has_z) {
            z = norm[depth + d];
        }
        if (SCALAR) {
            x += whole * x;
            z += whole * z;
        }
        if (CHANNEL) {
            let factor = factors[d / 4u][d % 4u];
            x *= factor;
            z *= factor;
            if (SUMS && column == 0u) {
                totals[depth + d] *= factor;
            }
        }
        for (var j = 0u; j < CHUNK; j += 8u) {
            let k = j * KEY_STRIDE + d;
            let v = j * COLUMNS + column;
            let k0 = keys[k];
            let k1 = keys[k + KEY_STRIDE];
            let k2 = keys[k + 2u * KEY_STRIDE];
            let k3 = keys[k + 3u * KEY_STRIDE];
            let k4 = keys[k + 4u * KEY_STRIDE];
            let k5 = keys[k + 5u * KEY_STRIDE];
            let k6 = keys[k + 6u * KEY_STRIDE];
            let k7 = keys[k + 7u * KEY_STRIDE];
            x += k0 * values[v];
            x += k1 * values[v + COLUMNS];
            x += k2 * values[v + 2u * COLUMNS];
            x += k3 * values[v + 3u * COLUMNS];
            x += k4 * values[v + 4u * COLUMNS];
            x += k5 * values[v + 5u * COLUMNS];
            x += k6 * values[v + 6u * COLUMNS];
            x += k7 * values[v + 7u * COLUMNS];
            z += ((k0 + k1) + (k2 + k3)) + ((k4 + k5) + (k6 + k7));
        }
        state[depth * COLUMNS + n] = x;
        if (has_z) {
            norm[depth + d] = z;
        }
    }
}

// Sums four rows' pairs, rows r .. r + 4 of each block, over the parts of the depth into keys[i, j]; what a row does not see is 0.
fn gather_pairs(lane: u32, r: u32, p: vec4<f32>) {
    queries[lane] = p;
    workgroupBarrier();
    let j = (lane / 4u) % CHUNK;
    let quad = lane & ~3u;
    let e = lane % 4u;
    let i = (lane / 64u) * 8u + r + e;
    var x = (queries[quad][e] + queries[quad + 1u][e]) + (queries[quad + 2u][e] + queries[quad + 3u][e]);
    if (SCALAR) {
        x *= exp(decay_between(j + 1u, read_end(i)));
    }
    keys[i * KEY_STRIDE + j] = select(0.0, x, j <= i);
    workgroupBarrier();
}

// A later token's NaN or Inf must not reach the row: 0 * NaN is NaN.
fn weighted(x: f32, value: vec4<f32>) -> vec4<f32> {
    return select(x * value, vec4<f32>(), x == 0.0);
}

// The chunk's own values under the pairs of one row, a share of the keys.
fn read_pairs(row: u32, share: u32, column: u32) -> vec4<f32> {
    var sum = vec4<f32>();
    for (var n = 0u; n < CHUNK / PARTS; n += 2u) {
        let j = share * (CHUNK / PARTS) + n;
        let k = row * KEY_STRIDE + j;
        sum += weighted(keys[k], values[j * COLUMNS + column]) + weighted(keys[k + 1u], values[(j + 1u) * COLUMNS + column]);
    }
    return sum;
}

struct Reads {
    low: vec4<f32>,     // of row
    high: vec4<f32>,    // of row + 8
}

// A share of the reads of two rows from the state's rows from depth on.
fn read_state(before: Reads, row: u32, share: u32, column: u32, depth: u32) -> Reads {
    var sums = before;
    for (var n = 0u; n < SLAB / PARTS; n++) {
        let c = share * (SLAB / PARTS) + n;
        let at = (depth + c * 4u) * COLUMNS + column;
        let a = queries[row * STRIDE + c];
        let b = queries[(row + 8u) * STRIDE + c];
        let s0 = state[at];
        let s1 = state[at + COLUMNS];
        let s2 = state[at + 2u * COLUMNS];
        let s3 = state[at + 3u * COLUMNS];
        sums.low += (a.x * s0 + a.y * s1) + (a.z * s2 + a.w * s3);
        sums.high += (b.x * s0 + b.y * s1) + (b.z * s2 + b.w * s3);
    }
    return sums;
}
