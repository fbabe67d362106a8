// Causal depthwise convolution over the tokens, with the inputs before the first token as state.
//
// One thread: four neighbouring channels of one token. No workgroup memory, no barriers.

// Channels d .. d + 4 of token t of the stream that starts TAPS - 1 tokens before x.
fn token(b: u32, h: u32, t: u32, d: u32) -> vec4<f32> {
    if (t < args.taps - 1u) {
        return state_in_load4(args.state_in_offset + b * args.state_in_s0 + h * args.state_in_s1 + t * args.state_in_s2, d, args.width);
    }
    return x_load4(args.x_offset + b * args.x_s0 + h * args.x_s1 + (t - args.taps + 1u) * args.x_s2, d, args.width);
}

fn kernel(group: u32, lane: u32) {
    let n = group * WORKGROUP + lane;
    if (n >= args.rows * args.vectors) {
        return;
    }
    let row = n / args.vectors;
    let d = n % args.vectors * 4u;
    let i = row % (args.length + args.taps - 1u);
    let h = row / (args.length + args.taps - 1u) % args.heads;
    let b = row / (args.length + args.taps - 1u) / args.heads;
    if (i >= args.length) {
        // The last inputs are the state of the next call.
        let s = i - args.length;
        state_store4(args.state_offset + b * args.state_s0 + h * args.state_s1 + s * args.state_s2, d, args.width, token(b, h, i, d));
        return;
    }
    var sum = vec4<f32>();
    for (var e = 0u; e < 4u; e++) {
        sum[e] = bias(At(b, h, 0u, 0, i32(min(d + e, args.width - 1u))));
    }
    for (var tap = 0u; tap < args.taps; tap++) {
        let x = token(b, h, i + tap, d);
        var w = vec4<f32>();
        for (var e = 0u; e < 4u; e++) {
            if (d + e < args.width) {
                w[e] = weight_load(args.weight_offset + h * args.weight_s0 + (d + e) * args.weight_s1 + tap * args.weight_s2);
            }
        }
        sum += w * x;
    }
    var y = sum;
    if (SILU) {
        let e = exp(-abs(sum));
        y *= select(e, vec4<f32>(1.0), sum >= vec4<f32>()) / (1.0 + e);
    }
    out_store4(args.out_offset + b * args.out_s0 + h * args.out_s1 + i * args.out_s2, d, args.width, y);
}
