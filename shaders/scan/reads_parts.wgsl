// Constants, tiles, loads and weights of `scan/reads`.

const ROWS: u32 = ROW_TILES * N;                          // of a subgroup
const TILE_Q: u32 = ROWS * SUBGROUPS;
const PARTS: u32 = SEGMENT / TILE_Q;                      // workgroups of a segment
const QUADS: u32 = ROWS * N4 / LANES;                     // vec4 of an invocation, of the rows of a subgroup and N columns
// In vec4; those of halves padded against bank conflicts.
const STRIDE: u32 = WIDEST4 + 2u;
const S_STRIDE: u32 = N4;
const P_STRIDE: u32 = N4 + 1u;
const STEP: u32 = KEY_TILES * N;                          // keys, and as many values
const STAGED: u32 = 2u * STEP;                                      // rows
const Q_LOADS: u32 = DEPTH_TILES * QUADS;
const S_ROUNDS: u32 = DEPTH_TILES / S_TILES;
const S_PARTS: u32 = S_TILES * N * COLUMNS4;
const S_LOADS: u32 = (S_PARTS + WORKGROUP - 1u) / WORKGROUP;
const SCALED: u32 = S_LOADS;
const K_PARTS: u32 = STEP * CHANNELS4;
const V_PARTS: u32 = STEP * COLUMNS4;
const K_LOADS: u32 = (K_PARTS + WORKGROUP - 1u) / WORKGROUP;
const V_LOADS: u32 = (V_PARTS + WORKGROUP - 1u) / WORKGROUP;

// Rows of the state; or keys, then values.
var<workgroup> tile: array<vec4<f16>, STAGED * STRIDE>;
var<workgroup> s_tile: array<vec4<f32>, TILE_Q * S_STRIDE>;
var<workgroup> p_tile: array<vec4<f16>, TILE_Q * P_STRIDE>;       // weights; queries on their way to matrices
var<workgroup> tops: array<i32, 2u * SUBGROUPS>;          // the largest number of a subgroup's part of a tile, by tiles in turn

fn begin(t: Tile) -> u32 {
    return t.segment * SEGMENT;
}

// The n-th vec4 of an invocation lies in this row of its subgroup's; all of them in vec4 column l % N4.
fn row_of(l: u32, n: u32) -> u32 {
    return (n * LANES + l) / N4;
}

fn s_place(local: u32, l: u32, n: u32) -> u32 {
    return (local + row_of(l, n)) * S_STRIDE + l % N4;
}

fn p_place(local: u32, l: u32, n: u32) -> u32 {
    return (local + row_of(l, n)) * P_STRIDE + l % N4;
}

// Where the states of this segment and of its span's first one are.
fn own_place(t: Tile) -> u32 {
    return place(t, args.parts_in);
}

fn first_place(t: Tile) -> u32 {
    return own_place(t) - t.segment % args.span;
}

// The decay from the span's start to the segment's.
fn since_first(t: Tile) -> f32 {
    if (!SCALAR || SPANS == 0u || t.segment % args.span == 0u) {
        return 1.0;
    }
    return total_load(args.total_offset + t.batch * args.total_s0 + own_place(t) * args.total_s1);
}

// Four columns of the state at the segment's start, whose rows and columns are padded to whole matrices.
fn state_part(t: Tile, decay: f32, d: u32, n: u32) -> vec4<f32> {
    let p = min(n, S_PARTS - 1u);
    let row = d + p / COLUMNS4;
    let at = args.state_in_offset + t.batch * args.state_in_s0 + row * args.state_in_s2 + t.column + p % COLUMNS4 * 4u;
    var x = state_in_raw_at((at + first_place(t) * args.state_in_s1) >> 2u);
    if (SPANS != 0u) {
        let more = state_in_raw_at((at + own_place(t) * args.state_in_s1) >> 2u);
        x = decay * x + select(more, vec4<f32>(), t.segment % args.span == 0u);
    }
    // Rows past the depth are keys of 0 times values, which may not be finite.
    return select(vec4<f32>(), x * args.scale, row < args.depth);
}

// The same as halves, to its place.
fn state_store_half(n: u32, x: vec4<f32>, power: i32) {
    let p = min(n, S_PARTS - 1u);
    tile[p / COLUMNS4 * STRIDE + p % COLUMNS4] = vec4<f16>(x * two_to(power));
}

fn put_top(lane: u32, round: u32, top: i32) {
    if (lane % LANES == 0u) {
        tops[round % 2u * SUBGROUPS + lane / LANES] = top;
    }
}

// The power of two for a tile of the state.
fn power_of_tops(which: u32) -> i32 {
    var top = 0;
    for (var n = 0u; n < SUBGROUPS; n++) { // unroll
        top = max(top, tops[which * SUBGROUPS + n]);
    }
    return power_of(top);
}

