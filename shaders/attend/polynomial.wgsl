// Local polynomial regression of values on keys: what remains of the softmax when the values may change linearly or quadratically
// around the query. One weighted least-squares problem a query, in PLACES monomials of z = k - q.
//
// One workgroup: one row. Thread a owns monomial a: its mean, row a of the Gram matrix (lower triangle), row a of its factors L D L^T.
// Workgroup memory: 4096 (monomials of a tile of keys) + 8320 (Gram) + 0.6 KiB. Barriers: 2 a tile in each of three passes, 2 a monomial
// for the factors, 1 each for both substitutions.

const TILE: u32 = 16u;
const MOST: u32 = 64u;              // monomials, the workgroup's size
const COLUMNS: u32 = 8u;            // values of a thread: Dv up to 512
const FLAT: f32 = 1e-7;             // of the largest pivot: a direction without spread

var<workgroup> monomials: array<f32, 1024>;       // [TILE, MOST]
var<workgroup> weights: array<f32, 16>;
var<workgroup> gram: array<f32, 2080>;            // row a begins at a (a + 1) / 2
var<workgroup> mean: array<f32, 64>;
var<workgroup> solution: array<f32, 64>;

struct Place {
    q: u32,
    k: u32,
    v: u32,
    p: u32,
}

// The factors of monomial n: z_a, or z_a z_b with a <= b; depth stands for no second one.
fn factors(n: u32) -> vec2<u32> {
    if (n < args.depth) {
        return vec2<u32>(n, args.depth);
    }
    var a = 0u;
    var rest = n - args.depth;
    while (rest >= args.depth - a) {
        rest -= args.depth - a;
        a++;
    }
    return vec2<u32>(a, a + rest);
}

fn z(at: Place, j: u32, d: u32) -> f32 {
    return k_load(at.k + j * args.k_s2 + d) - q_load(at.q + d);
}

// Weights and monomials of the keys from `first`; what lies past the last key weighs 0.
fn stage(at: Place, own: vec2<u32>, first: u32, lane: u32) {
    workgroupBarrier();
    if (lane < TILE) {
        weights[lane] = 0.0;
        if (first + lane < args.keys) {
            weights[lane] = p_load(at.p + first + lane);
        }
    }
    for (var t = 0u; t < TILE; t++) {
        var x = 0.0;
        if (lane < args.places && first + t < args.keys) {
            x = z(at, first + t, own.x);
            if (own.y < args.depth) {
                x *= z(at, first + t, own.y);
            }
        }
        monomials[t * MOST + lane] = x;
    }
    workgroupBarrier();
}

fn kernel(group: u32, lane: u32) {
    let i = group % args.queries;
    let h = group / args.queries % args.heads;
    let b = group / args.queries / args.heads;
    let kv = h / args.group;
    let at = Place(
        args.q_offset + b * args.q_s0 + h * args.q_s1 + i * args.q_s2,
        args.k_offset + b * args.k_s0 + kv * args.k_s1,
        args.v_offset + b * args.v_s0 + kv * args.v_s1,
        args.p_offset + b * args.p_s0 + h * args.p_s1 + i * args.p_s2,
    );
    let own = factors(min(lane, args.places - 1u));
    let row = lane * (lane + 1u) / 2u;
    let works = lane < args.places;

    var sum = 0.0;
    for (var first = 0u; first < args.keys; first += TILE) {
        stage(at, own, first, lane);
        for (var t = 0u; t < TILE; t++) {
            sum += weights[t] * monomials[t * MOST + lane];
        }
    }
    mean[lane] = sum;
    for (var c = 0u; c <= lane; c++) {
        gram[row + c] = select(0.0, args.ridge, c == lane);
    }
    workgroupBarrier();
    // Centred before they are multiplied: the difference of two large sums would have few digits.
    for (var first = 0u; first < args.keys; first += TILE) {
        stage(at, own, first, lane);
        if (works) {
            for (var c = 0u; c <= lane; c++) {
                var x = 0.0;
                for (var t = 0u; t < TILE; t++) {
                    x += weights[t] * (monomials[t * MOST + lane] - sum) * (monomials[t * MOST + c] - mean[c]);
                }
                gram[row + c] += x;
            }
        }
    }
    var largest = 0.0;
    workgroupBarrier();
    for (var c = 0u; c < args.places; c++) {
        largest = max(largest, gram[c * (c + 3u) / 2u]);
    }
    for (var c = 0u; c < args.places; c++) {
        workgroupBarrier();
        let pivot = gram[c * (c + 3u) / 2u];
        var factor = 0.0;
        if (works && lane > c && pivot > FLAT * largest) {
            factor = gram[row + c] / pivot;
            for (var n = c + 1u; n <= lane; n++) {
                gram[row + n] -= factor * gram[n * (n + 1u) / 2u + c];
            }
        }
        workgroupBarrier();
        if (works && lane > c) {
            gram[row + c] = factor;
        }
    }
    solution[lane] = sum;
    for (var c = 0u; c < args.places; c++) {
        workgroupBarrier();
        if (works && lane > c) {
            solution[lane] -= gram[row + c] * solution[c];
        }
    }
    workgroupBarrier();
    if (works) {
        let pivot = gram[row + lane];
        solution[lane] = select(0.0, solution[lane] / pivot, pivot > FLAT * largest);
    }
    for (var n = 0u; n < args.places; n++) {
        workgroupBarrier();
        let c = args.places - 1u - n;
        if (lane < c) {
            solution[lane] -= gram[c * (c + 1u) / 2u + lane] * solution[c];
        }
    }

    var acc = array<f32, COLUMNS>();
    for (var first = 0u; first < args.keys; first += TILE) {
        stage(at, own, first, lane);
        var x = 0.0;
        if (lane < TILE) {
            x = 1.0;
            for (var n = 0u; n < args.places; n++) {
                x -= (monomials[lane * MOST + n] - mean[n]) * solution[n];
            }
            x *= weights[lane];
        }
        workgroupBarrier();
        if (lane < TILE) {
            weights[lane] = x;
        }
        workgroupBarrier();
        for (var c = 0u; c < COLUMNS; c++) {
            let d = c * MOST + lane;
            if (d < args.width) {
                for (var t = 0u; t < min(TILE, args.keys - first); t++) {
                    // A key that is not allowed must not bring its NaN.
                    let value = v_load(at.v + (first + t) * args.v_s2 + d);
                    acc[c] += select(weights[t] * value, 0.0, weights[t] == 0.0);
                }
            }
        }
    }
    let out = args.out_offset + b * args.out_s0 + h * args.out_s1 + i * args.out_s2;
    for (var c = 0u; c < COLUMNS; c++) {
        let d = c * MOST + lane;
        if (d < args.width) {
            out_store(out + d, acc[c]);
        }
    }
}
