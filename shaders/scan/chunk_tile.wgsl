// The workgroup memory of `scan/chunk`, the state's way in and out, and the steps on it alone.

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
var<workgroup> norm_part: array<f32, 64>;             // [CHUNK, 4] q·z
var<workgroup> gate: array<f32, CHUNK>;               // scalar log decay
var<workgroup> enter: array<f32, CHUNK>;              // scalar decay from the state before the chunk to a row's read
var<workgroup> leave: array<f32, CHUNK>;              // scalar decay from after a token to the chunk's end
var<workgroup> divisor: array<f32, CHUNK>;
var<workgroup> whole: f32;                            // scalar decay over the chunk, less one

// A key on its way through the rows of a chunk with channel decay, and the decay of the state on that way; two vec4 of depth each.
struct Way {
    key0: vec4<f32>,      // decayed up to the row; 0 before row j
    key1: vec4<f32>,
    enter0: vec4<f32>,    // decay up to the read of row j
    enter1: vec4<f32>,
    all0: vec4<f32>,
    all1: vec4<f32>,
}

fn advance(way: ptr<function, Way>, i: u32, j: u32, part: u32, k0: vec4<f32>, k1: vec4<f32>) {
    let f0 = factors[i * SLAB + part];
    let f1 = factors[i * SLAB + part + 4u];
    (*way).key0 = select((*way).key0 * f0, k0, i == j);
    (*way).key1 = select((*way).key1 * f1, k1, i == j);
    (*way).all0 *= f0;
    (*way).all1 *= f1;
    if (i < j || (i == j && !READ_BEFORE)) {
        (*way).enter0 = (*way).all0;
        (*way).enter1 = (*way).all1;
    }
}

// Scalar log decay of the tokens first <= l < end. A sum of its own for each pair: a difference of two long sums has their error.
fn decay_between(first: u32, end: u32) -> f32 {
    var sum = 0.0;
    for (var l = 0u; l < CHUNK; l++) {
        sum += select(0.0, gate[l], l >= first && l < end);
    }
    return sum;
}

// One past the last token whose decay row i's read sees.
fn read_end(i: u32) -> u32 {
    return select(i + 1u, i, READ_BEFORE);
}

fn norm4(d: u32) -> vec4<f32> {
    return vec4<f32>(norm[d], norm[d + 1u], norm[d + 2u], norm[d + 3u]);
}

fn keep_key(j: u32, d: u32, x: vec4<f32>) {
    for (var e = 0u; e < 4u; e++) {
        keys[j * KEY_STRIDE + d + e] = x[e];
    }
}

fn load_state(t: Tile, lane: u32) {
    for (var n = lane; n < DEPTH * COLUMNS; n += WORKGROUP) {
        let d = n / COLUMNS;
        var x = vec4<f32>();
        if (d < args.depth) {
            x = state_in_load4(old_row(t, d), t.column + (n % COLUMNS) * 4u, args.width);
        }
        state[n] = x;
    }
    if (HAS_Z) {
        for (var d = lane; d < DEPTH; d += WORKGROUP) {
            var x = 0.0;
            if (d < args.depth) {
                x = z_in(At(t.batch, t.head, 0u, 0, i32(d)));
            }
            norm[d] = x;
        }
    }
}

fn store_state(t: Tile, lane: u32) {
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
            x *= factors[d / 4u][d % 4u];
            z *= factors[d / 4u][d % 4u];
        }
        for (var j = 0u; j < CHUNK; j++) {
            let k = keys[j * KEY_STRIDE + d];
            x += k * values[j * COLUMNS + column];
            z += k;
        }
        state[depth * COLUMNS + n] = x;
        if (has_z) {
            norm[depth + d] = z;
        }
    }
}

// Sums the pairs of all parts of the depth into keys[i, j]; what a row does not see is 0.
fn gather_pairs(lane: u32, p: ptr<function, array<f32, 8>>) {
    let j = (lane / 4u) % CHUNK;
    let quad = lane & ~3u;
    for (var r = 0u; r < 8u; r += 4u) {
        queries[lane] = vec4<f32>((*p)[r], (*p)[r + 1u], (*p)[r + 2u], (*p)[r + 3u]);
        workgroupBarrier();
        let e = lane % 4u;
        let i = (lane / 64u) * 8u + r + e;
        var x = queries[quad][e] + queries[quad + 1u][e] + queries[quad + 2u][e] + queries[quad + 3u][e];
        if (SCALAR) {
            x *= exp(decay_between(j + 1u, read_end(i)));
        }
        keys[i * KEY_STRIDE + j] = select(0.0, x, j <= i);
        workgroupBarrier();
    }
}

// Divisors of the rows: q·z of the state before the chunk, and the pairs.
fn sum_divisors(lane: u32) {
    if (lane < CHUNK) {
        var sum = 0.0;
        for (var n = 0u; n < 4u; n++) {
            sum += norm_part[lane * 4u + n];
        }
        if (!BIDIRECTIONAL) {
            for (var j = 0u; j < CHUNK; j++) {
                sum += keys[lane * KEY_STRIDE + j];
            }
        }
        divisor[lane] = sum;
    }
}

// The chunk's own values under the pairs of one row, keys j and up to j + CHUNK / PARTS.
fn read_pairs(row: u32, share: u32, column: u32) -> vec4<f32> {
    var sum = vec4<f32>();
    for (var n = 0u; n < CHUNK / PARTS; n++) {
        let j = share * (CHUNK / PARTS) + n;
        let x = keys[row * KEY_STRIDE + j];
        // A later token's NaN or Inf must not reach the row: 0 * NaN is NaN.
        sum += select(x * values[j * COLUMNS + column], vec4<f32>(), x == 0.0);
    }
    return sum;
}

// Part of the reads of rows row and row + 8 from the state's rows from depth on.
fn read_state(row: u32, share: u32, column: u32, depth: u32) -> array<vec4<f32>, 2> {
    var sums: array<vec4<f32>, 2>;
    for (var n = 0u; n < SLAB / PARTS; n++) {
        let c = share * (SLAB / PARTS) + n;
        let at = (depth + c * 4u) * COLUMNS + column;
        let a = queries[row * STRIDE + c];
        let b = queries[(row + 8u) * STRIDE + c];
        for (var e = 0u; e < 4u; e++) {
            let s = state[at + e * COLUMNS];
            sums[0] += a[e] * s;
            sums[1] += b[e] * s;
        }
    }
    return sums;
}
