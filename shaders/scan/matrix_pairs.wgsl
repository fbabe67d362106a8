// Workgroup memory of `scan/matrix` and its steps that use no matrices: pairs, divisors, z, the scale of the state.

const S_STRIDE: u32 = CHUNK / 4u + 1u;     // vec4 of floats
const P_STRIDE: u32 = CHUNK / 4u + 2u;     // vec4 of halves
const HALF_STRIDE: u32 = N4 + 2u;
const JOBS: u32 = 2u * TILES * TILES / SUBGROUPS;
const PAIR_EACH: u32 = CHUNK * CHUNK / 4u / WORKGROUP;
const SUM_VECS: u32 = max(2u * CHUNK * S_STRIDE, PATCHES * SUBGROUPS * N * PATCH_STRIDE);

var<workgroup> q_tile: array<vec4<f16>, CHUNK * K_STRIDE>;
var<workgroup> p_tile: array<vec4<f16>, CHUNK * P_STRIDE>;
var<workgroup> sums: array<vec4<f32>, SUM_VECS>;                              // pairs in two shares of the depth; then a matrix a subgroup
var<workgroup> halves: array<vec4<f16>, PATCHES * SUBGROUPS * N * HALF_STRIDE>;     // matrices of the state a subgroup
var<workgroup> largest: array<f32, WORKGROUP>;                            // of each lane's numbers of the state
var<workgroup> gates: array<f32, CHUNK>;       // log decay of the chunk's tokens
var<workgroup> until: array<f32, CHUNK>;       // their sums up to a token
var<workgroup> divisors: array<f32, 8u * CHUNK>;   // q·z of a row in shares

fn q_part(t: Tile, first: u32, n: u32) -> vec4<f16> {
    let part = min(n, K_PARTS - 1u);
    return q_quad(q_row(t, min(first + part / DEPTH4, args.tokens - 1u)), min(part % DEPTH4 * 4u, args.depth - 4u));
}

fn stage_query(n: u32, x: vec4<f16>) {
    if (n < K_PARTS) {
        q_tile[n / DEPTH4 * K_STRIDE + n % DEPTH4] = select(vec4<f16>(), x, n % DEPTH4 * 4u < args.depth);
    }
}

// Pairs of row i with four keys, decayed and masked; their sum and a share of q·z go to the divisor.
fn weigh(part: u32) {
    let i = part / 8u;
    let j = part % 8u * 4u;
    let seen = vec4<u32>(j, j + 1u, j + 2u, j + 3u) <= vec4<u32>(i);
    var x = (sums[i * S_STRIDE + j / 4u] + sums[(CHUNK + i) * S_STRIDE + j / 4u]) * args.scale;
    if (SCALAR) {
        let from4 = vec4<f32>(until[j], until[j + 1u], until[j + 2u], until[j + 3u]);
        x *= exp(select(vec4<f32>(), until[i] - from4, seen));
    }
    x = select(vec4<f32>(), x, seen);
    p_tile[i * P_STRIDE + j / 4u] = vec4<f16>(x);
    if (DIVIDE != 0u) {
        var by = 0.0;
        for (var n = 0u; n < DEPTH4 / 8u; n++) { // unroll
            let d = part % 8u + n * 8u;
            let z = vec4<f32>(norm[d * 4u], norm[d * 4u + 1u], norm[d * 4u + 2u], norm[d * 4u + 3u]);
            by += dot(vec4<f32>(q_tile[i * K_STRIDE + d]), z);
        }
        by *= args.scale;
        if (SCALAR) {
            by *= exp(until[i]);
        }
        divisors[part] = by + dot(x, vec4<f32>(1.0));
    }
}

// z after the chunk, from keys decayed to its end.
fn add_to_z(lane: u32) {
    for (var d = lane; d < DEPTH4 * 4u; d += WORKGROUP) {
        var z = norm[d];
        if (SCALAR) {
            z += less_one(until[CHUNK - 1u]) * z;
        }
        for (var j = 0u; j < CHUNK; j++) { // unroll
            z += f32(k_tile[j * K_STRIDE + d / 4u][d % 4u]);
        }
        norm[d] = z;
    }
}

// A power of two that brings the largest of a subgroup's numbers to [1024, 2048).
fn scale_of(sub: u32) -> f32 {
    var top = 0.0;
    for (var n = 0u; n < LANES; n++) { // unroll
        top = max(top, largest[sub * LANES + n]);
    }
    // The exponent's bits; those of 0 and of what is not finite are kept within the range.
    let exponent = i32((bitcast<u32>(top) >> 23u) & 0xffu) - 127;
    return exp2(f32(clamp(10 - exponent, -100, 100)));
}
