// Workgroup memory of `scan/delta`, its loads, and the scale of the state.

const TILES: u32 = CHUNK / N;
const N4: u32 = N / 4u;
const LANES: u32 = WORKGROUP / SUBGROUPS;
const DEPTH4: u32 = DEPTH_TILES * N / 4u;
const KEY_JOBS: u32 = TILES * COLUMN_TILES;
const JOBS: u32 = 2u * KEY_JOBS / SUBGROUPS;              // products with the state a subgroup: of keys, then of queries
const STATE_EACH: u32 = DEPTH_TILES * COLUMN_TILES / SUBGROUPS;
// Rows padded against bank conflicts, in vec4.
const K_STRIDE: u32 = DEPTH4 + 2u;
const P_STRIDE: u32 = CHUNK / 4u + 2u;
const W_STRIDE: u32 = COLUMNS + 2u;
const PATCH_STRIDE: u32 = N4 + 1u;
const PATCH: u32 = N * PATCH_STRIDE;
const K_PARTS: u32 = CHUNK * DEPTH4;
const K_EACH: u32 = (K_PARTS + WORKGROUP - 1u) / WORKGROUP;
const P_PARTS: u32 = 2u * CHUNK * CHUNK / 4u;
const P_EACH: u32 = (P_PARTS + WORKGROUP - 1u) / WORKGROUP;
const PATCH_PARTS: u32 = N * N4;
const PATCH_EACH: u32 = (PATCH_PARTS + LANES - 1u) / LANES;

var<workgroup> rows: array<vec4<f16>, 2u * CHUNK * K_STRIDE>;         // keys, then queries
var<workgroup> pair_tile: array<vec4<f16>, 2u * CHUNK * P_STRIDE>;    // T, then A
var<workgroup> state_tile: array<vec4<f16>, DEPTH_TILES * N * W_STRIDE>;
var<workgroup> left: array<vec4<f16>, CHUNK * W_STRIDE>;              // R
var<workgroup> news: array<vec4<f16>, CHUNK * W_STRIDE>;              // U
var<workgroup> lasting: array<vec4<f16>, CHUNK * W_STRIDE>;           // U decayed to the chunk's end
var<workgroup> patches: array<vec4<f32>, SUBGROUPS * PATCHES * PATCH>;
var<workgroup> until: array<f32, 2u * CHUNK>;                         // G, of this chunk and the next
var<workgroup> largest: array<f32, SUBGROUPS>;

// Loads have no branches, so that all of a chunk's are in flight at once; what lies past the end is put right when it is staged.
fn token_at(first: u32, n: u32) -> u32 {
    return min(first + n, args.tokens - 1u);
}

fn key_part(t: Tile, first: u32, n: u32) -> k_raw {
    let part = min(n, K_PARTS - 1u);
    return k_raw4(k_row(t, token_at(first, part / DEPTH4)), part % DEPTH4 * 4u, args.depth);
}

fn query_part(t: Tile, first: u32, n: u32) -> q_raw {
    let part = min(n, K_PARTS - 1u);
    return q_raw4(q_row(t, token_at(first, part / DEPTH4)), part % DEPTH4 * 4u, args.depth);
}

fn pair_part(t: Tile, first: u32, n: u32) -> vec4<f32> {
    let part = min(n, P_PARTS - 1u);
    return pairs_raw4(pairs_row(t.batch, t.head, min(first + part / 16u, args.rows - 1u)), part % 16u * 4u, ROW);
}

fn value_part(t: Tile, first: u32, job: u32, n: u32) -> v_raw {
    let p = min(n, PATCH_PARTS - 1u);
    let i = job % KEY_JOBS / COLUMN_TILES * N + p / N4;
    return v_raw4(v_row(t, token_at(first, i)), t.column + (job % COLUMN_TILES * N4 + p % N4) * 4u, args.width);
}

fn gate_part(t: Tile, first: u32, lane: u32) -> f32 {
    return pairs_raw4(pairs_row(t.batch, t.head, min(first + lane % CHUNK, args.rows - 1u)), 2u * CHUNK, ROW).x;
}

// A power of two that brings the largest of the state's numbers to [1024, 2048).
fn scale_of() -> f32 {
    var top = 0.0;
    for (var n = 0u; n < SUBGROUPS; n++) { // unroll
        top = max(top, largest[n]);
    }
    // The exponent's bits; those of 0 and of what is not finite are kept within the range.
    let exponent = i32((bitcast<u32>(top) >> 23u) & 0xffu) - 127;
    return exp2(f32(clamp(10 - exponent, -100, 100)));
}
