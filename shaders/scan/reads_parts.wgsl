// Constants, tiles, loads and weights of `scan/reads`.

const ROWS: u32 = ROW_TILES * N;                          // of a subgroup
const TILE_Q: u32 = ROWS * SUBGROUPS;
const PARTS: u32 = SEGMENT / TILE_Q;                      // workgroups of a segment
const SHARE: u32 = LANES / ROWS;
const OWN4: u32 = N4 / SHARE;
// Rows padded against bank conflicts, in vec4 of halves (staged operands, weights) and of floats (scores).
const STRIDE: u32 = WIDEST4 + 2u;
const S_STRIDE: u32 = N4 + S_PAD;
const P_STRIDE: u32 = N4 + 1u;
const STAGED: u32 = 2u * KEY_TILES * N;                   // rows
const STEP: u32 = KEY_TILES * N;                          // keys, and as many values
const ROUNDS: u32 = TILE_Q / STAGED;
const ROUND_LOADS: u32 = STAGED * CHANNELS4 / WORKGROUP;
const Q_LOADS: u32 = ROUNDS * ROUND_LOADS;
const OWNERS: u32 = 2u * KEY_TILES / ROW_TILES;           // subgroups that own the rows of a round
const S_ROUNDS: u32 = DEPTH_TILES / S_TILES;
const S_PARTS: u32 = S_TILES * N * COLUMNS4;
const S_LOADS: u32 = (S_PARTS + WORKGROUP - 1u) / WORKGROUP;
const SCALED: u32 = S_LOADS;
const K_PARTS: u32 = STEP * CHANNELS4;
const V_PARTS: u32 = STEP * COLUMNS4;
const K_LOADS: u32 = (K_PARTS + WORKGROUP - 1u) / WORKGROUP;
const V_LOADS: u32 = (V_PARTS + WORKGROUP - 1u) / WORKGROUP;
const SHARES: u32 = (CHANNELS4 + LANES - 1u) / LANES;     // subgroups that a staged row lies in

// Rows of queries or of the state; or keys, then values.
var<workgroup> tile: array<vec4<f16>, STAGED * STRIDE>;
var<workgroup> s_tile: array<vec4<f32>, TILE_Q * S_STRIDE>;
var<workgroup> p_tile: array<vec4<f16>, TILE_Q * P_STRIDE>;
var<workgroup> tops: array<i32, 2u * SUBGROUPS>;          // the largest number of a subgroup's part of a tile, by tiles in turn
var<workgroup> divisors: array<f32, DIVISORS>;            // q·z of a row in shares, then the row's divisor

// Four columns of the state at the segment's start, whose rows and columns are padded to whole matrices.
fn state_part(t: Tile, d: u32, n: u32) -> vec4<f32> {
    let p = min(n, S_PARTS - 1u);
    return state_in_raw_at((old_row(t, d + p / COLUMNS4) + t.column + p % COLUMNS4 * 4u) >> 2u);
}

// Queries of round r, as they are.
fn query_part(t: Tile, first: u32, r: u32, n: u32) -> vec4<f16> {
    let row = min(first + r * STAGED + n / CHANNELS4, args.tokens - 1u);
    return q_quad(q_row(t, row), min(n % CHANNELS4 * 4u, args.depth - 4u));
}

// Four channels of query `row` of these, made of what was loaded.
fn query_made(first: u32, row: u32, d: u32, x: vec4<f16>) -> vec4<f16> {
    return select(vec4<f16>(), q_half(first + row, d, x, 1.0), (d < args.depth) & (first + row < args.tokens));
}

// `first` is the step's first token in the segment. What is masked may be NaN.
fn key_store(t: Tile, first: u32, n: u32, x: vec4<f16>) {
    let p = min(n, K_PARTS - 1u);
    let j = first + p / CHANNELS4;
    let d = p % CHANNELS4 * 4u;
    let there = (writes[j / 4u][j % 4u] != 0.0) & (d < args.depth);
    tile[p / CHANNELS4 * STRIDE + p % CHANNELS4] = select(vec4<f16>(), k_half(t.segment * SEGMENT + j, d, x, 1.0), there);
}

fn value_store(t: Tile, first: u32, n: u32, x: vec4<f16>) {
    let p = min(n, V_PARTS - 1u);
    let j = first + p / COLUMNS4;
    let there = (writes[j / 4u][j % 4u] != 0.0) & (t.column + p % COLUMNS4 * 4u < args.width);
    tile[(STEP + p / COLUMNS4) * STRIDE + p % COLUMNS4] = select(vec4<f16>(), x, there);
}

// Four channels of a query as it meets the state at the segment's start.
fn decayed(x: vec4<f16>, i: u32) -> vec4<f16> {
    if (!SCALAR) {
        return x;
    }
    return vec4<f16>(vec4<f32>(x) * exp2(until[i / 4u][i % 4u]));
}

// Four neighbouring scores of row i of the segment.
fn weighed(raw: vec4<f32>, i: u32, own: f32, quad: u32) -> vec4<f32> {
    let seen = vec4<u32>(0u, 1u, 2u, 3u) + quad * 4u <= vec4<u32>(i);
    var x = raw * args.scale;
    if (SCALAR) {
        x *= exp2(select(vec4<f32>(), vec4<f32>(own) - until[quad], seen));
    }
    if (HAS_WRITE) {
        x *= writes[quad];
    }
    return select(vec4<f32>(), x, seen);
}

// The power of two for a tile of the state.
fn power_of_tops(which: u32) -> i32 {
    var top = 0;
    for (var n = 0u; n < SUBGROUPS; n++) { // unroll
        top = max(top, tops[which * SUBGROUPS + n]);
    }
    return power_of(top);
}

fn z4(t: Tile, d: u32) -> vec4<f32> {
    var z = vec4<f32>();
    for (var e = 0u; e < 4u; e++) { // unroll
        z[e] = z_in(At(t.batch, place(t, args.parts_in), 0u, 0, i32(min(d + e, args.depth - 1u))));
    }
    return z;
}

// The products of a staged row with z: a subgroup has all of a row, a share, or several rows.
fn share_divisor(row: u32, lane: u32, by: f32) {
    var sum = by;
    for (var d = 1u; d < min(LANES, CHANNELS4); d *= 2u) {
        sum += subgroupShuffleXor(sum, d);
    }
    if (lane % min(LANES, CHANNELS4) == 0u) {
        divisors[row * SHARES + lane % CHANNELS4 / LANES] = sum;
    }
}

fn divisor_of(row: u32) -> f32 {
    var sum = 0.0;
    for (var n = 0u; n < SHARES; n++) { // unroll
        sum += divisors[row * SHARES + n];
    }
    return sum;
}

fn row_sum(own: f32) -> f32 {
    var sum = own;
    for (var d = 1u; d < SHARE; d *= 2u) {
        sum += subgroupShuffleXor(sum, d);
    }
    return sum;
}
