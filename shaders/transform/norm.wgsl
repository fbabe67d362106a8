// RMS norm of rows without weights, times the activation of a gate.
//
// One workgroup: WORKGROUP / 16 rows, 16 threads a row, each for every 16th vec4. Workgroup memory: 0.5 KiB. Barriers: 1.

const LANES: u32 = 16u;

var<workgroup> parts: array<f32, WORKGROUP>;

// 1 / (1 + e^-x) without an overflow.
fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    let e = exp(-abs(x));
    return select(e, vec4<f32>(1.0), x >= vec4<f32>()) / (1.0 + e);
}

fn kernel(group: u32, lane: u32) {
    let part = lane % LANES;
    let valid = group * (WORKGROUP / LANES) + lane / LANES < args.rows;
    let row = min(group * (WORKGROUP / LANES) + lane / LANES, args.rows - 1u);
    let i = row % args.length;
    let h = (row / args.length) % args.heads;
    let b = row / args.length / args.heads;
    let base = args.x_offset + b * args.x_s0 + h * args.x_s1 + i * args.x_s2;
    let out = args.out_offset + b * args.out_s0 + h * args.out_s1 + i * args.out_s2;
    let gates = args.gate_offset + b * args.gate_s0 + (h / args.gate_share) * args.gate_s1 + i * args.gate_s2;

    var own = 0.0;
    for (var d = part * 4u; d < args.width; d += LANES * 4u) {
        let x = x_load4(base, d, args.width);
        own += dot(x, x);
    }
    parts[lane] = own;
    workgroupBarrier();
    var sum = 0.0;
    for (var n = 0u; n < LANES; n++) {
        sum += parts[lane - part + n];
    }
    let mean = sum / f32(args.width) + args.eps;
    // A row of zeros without eps.
    let factor = select(args.scale / sqrt(mean), 0.0, mean == 0.0);
    if (valid) {
        for (var d = part * 4u; d < args.width; d += LANES * 4u) {
            var x = x_load4(base, d, args.width) * factor;
            if (GATED) {
                let gate = gate_load4(gates, d, args.width);
                x *= sigmoid(gate);
                if (SILU) {
                    x *= gate;
                }
            }
            out_store4(out, d, args.width, x);
        }
    }
}
