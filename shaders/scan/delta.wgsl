// The delta rule over the chunks that `scan/chunks` made, by cooperative matrices of N x N: f16 factors, f32 sums.
//
// One workgroup: one (batch, head) and 4 COLUMNS value columns, its chunks in order: R = V - H S, U = T R, out = Q S + A U,
// S <- decay S + K U, with the matrices H, T, Q, A and K of the chunk's record straight from memory, a chunk ahead of their use.
// A job is a product with the state: of keys, then of queries, for a matrix of tokens and one of columns. The write of a state's rows is
// their owner's. Barriers a chunk: 3. Workgroup memory: 25.3 KiB at D = 128 and 32 columns.
// With scan/state, scan/chunk_state, attend/matrix_N.

const KEY_JOBS: u32 = TILES * COLUMN_TILES;
const JOBS: u32 = 2u * KEY_JOBS / SUBGROUPS;

var<workgroup> news: array<vec4<f16>, CHUNK * STRIDE>;        // U; R is in v_tile

fn rows_of(start: u32, job: u32, d: u32) -> MatA {
    let at = select(HELD_AT, 0u, job >= KEY_JOBS) + (job % KEY_JOBS / COLUMN_TILES * DEPTH_TILES + d) * MATRIX;
    return coopLoadT<MatA>(&chunks_data[start + at], N4);
}

fn square(start: u32, at: u32, job: u32, j: u32) -> MatA {
    return coopLoadT<MatA>(&chunks_data[start + at + (job % KEY_JOBS / COLUMN_TILES * TILES + j) * MATRIX], N4);
}

// Token and vec4 of columns of a lane's vec4 e of a job's product.
fn token_of(job: u32, e: u32, l: u32) -> u32 {
    return job % KEY_JOBS / COLUMN_TILES * N + part(e, l) / N4;
}

fn column_of(job: u32, e: u32, l: u32) -> u32 {
    return job % COLUMN_TILES * N4 + part(e, l) % N4;
}

