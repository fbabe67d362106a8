// Merge of partial softmax results by their log-sum-exp.
//
// One workgroup: WORKGROUP / share units, a unit being four neighbouring elements of one row. `share` threads of a unit take every
// share-th part, so that many parts of few rows (a decode step) keep the device busy; the first of them joins their results in order,
// then the sinks. The order is fixed, so that results repeat. Workgroup memory: 4 KiB. Barriers: 1.

const MASKED: f32 = -1e30;
const SEEN: f32 = -5e29;

// A sum of parts: the largest exponent, and what is relative to it.
struct Sum {
    high: f32,
    total: f32,
    x: vec4<f32>,
}

var<workgroup> sums: array<Sum, WORKGROUP>;

// Adds weight `total` at exponent `high`; NaN passes.
fn join(a: Sum, high: f32, total: f32, x: vec4<f32>) -> Sum {
    let next = max(a.high, high);
    let before = exp(a.high - next);
    let added = exp(high - next);
    return Sum(next, a.total * before + total * added, a.x * before + x * added);
}

fn kernel(group: u32, lane: u32) {
    let units = WORKGROUP / args.share;
    let unit = group * units + lane % units;
    let first = lane / units;
    let inside = unit < args.total;
    var rest = unit;
    let d = (rest % args.vectors) * 4u;
    rest /= args.vectors;
    let i = rest % args.rows;
    rest /= args.rows;
    let h = rest % args.heads;
    let b = rest / args.heads;

    var sum = Sum(MASKED, 0.0, vec4<f32>());
    if (inside) {
        let lses = args.lses_offset + b * args.lses_s1 + h * args.lses_s2 + i * args.lses_s3;
        let outs = args.outs_offset + b * args.outs_s1 + h * args.outs_s2 + i * args.outs_s3;
        for (var p = first; p < args.parts; p += args.share) {
            let lse = lses_load(lses + p * args.lses_s0);
            // An empty part's output may hold anything: 0 * NaN is NaN.
            if (!(lse <= SEEN)) {
                sum = join(sum, lse, 1.0, outs_load4(outs + p * args.outs_s0, d, args.width));
            }
        }
    }
    sums[lane] = sum;
    workgroupBarrier();
    if (first > 0u || !inside) {
        return;
    }
    for (var n = 1u; n < args.share; n++) {
        let other = sums[lane + n * units];
        if (other.total != 0.0) {
            sum = join(sum, other.high, other.total, other.x);
        }
    }
    for (var n = 0u; n < args.sinks; n++) {
        let logit = sink(At(b, h, i, 0, i32(n)));
        if (!(logit <= SEEN)) {
            sum = join(sum, logit, 1.0, vec4<f32>());
        }
    }
    let empty = sum.total == 0.0;
    let out = args.out_offset + b * args.out_s0 + h * args.out_s1 + i * args.out_s2;
    out_store4(out, d, args.width, select(sum.x / sum.total, vec4<f32>(), empty));
    if (d == 0u) {
        let lse = select(sum.high + log(sum.total), args.neg_inf, empty);
        lse_store(args.lse_offset + b * args.lse_s0 + h * args.lse_s1 + i * args.lse_s2, lse);
    }
}
