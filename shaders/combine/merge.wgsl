// Merge of partial softmax results by their log-sum-exp, parts in order.
//
// One thread: four neighbouring elements of one row; the first of a row also writes its lse. No workgroup memory.

const MASKED: f32 = -1e30;
const SEEN: f32 = -5e29;

// Weight of a part before division by the total; an empty part has none, and NaN passes.
fn part_weight(lse: f32, high: f32) -> f32 {
    return select(exp(lse - high), 0.0, lse <= SEEN);
}

fn kernel(group: u32, lane: u32) {
    var rest = group * WORKGROUP + lane;
    if (rest >= args.total) {
        return;
    }
    let d = (rest % args.vectors) * 4u;
    rest /= args.vectors;
    let i = rest % args.rows;
    rest /= args.rows;
    let h = rest % args.heads;
    let b = rest / args.heads;

    let lses = args.lses_offset + b * args.lses_s1 + h * args.lses_s2 + i * args.lses_s3;
    var high = MASKED;
    for (var p = 0u; p < args.parts; p++) {
        high = max(high, lses_load(lses + p * args.lses_s0));
    }
    for (var n = 0u; n < args.sinks; n++) {
        high = max(high, sink(At(b, h, i, 0, i32(n))));
    }
    var total = 0.0;
    for (var p = 0u; p < args.parts; p++) {
        total += part_weight(lses_load(lses + p * args.lses_s0), high);
    }
    for (var n = 0u; n < args.sinks; n++) {
        total += part_weight(sink(At(b, h, i, 0, i32(n))), high);
    }

    let outs = args.outs_offset + b * args.outs_s1 + h * args.outs_s2 + i * args.outs_s3;
    var sum = vec4<f32>();
    for (var p = 0u; p < args.parts; p++) {
        let factor = part_weight(lses_load(lses + p * args.lses_s0), high);
        // An empty part's output may hold anything: 0 * NaN is NaN.
        if (factor != 0.0) {
            sum += (factor / total) * outs_load4(outs + p * args.outs_s0, d, args.width);
        }
    }
    let out = args.out_offset + b * args.out_s0 + h * args.out_s1 + i * args.out_s2;
    out_store4(out, d, args.width, sum);
    if (d == 0u) {
        let lse = select(high + log(total), args.neg_inf, total == 0.0);
        lse_store(args.lse_offset + b * args.lse_s0 + h * args.lse_s1 + i * args.lse_s2, lse);
    }
}
