// The elementwise recurrence h_pn = e^(dt_p a_pn) h_pn + dt_p u_p b_n, read as y_p = sum_n c_n h_pn + skip_p u_p.
//
// One workgroup: CHANNELS channels of one batch entry, all tokens in order. Threads: LANES a channel, a lane holds every LANES-th state
// in registers. Workgroup memory: 0.5 KiB. Barriers: 2 a token.

const CHANNELS: u32 = WORKGROUP / LANES;

var<workgroup> parts: array<f32, WORKGROUP>;

fn kernel(group: u32, lane: u32) {
    let b = group / args.tiles;
    let p = group % args.tiles * CHANNELS + lane / LANES;
    let l = lane % LANES;
    let valid = p < args.channels;
    var h = array<f32, EACH>();
    var rate = array<f32, EACH>();
    for (var e = 0u; e < EACH; e++) { // unroll
        let n = e * LANES + l;
        if (valid && n < args.states) {
            h[e] = state_in_load(args.state_in_offset + b * args.state_in_s0 + p * args.state_in_s1 + n * args.state_in_s2);
            rate[e] = a_load(args.a_offset + p * args.a_s0 + n * args.a_s1);
        }
    }
    for (var t = 0u; t < args.tokens; t++) {
        var u = 0.0;
        var step = 0.0;
        if (valid) {
            u = u_load(args.u_offset + b * args.u_s0 + t * args.u_s1 + p * args.u_s2);
            step = dt_load(args.dt_offset + b * args.dt_s0 + t * args.dt_s1 + p * args.dt_s2);
        }
        var sum = 0.0;
        for (var e = 0u; e < EACH; e++) { // unroll
            let n = e * LANES + l;
            if (n < args.states) {
                let x = b_load(args.b_offset + b * args.b_s0 + t * args.b_s1 + n * args.b_s2);
                h[e] = exp(step * rate[e]) * h[e] + step * u * x;
                sum += h[e] * c_load(args.c_offset + b * args.c_s0 + t * args.c_s1 + n * args.c_s2);
            }
        }
        parts[lane] = sum;
        workgroupBarrier();
        if (l == 0u && valid) {
            var y = u * skip(At(b, 0u, 0u, 0, i32(p)));
            for (var n = 0u; n < LANES; n++) {
                y += parts[lane + n];
            }
            out_store(args.out_offset + b * args.out_s0 + t * args.out_s1 + p * args.out_s2, y);
        }
        workgroupBarrier();
    }
    for (var e = 0u; e < EACH; e++) { // unroll
        let n = e * LANES + l;
        if (valid && n < args.states) {
            state_store(args.state_offset + b * args.state_s0 + p * args.state_s1 + n * args.state_s2, h[e]);
        }
    }
}
