// A network of one or two layers per head that learns the stream: of every token one step of gradient descent with momentum and weight
// decay, its gradient taken at the weights from before the chunk (the anchor), and one read.
//
// One workgroup: one (batch, head), all tokens in order. Thread j owns the columns j, j + WORKGROUP, ... of every matrix; the matrices
// stay in storage, in three parts: weights, momentum, anchor. Workgroup memory: 4 (2 INPUT + 3 INNER + WIDTH) bytes, up to 16 KiB.
// Barriers: 6 a token. INNER is the width that enters the last layer: the hidden layer, or without one the keys.

// Rows of a matrix that a thread takes at once.
const ROWS: u32 = 8u;

var<workgroup> key: array<f32, INPUT>;
var<workgroup> query: array<f32, INPUT>;
var<workgroup> inner: array<f32, INNER>;         // of the key, what enters the last layer
var<workgroup> back: array<f32, INNER>;          // slope of the activation, then the gradient before it
var<workgroup> asked: array<f32, INNER>;         // of the query, what enters the last layer
var<workgroup> error: array<f32, WIDTH>;         // M(k) - v

struct Head {
    batch: u32,
    head: u32,
    hidden: u32,
    last: u32,
}

// Activation and slope.
fn activate(x: f32) -> vec2<f32> {
    if (ACT == 1u) {
        return vec2<f32>(max(x, 0.0), select(0.0, 1.0, x > 0.0));
    }
    if (ACT == 2u) {
        let e = exp(-2.0 * abs(x));
        // 1 - e has no digits left where x is small.
        let s = x * x;
        let near = x * (1.0 - s / 3.0 * (1.0 - s * 0.4 * (1.0 - s * 17.0 / 42.0)));
        let y = select(sign(x) * (1.0 - e) / (1.0 + e), near, abs(x) < 0.2);
        return vec2<f32>(y, 1.0 - y * y);
    }
    let e = exp(-abs(x));
    let s = select(e, 1.0, x >= 0.0) / (1.0 + e);
    return vec2<f32>(x * s, s * (1.0 + x * (1.0 - s)));
}

fn kernel(group: u32, lane: u32) {
    let at = Head(
        group / args.heads,
        group % args.heads,
        args.hidden_offset + group / args.heads * args.hidden_s1 + group % args.heads * args.hidden_s2,
        args.last_offset + group / args.heads * args.last_s1 + group % args.heads * args.last_s2,
    );
    let q_at = args.q_offset + at.batch * args.q_s0 + at.head / args.q_share * args.q_s1;
    let k_at = args.k_offset + at.batch * args.k_s0 + at.head / args.k_share * args.k_s1;
    let v_at = args.v_offset + at.batch * args.v_s0 + at.head / args.v_share * args.v_s1;
    let out_at = args.out_offset + at.batch * args.out_s0 + at.head * args.out_s1;
    let surprise_at = args.surprise_offset + at.batch * args.surprise_s0 + at.head * args.surprise_s1;
    for (var t = args.first; t < args.end; t++) {
        let opens = (args.position + t) % args.chunk == 0u;
        let theta_t = theta(At(at.batch, at.head, t, 0, 0));
        let eta_t = eta(At(at.batch, at.head, t, 0, 0));
        let stay = 1.0 - alpha(At(at.batch, at.head, t, 0, 0));
        workgroupBarrier();
        for (var d = lane; d < args.depth; d += WORKGROUP) {
            let k = k_load(k_at + t * args.k_s2 + d);
            let q = q_load(q_at + t * args.q_s2 + d);
            if (HIDDEN) {
                key[d] = k;
                query[d] = q;
            } else {
                inner[d] = k;
                asked[d] = q;
            }
        }
        workgroupBarrier();
        if (HIDDEN) {
            for (var j = lane; j < args.inner; j += WORKGROUP) {
                var sum = 0.0;
                for (var row = 0u; row < args.depth; row += ROWS) {
                    for (var n = 0u; n < ROWS; n++) { // unroll
                        if (row + n < args.depth) {
                            let place = at.hidden + (row + n) * args.hidden_s3 + j;
                            if (opens) {
                                hidden_store(place + 2u * args.hidden_s0, hidden_load(place));
                            }
                            sum += hidden_load(place + 2u * args.hidden_s0) * key[row + n];
                        }
                    }
                }
                let y = activate(sum);
                inner[j] = y.x;
                back[j] = y.y;
            }
        }
        workgroupBarrier();
        for (var e = lane; e < args.width; e += WORKGROUP) {
            var sum = 0.0;
            for (var row = 0u; row < args.inner; row += ROWS) {
                for (var n = 0u; n < ROWS; n++) { // unroll
                    if (row + n < args.inner) {
                        let place = at.last + (row + n) * args.last_s3 + e;
                        if (opens) {
                            last_store(place + 2u * args.last_s0, last_load(place));
                        }
                        sum += last_load(place + 2u * args.last_s0) * inner[row + n];
                    }
                }
            }
            error[e] = sum - v_load(v_at + t * args.v_s2 + e);
        }
        // What follows reads rows of the anchor, which other threads have written.
        storageBarrier();
        workgroupBarrier();
        if (lane == 0u) {
            var loss = 0.0;
            for (var column = 0u; column < args.width; column += ROWS) {
                for (var n = 0u; n < ROWS; n++) { // unroll
                    if (column + n < args.width) {
                        loss += error[column + n] * error[column + n];
                    }
                }
            }
            surprise_store(surprise_at + t * args.surprise_s2, loss);
        }
        if (HIDDEN) {
            for (var j = lane; j < args.inner; j += WORKGROUP) {
                var sum = 0.0;
                let anchor = at.last + 2u * args.last_s0 + j * args.last_s3;
                for (var column = 0u; column < args.width; column += ROWS) {
                    for (var n = 0u; n < ROWS; n++) { // unroll
                        if (column + n < args.width) {
                            sum += last_load(anchor + column + n) * error[column + n];
                        }
                    }
                }
                let step = theta_t * args.gain * sum * back[j];
                var read = 0.0;
                for (var row = 0u; row < args.depth; row += ROWS) {
                    for (var n = 0u; n < ROWS; n++) { // unroll
                        if (row + n < args.depth) {
                            let place = at.hidden + (row + n) * args.hidden_s3 + j;
                            let momentum = eta_t * hidden_load(place + args.hidden_s0) - step * key[row + n];
                            let old = hidden_load(place);
                            let fresh = stay * old + momentum;
                            hidden_store(place + args.hidden_s0, momentum);
                            hidden_store(place, fresh);
                            read += select(fresh, old, READ_BEFORE) * query[row + n];
                        }
                    }
                }
                asked[j] = activate(read).x;
            }
        }
        workgroupBarrier();
        for (var e = lane; e < args.width; e += WORKGROUP) {
            let step = theta_t * args.gain * error[e];
            var read = 0.0;
            for (var row = 0u; row < args.inner; row += ROWS) {
                for (var n = 0u; n < ROWS; n++) { // unroll
                    if (row + n < args.inner) {
                        let place = at.last + (row + n) * args.last_s3 + e;
                        let momentum = eta_t * last_load(place + args.last_s0) - step * inner[row + n];
                        let old = last_load(place);
                        let fresh = stay * old + momentum;
                        last_store(place + args.last_s0, momentum);
                        last_store(place, fresh);
                        read += select(fresh, old, READ_BEFORE) * asked[row + n];
                    }
                }
            }
            out_store(out_at + t * args.out_s2 + e, read);
        }
    }
}
