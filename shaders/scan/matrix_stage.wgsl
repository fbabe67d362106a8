// What the matrix forms of the scan share: tiles of a chunk's keys and values as halves, and how a subgroup's matrices lie.
//
// A subgroup owns all rows and COLUMN_TILES * N columns of the state, so that only the chunk's tokens pass between subgroups.

const CHUNK: u32 = 32u;
const TILES: u32 = CHUNK / N;
const N4: u32 = N / 4u;
const LANES: u32 = WORKGROUP / SUBGROUPS;
const DEPTH4: u32 = DEPTH_TILES * N / 4u;
// Rows padded against bank conflicts, in vec4.
const K_STRIDE: u32 = DEPTH4 + 2u;
const V_STRIDE: u32 = COLUMNS + 2u;
const PATCH_STRIDE: u32 = N4 + 1u;
const K_PARTS: u32 = CHUNK * DEPTH4;
const V_PARTS: u32 = CHUNK * COLUMNS;
const K_EACH: u32 = (K_PARTS + WORKGROUP - 1u) / WORKGROUP;
const V_EACH: u32 = (V_PARTS + WORKGROUP - 1u) / WORKGROUP;
const PATCH_PARTS: u32 = N * N4;                              // vec4 of a matrix
const PATCH_EACH: u32 = (PATCH_PARTS + LANES - 1u) / LANES;
const STATE_PARTS: u32 = DEPTH_TILES * COLUMN_TILES * PATCH_EACH;
// e^-120 is 0 in f32, and sums of such decays stay exact enough.
const FASTEST: f32 = -120.0;

var<workgroup> k_tile: array<vec4<f16>, CHUNK * K_STRIDE>;
var<workgroup> v_tile: array<vec4<f16>, CHUNK * V_STRIDE>;
var<workgroup> norm: array<f32, NORM>;                        // z

// Loads have no branches, so that all of a chunk's are in flight at once; what lies past the end is put right when it is staged.
fn k_part(t: Tile, first: u32, n: u32) -> vec4<f16> {
    let part = min(n, K_PARTS - 1u);
    return k_quad(k_row(t, min(first + part / DEPTH4, args.tokens - 1u)), min(part % DEPTH4 * 4u, args.depth - 4u));
}

fn v_part(t: Tile, first: u32, n: u32) -> vec4<f16> {
    let part = min(n, V_PARTS - 1u);
    return v_quad(v_row(t, min(first + part / COLUMNS, args.tokens - 1u)), min(t.column + part % COLUMNS * 4u, args.width - 4u));
}

// Part n of a chunk's keys, times its write weight and `factor`.
fn stage_key(t: Tile, first: u32, n: u32, x: vec4<f16>, factor: f32) {
    let j = n / DEPTH4;
    let there = kept(t, first + j) && n % DEPTH4 * 4u < args.depth;
    var y = x;
    if (HAS_WRITE || (SUMS && SCALAR)) {
        var by = factor;
        if (HAS_WRITE && there) {
            by *= w(At(t.batch, t.head, first + j, 0, 0));
        }
        y = vec4<f16>(vec4<f32>(x) * by);
    }
    if (n < K_PARTS) {
        k_tile[j * K_STRIDE + n % DEPTH4] = select(vec4<f16>(), y, there);
    }
}

fn stage_value(t: Tile, first: u32, n: u32, x: vec4<f16>) {
    let there = kept(t, first + n / COLUMNS) && t.column + n % COLUMNS * 4u < args.width;
    if (n < V_PARTS) {
        v_tile[n / COLUMNS * V_STRIDE + n % COLUMNS] = select(vec4<f16>(), x, there);
    }
}

// Log decay of a token of the segment.
fn gate_of(t: Tile, j: u32) -> f32 {
    // Read at a token that is there: lanes must not part ways before a product of matrices.
    let g = g_scalar(At(t.batch, t.head, min(j, args.tokens - 1u), 0, 0));
    return select(0.0, max(g, FASTEST), kept(t, j));
}

// One past the last token of the segment.
fn end_of(t: Tile) -> u32 {
    return min((t.segment + 1u) * args.segment_tokens, args.tokens);
}
