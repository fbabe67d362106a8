// What each segment's tokens add to a state of zeros, by cooperative matrices of N x N: f16 factors, f32 sums.
//
// One workgroup: one segment of one (batch, head) and 4 COLUMNS value columns. Chunks run backwards, so that a key's decay to the
// segment's end is known when it is staged, and the sums never need a rescale: the whole segment is one product K^T V.
// Threads: stage keys and values; a subgroup multiplies all rows by its columns. Barriers a chunk: 3.
// Workgroup memory: 64 (D + 8) + 64 (4 COLUMNS + 8) + 4 SUBGROUPS N (N + 4) + 256 bytes, + 4 D with z.

var<workgroup> patches: array<vec4<f32>, SUBGROUPS * N * PATCH_STRIDE>;
var<workgroup> gates: array<f32, CHUNK>;      // log decay of the chunk's tokens
var<workgroup> leave: array<f32, CHUNK>;      // decay from after a token to the segment's end

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group);
    let sub = lane / LANES;
    let l = lane % LANES;
    let begin = t.segment * args.segment_tokens;
    let chunks = (end_of(t) - begin + CHUNK - 1u) / CHUNK;
    var acc: array<MatC, DEPTH_TILES * COLUMN_TILES>;
    var tail = 0.0;     // log decay of the chunks behind

    var ks = array<vec4<f16>, K_EACH>();
    var vs = array<vec4<f16>, V_EACH>();
    var g = 0.0;
    var first = begin + max(chunks, 1u) * CHUNK - CHUNK;
    for (var m = 0u; m < K_EACH; m++) { // unroll
        ks[m] = k_part(t, first, lane + m * WORKGROUP);
    }
    for (var m = 0u; m < V_EACH; m++) { // unroll
        vs[m] = v_part(t, first, lane + m * WORKGROUP);
    }
    if (SCALAR && lane < CHUNK) {
        g = gate_of(t, first + lane);
    }
    for (var n = 0u; n < chunks; n++) {
        if (SCALAR) {
            if (lane < CHUNK) {
                gates[lane] = g;
            }
            workgroupBarrier();
            var all = 0.0;
            var after = 0.0;
            for (var j = 0u; j < CHUNK; j++) { // unroll
                let x = gates[j];
                all += x;
                after += select(0.0, x, j > lane);
            }
            if (lane < CHUNK) {
                leave[lane] = exp(tail + after);
            }
            tail += all;
        }
        workgroupBarrier();
        for (var m = 0u; m < K_EACH; m++) { // unroll
            let p = lane + m * WORKGROUP;
            var factor = 1.0;
            if (SCALAR) {
                factor = leave[min(p, K_PARTS - 1u) / DEPTH4];
            }
            stage_key(t, first, p, ks[m], factor);
        }
        for (var m = 0u; m < V_EACH; m++) { // unroll
            stage_value(t, first, lane + m * WORKGROUP, vs[m]);
        }
        workgroupBarrier();
        // Loads run a chunk ahead of the products.
        if (n + 1u < chunks) {
            first -= CHUNK;
            for (var m = 0u; m < K_EACH; m++) { // unroll
                ks[m] = k_part(t, first, lane + m * WORKGROUP);
            }
            for (var m = 0u; m < V_EACH; m++) { // unroll
                vs[m] = v_part(t, first, lane + m * WORKGROUP);
            }
            if (SCALAR && lane < CHUNK) {
                g = gate_of(t, first + lane);
            }
        }
        // Loads at the end of the tokens parted the lanes.
        subgroupBarrier();
        for (var j = 0u; j < TILES; j++) { // unroll
            for (var c = 0u; c < COLUMN_TILES; c++) { // unroll
                let v = coopLoadT<MatB>(&v_tile[j * N * V_STRIDE + (sub * COLUMN_TILES + c) * N4], V_STRIDE);
                for (var d = 0u; d < DEPTH_TILES; d++) { // unroll
                    let k = coopLoad<MatA>(&k_tile[j * N * K_STRIDE + d * N4], K_STRIDE);
                    acc[d * COLUMN_TILES + c] = coopMultiplyAdd(k, v, acc[d * COLUMN_TILES + c]);
                }
            }
        }
        if (HAS_Z) {
            for (var d = lane; d < DEPTH4 * 4u; d += WORKGROUP) {
                // The loop has more than one turn only where the workgroup is smaller than the depth.
                var sum = 0.0;
                for (var j = 0u; j < CHUNK; j++) { // unroll
                    sum += f32(k_tile[j * K_STRIDE + d / 4u][d % 4u]);
                }
                norm[d] = select(norm[d] + sum, sum, n == 0u);
            }
        }
    }
    for (var d = 0u; d < DEPTH_TILES; d++) { // unroll
        for (var c = 0u; c < COLUMN_TILES; c++) { // unroll
            coopStoreT(acc[d * COLUMN_TILES + c], &patches[sub * N * PATCH_STRIDE], PATCH_STRIDE);
            subgroupBarrier();
            for (var e = 0u; e < PATCH_EACH; e++) { // unroll
                let p = e * LANES + l;
                let row = d * N + p / N4;
                if (p < PATCH_PARTS && row < args.depth) {
                    let column = t.column + ((sub * COLUMN_TILES + c) * N4 + p % N4) * 4u;
                    state_store4(new_row(t, row), column, args.width, patches[sub * N * PATCH_STRIDE + p / N4 * PATCH_STRIDE + p % N4]);
                }
            }
            subgroupBarrier();
        }
    }
    if (t.column == 0u) {
        if (SCALAR && lane == 0u) {
            total_store(total_row(t), exp(tail));
        }
        if (HAS_Z) {
            for (var d = lane * 4u; d < args.depth; d += WORKGROUP * 4u) {
                z_store4(z_row(t), d, args.depth, vec4<f32>(norm[d], norm[d + 1u], norm[d + 2u], norm[d + 3u]));
            }
        }
    }
}