// The m-th vec4 of this invocation's parts of queries, as it is.
fn query_part(t: Tile, first_row: u32, l: u32, m: u32) -> vec4<f16> {
    let d = (m / QUADS * N4 + l % N4) * 4u;
    let i = begin(t) + first_row + row_of(l, m % QUADS);
    return q_quad(q_row(t, min(i, args.tokens - 1u)), min(d, args.depth - 4u));
}

// Four channels of a query, made of what was loaded.
fn query_made(first_row: u32, l: u32, c: u32, n: u32, x: vec4<f16>) -> vec4<f16> {
    let d = (c * N4 + l % N4) * 4u;
    return select(vec4<f16>(), q_half(first_row + row_of(l, n), d, x, 1.0), d < args.depth);
}

// The decay up to a row, as a power of two.
fn until_at(i: u32) -> f32 {
    return select(0.0, until[i / 4u][i % 4u], SCALAR);
}

// Channels of a query as they meet the state at the segment's start.
fn decayed(first_row: u32, l: u32, n: u32, x: vec4<f16>) -> vec4<f16> {
    if (!SCALAR) {
        return x;
    }
    return vec4<f16>(vec4<f32>(x) * exp2(until_at(first_row + row_of(l, n))));
}

// What they add to the row's divisor by the state.
fn divisor_part(t: Tile, decay: f32, first_row: u32, l: u32, c: u32, n: u32, x: vec4<f16>) -> f32 {
    if (DIVIDE == 0u) {
        return 0.0;
    }
    var z = vec4<f32>();
    for (var e = 0u; e < 4u; e++) { // unroll
        let d = min((c * N4 + l % N4) * 4u + e, args.depth - 1u);
        z[e] = z_in(At(t.batch, first_place(t), 0u, 0, i32(d)));
        if (SPANS != 0u && t.segment % args.span != 0u) {
            z[e] = decay * z[e] + z_in(At(t.batch, own_place(t), 0u, 0, i32(d)));
        }
    }
    return dot(vec4<f32>(x), z) * exp2(until_at(first_row + row_of(l, n))) * args.scale;
}

// Keys and values from `first` of the segment on; past the end the last ones again.
fn key_load(t: Tile, first: u32, n: u32) -> vec4<f16> {
    let p = min(n, K_PARTS - 1u);
    let j = min(begin(t) + first + p / CHANNELS4, args.tokens - 1u);
    return k_quad(k_row(t, j), min(p % CHANNELS4 * 4u, args.depth - 4u));
}

fn value_load(t: Tile, first: u32, n: u32) -> vec4<f16> {
    let p = min(n, V_PARTS - 1u);
    let j = min(begin(t) + first + p / COLUMNS4, args.tokens - 1u);
    return v_quad(v_row(t, j), min(t.column + p % COLUMNS4 * 4u, args.width - 4u));
}

// Whether a token is kept. What is masked may be NaN; what lies past the end is a copy of the last token, masked later.
fn kept_at(j: u32) -> bool {
    return !HAS_KEEP | (writes[min(j, SEGMENT - 1u) / 4u][j % 4u] != 0.0);
}

// Channels past the depth meet queries of 0.
fn key_store(first: u32, n: u32, x: vec4<f16>) {
    let p = min(n, K_PARTS - 1u);
    let j = first + p / CHANNELS4;
    tile[p / CHANNELS4 * STRIDE + p % CHANNELS4] = select(vec4<f16>(), k_half(j, p % CHANNELS4 * 4u, x, 1.0), kept_at(j));
}

fn value_store(first: u32, n: u32, x: vec4<f16>) {
    let p = min(n, V_PARTS - 1u);
    tile[(STEP + p / COLUMNS4) * STRIDE + p % COLUMNS4] = select(vec4<f16>(), x, kept_at(first + p / COLUMNS4));
}

// Four neighbouring scores, of keys from `first` on; `whole`: all of these rows see all of these keys.
fn weighed(raw: vec4<f32>, first_row: u32, l: u32, n: u32, first: u32, whole: bool) -> vec4<f32> {
    let i = first_row + row_of(l, n);
    let quad = first / 4u + l % N4;
    var x = raw * args.scale;
    if (SCALAR) {
        x *= exp2(min(vec4<f32>(until_at(i)) - until[quad], vec4<f32>()));
    }
    if (HAS_WRITE) {
        x *= writes[quad];
    }
    if (whole) {
        return x;
    }
    return select(vec4<f32>(), x, vec4<u32>(0u, 1u, 2u, 3u) + quad * 4u <= vec4<u32>(i));
}

// Over the N4 invocations of a row.
fn row_sum(own: f32) -> f32 {
    if (DIVIDE == 0u) {
        return 0.0;
    }
    var sum = own;
    for (var d = 1u; d < N4; d *= 2u) {
        sum += subgroupShuffleXor(sum, d);
    }
    return sum;
}

fn put_outputs(t: Tile, c: u32, n: u32, first_row: u32, l: u32, y: vec4<f32>) {
    let i = begin(t) + first_row + row_of(l, n);
    if (i < args.tokens) {
        out_store4(out_row(t, i), t.column + c * N + l % N4 * 4u, args.width, y);
    }
}
