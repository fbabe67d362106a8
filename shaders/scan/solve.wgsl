// A symmetric matrix per head that each key adds k k^T to, and the linear system in it that each token asks for: x_t = (M_t + ridge)^-1 q_t.
// Or, with GAIN, the inverse of such a matrix, from which each key takes what it adds to the matrix, and the key's gain.
//
// One workgroup: `each` rows of one (batch, head), in order. Thread a holds row a of the matrix in registers. Workgroup memory:
// 8 DEPTH bytes. Barriers a token: 2, with GAIN 5; a row: 2 a channel directly, 6 a step of conjugate gradients.

const FLAT: f32 = 1e-7;             // of the largest diagonal: a pivot that is rounding

const VECTORS: u32 = DEPTH / 4u;

var<workgroup> line: array<vec4<f32>, VECTORS>;   // a key, a query, a row of the matrix
var<workgroup> other: array<f32, DEPTH>;          // a number a thread

// Where vector n of a row holds channel d.
fn holds(n: u32, d: u32) -> vec4<bool> {
    return vec4<u32>(4u * n, 4u * n + 1u, 4u * n + 2u, 4u * n + 3u) == vec4<u32>(d);
}

// Vector n of the numbers of the threads.
fn four(n: u32) -> vec4<f32> {
    return vec4<f32>(other[4u * n], other[4u * n + 1u], other[4u * n + 2u], other[4u * n + 3u]);
}

// One number a thread, for all to see.
fn show(lane: u32, x: f32) {
    workgroupBarrier();
    other[lane] = x;
    workgroupBarrier();
}

// Their sum; every thread gets it.
fn total(lane: u32, x: f32) -> f32 {
    show(lane, x);
    var sum = vec4<f32>();
    for (var n = 0u; n < VECTORS; n++) { // unroll
        sum += four(n);
    }
    return sum.x + sum.y + sum.z + sum.w;
}

fn kernel(group: u32, lane: u32) {
    let part = group % args.parts;
    let h = group / args.parts % args.heads;
    let b = group / (args.parts * args.heads);
    let works = lane < args.depth;
    let q_at = args.q_offset + b * args.q_s0 + (h / args.q_share) * args.q_s1;
    let k_at = args.k_offset + b * args.k_s0 + (h / args.k_share) * args.k_s1;
    let out_at = args.out_offset + b * args.out_s0 + h * args.out_s1 + lane;
    let old_at = args.state_in_offset + b * args.state_in_s0 + (h * args.parts_in + min(part, args.parts_in - 1u)) * args.state_in_s1
        + lane * args.state_in_s2;

    let row = part * args.each;
    // The tokens that ask, and the first that counts.
    let asks = select(row, args.tokens - 1u, LAST);
    let end = select(min(row + args.each, args.tokens), args.tokens, LAST);
    let first = select(row, asks + 1u - min(asks + 1u, args.window), WINDOW);

    var m = array<vec4<f32>, VECTORS>();
    if (works) {
        for (var n = 0u; n < VECTORS; n++) { // unroll
            m[n] = state_in_load4(old_at, 4u * n, args.depth);
        }
    }
    for (var t = first; t < end; t++) {
        workgroupBarrier();
        if (lane < VECTORS) {
            line[lane] = k_load4(k_at + t * args.k_s2, 4u * lane, args.depth);
        }
        workgroupBarrier();
        let key = line[lane / 4u][lane % 4u];
        let log_decay = g(At(b, h, t, 0, 0));
        var weight = 1.0;
        if (HAS_WEIGHT) {
            weight = w(At(b, h, t, 0, 0));
        }
        if (GAIN) {
            let grow = less_one(-log_decay);
            var u = 0.0;
            for (var n = 0u; n < VECTORS; n++) { // unroll
                m[n] += grow * m[n];
                u += dot(m[n], line[n]);
            }
            let factor = weight / (1.0 + weight * total(lane, u * key));
            show(lane, u);
            // In this order, so that the matrix stays symmetric to the last bit.
            for (var n = 0u; n < VECTORS; n++) { // unroll
                m[n] -= factor * (u * four(n));
            }
            if (works) {
                out_store(out_at + t * args.out_s2, factor * u);
            }
        } else {
            let less = less_one(log_decay);
            for (var n = 0u; n < VECTORS; n++) { // unroll
                m[n] += less * m[n] + weight * (key * line[n]);
            }
            if (t >= asks) {
                let i = select(t, row, LAST);
                workgroupBarrier();
                if (lane < VECTORS) {
                    line[lane] = q_load4(q_at + i * args.q_s2, 4u * lane, args.depth);
                }
                workgroupBarrier();
                var rest = line[lane / 4u][lane % 4u];
                var own = 0.0;
                if (works) {
                    own = ridge(At(b, h, i, 0, i32(lane)));
                }
                var x = 0.0;
                if (DIRECT) {
                    var y = array<vec4<f32>, VECTORS>();
                    var diagonal = 0.0;
                    for (var n = 0u; n < VECTORS; n++) { // unroll
                        let here = select(vec4<f32>(), vec4<f32>(1.0), holds(n, lane));
                        y[n] = m[n] + own * here;
                        diagonal += dot(y[n], here);
                    }
                    show(lane, diagonal);
                    var most = vec4<f32>();
                    for (var n = 0u; n < VECTORS; n++) { // unroll
                        most = max(most, four(n));
                    }
                    let largest = max(max(most.x, most.y), max(most.z, most.w));
                    // Swept by every channel, y is minus the inverse, and symmetric all the way: row c is column c.
                    for (var c = 0u; c < args.depth; c++) {
                        workgroupBarrier();
                        if (lane == c) {
                            for (var n = 0u; n < VECTORS; n++) { // unroll
                                line[n] = y[n];
                            }
                        }
                        workgroupBarrier();
                        let pivot = line[c / 4u][c % 4u];
                        var f = 0.0;
                        if (pivot > FLAT * largest) {
                            f = select(line[lane / 4u][lane % 4u], -1.0, lane == c) / pivot;
                        }
                        let stay = select(1.0, 0.0, lane == c);
                        for (var n = 0u; n < VECTORS; n++) { // unroll
                            y[n] = select(stay * y[n] - f * line[n], vec4<f32>(f), holds(n, c));
                        }
                    }
                    show(lane, rest);
                    for (var n = 0u; n < VECTORS; n++) { // unroll
                        x -= dot(y[n], four(n));
                    }
                } else {
                    var size = total(lane, rest * rest);
                    var direction = rest;
                    for (var s = 0u; s < args.steps; s++) {
                        show(lane, direction);
                        var y = own * direction;
                        for (var n = 0u; n < VECTORS; n++) { // unroll
                            y += dot(m[n], four(n));
                        }
                        let bend = total(lane, direction * y);
                        let reach = select(size / bend, 0.0, bend == 0.0);
                        x += reach * direction;
                        rest -= reach * y;
                        let now = total(lane, rest * rest);
                        direction = rest + select(now / size, 0.0, size == 0.0) * direction;
                        size = now;
                    }
                }
                if (works) {
                    out_store(out_at + i * args.out_s2, x);
                }
            }
        }
    }
    if (HAS_STATE && part + 1u == args.parts) {
        let new_at = args.state_offset + b * args.state_s0 + h * args.state_s1 + lane * args.state_s2;
        if (works) {
            for (var n = 0u; n < VECTORS; n++) { // unroll
                state_store4(new_at, 4u * n, args.depth, m[n]);
            }
        }
    }
}
