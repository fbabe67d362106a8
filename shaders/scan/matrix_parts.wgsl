// Constants, loads and the end of `scan/matrix`.

const HALVES: u32 = 2u;
const HALF: u32 = DEPTH_TILES / HALVES;
const KEY_HALF: u32 = TILES / HALVES;
const JOBS: u32 = TILES * COLUMN_TILES * HALVES / SUBGROUPS;
const SHARES: u32 = WORKGROUP / CHUNK;                        // invocations that share a row's divisor
const SHARE4: u32 = CHANNELS / 4u / SHARES;
const NORM_EACH: u32 = (CHANNELS + WORKGROUP - 1u) / WORKGROUP;

var<workgroup> norm: array<f32, NORM>;                        // z
var<workgroup> divisors: array<f32, DIVISORS>;                // q·z of a row in shares

// A job is a product of queries: for a matrix of tokens, one of columns, and a half of the depth and of the keys.
fn query(start: u32, job: u32, d: u32) -> MatA {
    let m = job / (COLUMN_TILES * HALVES);
    return coopLoadT<MatA>(&chunks_data[start + (m * DEPTH_TILES + job % HALVES * HALF + d) * MATRIX], N4);
}

fn seen(start: u32, job: u32, j: u32) -> MatA {
    let m = job / (COLUMN_TILES * HALVES);
    return coopLoadT<MatA>(&chunks_data[start + SEEN_AT + (m * TILES + job % HALVES * KEY_HALF + j) * MATRIX], N4);
}

// z and the segment's decay.
fn finish(t: Tile, lane: u32, all: array<f32, NORM_EACH>) {
    if (t.column != 0u) {
        return;
    }
    for (var m = 0u; m < NORM_EACH; m++) { // unroll
        let d = lane + m * WORKGROUP;
        if (d < args.depth) {
            if (HAS_Z) {
                z_store(z_row(t) + d, norm[d]);
            }
            if (SUMS && (CHANNEL || (SCALAR && d == 0u))) {
                total_store(total_row(t) + d, all[m]);
            }
        }
    }
}