fn value(t: Tile, first: u32, job: u32, e: u32, l: u32) -> vec4<f16> {
    return v_part(t, first, token_of(job, e, l) * COLUMNS + column_of(job, e, l));
}

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group);
    let sub = lane / LANES;
    let l = lane % LANES;
    let corner = sub * PATCH;
    let count = (args.tokens + CHUNK - 1u) / CHUNK;

    var x = array<vec4<f32>, OWNED * EACH>();
    for (var n = 0u; n < OWNED; n++) { // unroll
        for (var e = 0u; e < EACH; e++) { // unroll
            let row = state_row(sub, n, e, l);
            if (row < args.depth) {
                x[n * EACH + e] = state_before(t, row, state_column(t, n, e, l));
            }
        }
    }
    // What a chunk needs is on its way since the one before.
    var h = array<MatA, JOBS * DEPTH_TILES>(); // split
    var solved = array<MatA, JOBS * TILES>(); // split
    var a = array<MatA, JOBS * TILES>(); // split
    var k = array<MatA, DEPTH_EACH * TILES>(); // split
    var v = array<vec4<f16>, JOBS * EACH>();
    var decay = array<f32, DEPTH_EACH * EACH>();
    for (var b = 0u; b < JOBS; b++) { // unroll
        for (var d = 0u; d < DEPTH_TILES; d++) { // unroll
            h[b * DEPTH_TILES + d] = rows_of(record(t, 0u), sub * JOBS + b, d);
        }
        for (var j = 0u; j < TILES; j++) { // unroll
            solved[b * TILES + j] = square(record(t, 0u), SOLVED_AT, sub * JOBS + b, j);
            a[b * TILES + j] = square(record(t, 0u), SEEN_AT, sub * JOBS + b, j);
        }
        for (var e = 0u; e < EACH; e++) { // unroll
            v[b * EACH + e] = value(t, 0u, sub * JOBS + b, e, l);
        }
    }
    for (var d = 0u; d < DEPTH_EACH; d++) { // unroll
        for (var j = 0u; j < TILES; j++) { // unroll
            k[d * TILES + j] = keys(record(t, 0u), sub * DEPTH_EACH + d, j);
        }
        for (var e = 0u; e < EACH; e++) { // unroll
            decay[d * EACH + e] = marks_load(marks(t, 0u) + state_row(sub, d * COLUMN_TILES, e, l));
        }
    }

    for (var n = 0u; n < count; n++) {
        let first = n * CHUNK;
        let next = record(t, n + 1u);
        var most = vec4<u32>();
        for (var i = 0u; i < OWNED * EACH; i++) { // unroll
            most = max(most, sizes(x[i]));
        }
        let power = power_of(most);
        for (var i = 0u; i < OWNED; i++) { // unroll
            for (var e = 0u; e < EACH; e++) { // unroll
                let at = state_row(sub, i, e, l) * STRIDE + i % COLUMN_TILES * N4 + part(e, l) % N4;
                state_tile[at] = vec4<f16>(x[i * EACH + e] * two_to(power));
            }
        }
        if (l == 0u) {
            scales[sub] = power;
        }
        workgroupBarrier();

        // What a large state takes from the values needs its scale too.
        var shrink = 0;
        for (var i = 0u; i < SUBGROUPS; i++) { // unroll
            shrink = min(shrink, scales[i]);
        }
        // Loads for the next chunk follow the last use of what they replace.
        var reads = array<MatC, JOBS>(); // split
        for (var b = 0u; b < JOBS; b++) { // unroll
            let job = sub * JOBS + b;
            // The sum so far has the scale of the rows that came last.
            var scale = 0;
            for (var d = 0u; d < DEPTH_TILES; d++) { // unroll
                let own = scales[d / DEPTH_EACH];
                if (d > 0u) {
                    reads[b] = reads[b] * two_to(own - scale);
                }
                scale = own;
                let s = coopLoadT<MatB>(&state_tile[d * N * STRIDE + job % COLUMN_TILES * N4], STRIDE);
                reads[b] = coopMultiplyAdd(h[b * DEPTH_TILES + d], s, reads[b]);
            }
            for (var d = 0u; d < DEPTH_TILES; d++) { // unroll
                h[b * DEPTH_TILES + d] = rows_of(next, job, d);
            }
            reads[b] = reads[b] * two_to(shrink - scale);
            coopStoreT(reads[b], &patches[corner], PATCH_STRIDE);
            subgroupBarrier();
            for (var e = 0u; e < EACH; e++) { // unroll
                let p = part(e, l);
                let i = token_of(job, e, l);
                let value = vec4<f32>(v_real_part(t, first, i * COLUMNS + column_of(job, e, l), v[b * EACH + e]));
                let y = value * two_to(shrink) - patches[corner + p / N4 * PATCH_STRIDE + p % N4];
                if (job < KEY_JOBS) {
                    v_tile[i * STRIDE + column_of(job, e, l)] = vec4<f16>(y);
                }
            }
            subgroupBarrier();
        }
        workgroupBarrier();

        for (var b = 0u; b < JOBS; b++) { // unroll
            let job = sub * JOBS + b;
            for (var e = 0u; e < EACH; e++) { // unroll
                v[b * EACH + e] = value(t, first + CHUNK, job, e, l);
            }
            var u = MatC();
            for (var j = 0u; j < TILES; j++) { // unroll
                u = coopMultiplyAdd(solved[b * TILES + j], coopLoadT<MatB>(&v_tile[j * N * STRIDE + job % COLUMN_TILES * N4], STRIDE), u);
            }
            for (var j = 0u; j < TILES; j++) { // unroll
                solved[b * TILES + j] = square(next, SOLVED_AT, job, j);
            }
            coopStoreT(u, &patches[corner], PATCH_STRIDE);
            subgroupBarrier();
            for (var e = 0u; e < EACH; e++) { // unroll
                let p = part(e, l);
                if (job < KEY_JOBS) {
                    let at = token_of(job, e, l) * STRIDE + column_of(job, e, l);
                    news[at] = vec4<f16>(patches[corner + p / N4 * PATCH_STRIDE + p % N4]);
                }
            }
            subgroupBarrier();
        }
        workgroupBarrier();

        for (var b = 0u; b < JOBS; b++) { // unroll
            let job = sub * JOBS + b;
            for (var j = 0u; j < TILES; j++) { // unroll
                let y = coopLoadT<MatB>(&news[j * N * STRIDE + job % COLUMN_TILES * N4], STRIDE);
                reads[b] = coopMultiplyAdd(a[b * TILES + j], y, reads[b]);
                a[b * TILES + j] = square(next, SEEN_AT, job, j);
            }
            coopStoreT(reads[b], &patches[corner], PATCH_STRIDE);
            subgroupBarrier();
            for (var e = 0u; e < EACH; e++) { // unroll
                let p = part(e, l);
                let i = first + token_of(job, e, l);
                if (job >= KEY_JOBS && e * LANES + l < MATRIX && i < args.tokens) {
                    let y = patches[corner + p / N4 * PATCH_STRIDE + p % N4] * two_to(-shrink);
                    out_store4(out_row(t, i), t.column + column_of(job, e, l) * 4u, args.width, y);
                }
            }
            subgroupBarrier();
        }
        for (var i = 0u; i < OWNED; i++) { // unroll
            var sum = MatC();
            for (var j = 0u; j < TILES; j++) { // unroll
                let y = coopLoadT<MatB>(&news[j * N * STRIDE + i % COLUMN_TILES * N4], STRIDE);
                sum = coopMultiplyAdd(k[i / COLUMN_TILES * TILES + j], y, sum);
            }
            coopStoreT(sum, &patches[corner], PATCH_STRIDE);
            subgroupBarrier();
            for (var e = 0u; e < EACH; e++) { // unroll
                let p = part(e, l);
                let more = patches[corner + p / N4 * PATCH_STRIDE + p % N4] * two_to(-shrink);
                x[i * EACH + e] = decay[i / COLUMN_TILES * EACH + e] * x[i * EACH + e] + more;
            }
            subgroupBarrier();
        }
        for (var d = 0u; d < DEPTH_EACH; d++) { // unroll
            for (var j = 0u; j < TILES; j++) { // unroll
                k[d * TILES + j] = keys(next, sub * DEPTH_EACH + d, j);
            }
            for (var e = 0u; e < EACH; e++) { // unroll
                decay[d * EACH + e] = marks_load(marks(t, n + 1u) + state_row(sub, d * COLUMN_TILES, e, l));
            }
        }
    }
    for (var n = 0u; n < OWNED; n++) { // unroll
        for (var e = 0u; e < EACH; e++) { // unroll
            let row = state_row(sub, n, e, l);
            if (e * LANES + l < MATRIX && row < args.depth) {
                state_store4(new_row(t, row), state_column(t, n, e, l), args.width, x[n * EACH + e]);
            }
        }
    }
}
