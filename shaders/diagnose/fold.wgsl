// Numbers of pairs, changed by the score hooks; written one by one, or folded along the keys of a row.
//
// Each: one thread writes four neighbours of the output. Else one workgroup: WORKGROUP / 16 rows, 16 threads a row, each for every 16th
// key. Workgroup memory: 1 KiB. Barriers: 1. With one of diagnose/put_* (put).

const LANES: u32 = 16u;
const GIVEN: u32 = 0u;              // in the order of `diagnose::Of`
const DOT: u32 = 1u;
const TANH: u32 = 2u;
const EACH: u32 = 0u;               // in the order of `diagnose::Reduce`
const SUM: u32 = 1u;
const MAX: u32 = 2u;
const LOWEST: f32 = -3e38;

// What a thread knows of a row: its sum or maximum, and the key of that; no key yet is -1.
struct Part {
    x: f32,
    key: i32,
}

var<workgroup> parts: array<Part, WORKGROUP>;

// tanh to f32's precision; WGSL's own promises only 1e-5.
fn tanh_exact(x: f32) -> f32 {
    let e = exp(-2.0 * abs(x));
    return sign(x) * (1.0 - e) / (1.0 + e);
}

fn number(at: At) -> f32 {
    let j = u32(at.key);
    if (OF == GIVEN) {
        let row = at.row / args.share;
        return f32(x_load(args.x_offset + at.batch * args.x_s0 + at.head / args.share_x * args.x_s1 + row * args.x_s2 + j * args.x_s3));
    }
    let q = args.q_offset + at.batch * args.q_s0 + at.head * args.q_s1 + at.row * args.q_s2;
    let k = args.k_offset + at.batch * args.k_s0 + at.head / args.share_k * args.k_s1 + j * args.k_s2;
    var sum = 0.0;
    if (OF == DOT) {
        var sums = vec4<f32>();
        for (var d = 0u; d < args.depth; d += 4u) {
            sums += q_load4(q, d, args.depth) * k_load4(k, d, args.depth);
        }
        return sums.x + sums.y + sums.z + sums.w;
    }
    if (OF == TANH) {
        for (var d = 0u; d < args.depth; d++) {
            sum += w(At(0u, at.head, 0u, 0, i32(d))) * tanh_exact(q_load(q + d) + k_load(k + d));
        }
        return sum;
    }
    let root = sqrt(edge(at) + args.eps);
    for (var d = 0u; d < args.depth; d++) {
        let x = root * (k_load(k + d) - q_load(q + d)) + args.eps;
        sum += x * x;
    }
    return sum;
}

fn pair(row: u32, key: u32) -> At {
    let i = row % args.rows;
    let h = row / args.rows % args.heads;
    return At(row / args.rows / args.heads, h, i, i32(i + args.keys) - i32(args.rows), i32(key));
}

fn allowed(at: At) -> bool {
    return (args.causal == 0u || at.key <= at.query) && (!HAS_MASK || mask(at));
}

fn element(at: At) -> f32 {
    return score(args.scale * number(at), at);
}

// The row's part with another one. The maximum is the first of equal ones; NaN is passed on.
fn join(a: Part, b: Part) -> Part {
    if (REDUCE == SUM) {
        return Part(a.x + b.x, 0);
    }
    if (b.key < 0) {
        return a;
    }
    let later = b.x > a.x || (b.x == a.x && b.key < a.key) || b.x != b.x;
    if (a.key < 0 || later) {
        return b;
    }
    return a;
}

// A function of its own: its early end must not make the barrier below non-uniform.
fn each(group: u32, lane: u32) {
    let first = (group * WORKGROUP + lane) * 4u;
    let end = args.total * args.keys;
    if (first >= end) {
        return;
    }
    let count = min(4u, end - first);
    var x = vec4<f32>();
    for (var n = 0u; n < count; n++) {
        let at = pair((first + n) / args.keys, (first + n) % args.keys);
        x[n] = args.empty;
        if (allowed(at)) {
            x[n] = element(at);
        }
    }
    put(first, x, count);
}

fn kernel(group: u32, lane: u32) {
    if (REDUCE == EACH) {
        each(group, lane);
        return;
    }
    let row = group * (WORKGROUP / LANES) + lane / LANES;
    var own = Part(select(LOWEST, 0.0, REDUCE == SUM), -1);
    if (row < args.total) {
        for (var j = lane % LANES; j < args.keys; j += LANES) {
            let at = pair(row, j);
            if (allowed(at)) {
                own = join(own, Part(element(at), at.key));
            }
        }
    }
    parts[lane] = own;
    workgroupBarrier();
    if (lane % LANES != 0u || row >= args.total) {
        return;
    }
    for (var n = 1u; n < LANES; n++) {
        own = join(own, parts[lane + n]);
    }
    var x = own.x;
    if (REDUCE == MAX && own.key < 0) {
        x = args.empty;
    }
    if (REDUCE > MAX) {
        x = f32(max(own.key, 0));
    }
    put(row, vec4<f32>(x, 0.0, 0.0, 0.0), 1u);
}
