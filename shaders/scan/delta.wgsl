// The delta rule over the chunks that `scan/chunks` made, by cooperative matrices of N x N: f16 factors, f32 sums.
//
// One workgroup: one (batch, head) and 4 COLUMNS value columns, its chunks in order: R = V - H S, U = T R, out = Q S + A U,
// S <- decay S + K U, with the matrices H, T, Q, A and K of the chunk's record straight from memory, a chunk ahead of their use.
// A job is a product with the state: of keys, then of queries, for a matrix of tokens and one of columns. The write of a state's rows is
// their owner's. Barriers a chunk: 4. Workgroup memory: 32 KiB at D = 128 and 32 columns.
// With scan/state, scan/chunk_state, attend/matrix_N.

const KEY_JOBS: u32 = TILES * COLUMN_TILES;
const JOBS: u32 = 2u * KEY_JOBS / SUBGROUPS;

var<workgroup> rest: array<vec4<f16>, V_TILE>;                // R
var<workgroup> news: array<vec4<f16>, V_TILE>;                // U

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
    for (var b = 0u; b < JOBS; b++) { // unroll
        for (var d = 0u; d < DEPTH_TILES; d++) { // unroll
            h[b * DEPTH_TILES + d] = rows_of(record(t, 0u), sub * JOBS + b, d);
        }
        for (var j = 0u; j < TILES; j++) { // unroll
            solved[b * TILES + j] = square(record(t, 0u), SOLVED_AT, sub * JOBS + b, j);
            a[b * TILES + j] = square(record(t, 0u), SEEN_AT, sub * JOBS + b, j);
        }
    }
    for (var d = 0u; d < DEPTH_EACH; d++) { // unroll
        for (var j = 0u; j < TILES; j++) { // unroll
            k[d * TILES + j] = keys(record(t, 0u), sub * DEPTH_EACH + d, j);
        }
    }
    stage(t, 0u, 0u, lane, staged(t, 0u, marks(t, 0u), lane));
    var top = top_of(x);
    if (l == 0u) {
        tops[sub] = top;
    }
    workgroupBarrier();

    for (var n = 0u; n < count; n++) {
        let first = n * CHUNK;
        let here = n & 1u;
        let next = record(t, n + 1u);
        let power = power_of_tops();
        // What a large state takes from the values needs its scale too.
        let shrink = min(power, 0);
        for (var i = 0u; i < OWNED; i++) { // unroll
            for (var e = 0u; e < EACH; e++) { // unroll
                let at = state_row(sub, i, e, l) * STRIDE + i % COLUMN_TILES * N4 + part(e, l) % N4;
                state_tile[at] = vec4<f16>(x[i * EACH + e] * two_to(power));
            }
        }
        workgroupBarrier();

        // Loads of matrices for the next chunk follow the last use of what they replace.
        let ahead = staged(t, first + CHUNK, marks(t, n + 1u), lane);
        var reads = array<MatC, JOBS>(); // split
        for (var b = 0u; b < JOBS; b++) { // unroll
            let job = sub * JOBS + b;
            for (var d = 0u; d < DEPTH_TILES; d++) { // unroll
                let s = coopLoadT<MatB>(&state_tile[d * N * STRIDE + job % COLUMN_TILES * N4], STRIDE);
                reads[b] = coopMultiplyAdd(h[b * DEPTH_TILES + d], s, reads[b]);
            }
            for (var d = 0u; d < DEPTH_TILES; d++) { // unroll
                h[b * DEPTH_TILES + d] = rows_of(next, job, d);
            }
            reads[b] = reads[b] * two_to(shrink - power);
        }
        stage(t, first + CHUNK, 1u - here, lane, ahead);
        for (var b = 0u; b < JOBS; b++) { // unroll
            let job = sub * JOBS + b;
            coopStoreT(reads[b], &patches[corner], N4);
            subgroupBarrier();
            for (var e = 0u; e < EACH; e++) { // unroll
                let p = part(e, l);
                let i = token_of(job, e, l);
                let value = vec4<f32>(v_tile[here * V_TILE + i * STRIDE + column_of(job, e, l)]);
                let y = value * two_to(shrink) - patches[corner + p];
                if (job < KEY_JOBS) {
                    rest[i * STRIDE + column_of(job, e, l)] = vec4<f16>(y);
                }
            }
            subgroupBarrier();
        }
        workgroupBarrier();

        for (var b = 0u; b < JOBS; b++) { // unroll
            let job = sub * JOBS + b;
            var u = MatC();
            for (var j = 0u; j < TILES; j++) { // unroll
                u = coopMultiplyAdd(solved[b * TILES + j], coopLoadT<MatB>(&rest[j * N * STRIDE + job % COLUMN_TILES * N4], STRIDE), u);
            }
            for (var j = 0u; j < TILES; j++) { // unroll
                solved[b * TILES + j] = square(next, SOLVED_AT, job, j);
            }
            coopStoreT(u, &patches[corner], N4);
            subgroupBarrier();
            for (var e = 0u; e < EACH; e++) { // unroll
                let p = part(e, l);
                if (job < KEY_JOBS) {
                    let at = token_of(job, e, l) * STRIDE + column_of(job, e, l);
                    news[at] = vec4<f16>(patches[corner + p]);
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
            coopStoreT(reads[b], &patches[corner], N4);
            subgroupBarrier();
            for (var e = 0u; e < EACH; e++) { // unroll
                let p = part(e, l);
                let i = first + token_of(job, e, l);
                if (job >= KEY_JOBS && e * LANES + l < MATRIX && i < args.tokens) {
                    let y = patches[corner + p] * two_to(-shrink);
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
            coopStoreT(sum, &patches[corner], N4);
            subgroupBarrier();
            for (var e = 0u; e < EACH; e++) { // unroll
                let p = part(e, l);
                let more = patches[corner + p] * two_to(-shrink);
                x[i * EACH + e] = mark_of(here, state_row(sub, i, e, l)) * x[i * EACH + e] + more;
            }
            subgroupBarrier();
        }
        top = top_of(x);
        if (l == 0u) {
            tops[sub] = top;
        }
        for (var d = 0u; d < DEPTH_EACH; d++) { // unroll
            for (var j = 0u; j < TILES; j++) { // unroll
                k[d * TILES + j] = keys(next, sub * DEPTH_EACH + d, j);
            }
        }
        workgroupBarrier();
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
