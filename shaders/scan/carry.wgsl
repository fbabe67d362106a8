// From what each segment of a scan adds to the states at the segments' starts, in place: a running sum with decay.
//
// One invocation: one vec4 of a row of the state of one (batch, head), all segments in order; the loads of four segments are in flight.
// No workgroup memory, no barriers.

const AHEAD: u32 = 4u;

fn kernel(group: u32, lane: u32) {
    let item = group * WORKGROUP + lane;
    if (item >= args.items) {
        return;
    }
    let column = item % args.vectors * 4u;
    let d = item / args.vectors % args.depth;
    let head = item / (args.vectors * args.depth) % args.heads;
    let batch = item / (args.vectors * args.depth * args.heads);
    let counts = HAS_Z && column == 0u;

    let before = args.state_in_offset + batch * args.state_in_s0 + head * args.state_in_s1 + d * args.state_in_s2;
    let row = args.state_offset + batch * args.state_s0 + head * args.segments * args.state_s1 + d * args.state_s2;
    let z_at = args.z_offset + batch * args.z_s0 + head * args.segments * args.z_s1 + d * args.z_s2;
    let total_at = args.total_offset + batch * args.total_s0 + head * args.segments * args.total_s1
        + d * args.total_s2 * args.channel;
    var x = state_in_load4(before, column, args.width);
    var z = 0.0;
    if (counts) {
        z = z_in(At(batch, head, 0u, 0, i32(d)));
    }
    for (var first = 0u; first < args.segments; first += AHEAD) {
        var sums = array<vec4<f32>, AHEAD>();
        var factors = array<f32, AHEAD>();
        var zs = array<f32, AHEAD>();
        for (var n = 0u; n < AHEAD; n++) { // unroll
            if (first + n < args.segments) {
                sums[n] = state_load4(row + (first + n) * args.state_s1, column, args.width);
                factors[n] = total_load(total_at + (first + n) * args.total_s1);
                if (counts) {
                    zs[n] = z_load(z_at + (first + n) * args.z_s1);
                }
            }
        }
        for (var n = 0u; n < AHEAD; n++) { // unroll
            if (first + n < args.segments) {
                state_store4(row + (first + n) * args.state_s1, column, args.width, x);
                x = select(x, factors[n] * x, DECAY) + sums[n];
                if (counts) {
                    z_store(z_at + (first + n) * args.z_s1, z);
                    z = select(z, factors[n] * z, DECAY) + zs[n];
                }
            }
        }
    }
    end_store4(args.end_offset + batch * args.end_s0 + head * args.end_s1 + d * args.end_s2, column, args.width, x);
    if (counts) {
        z_end_store(args.z_end_offset + batch * args.z_end_s0 + head * args.z_end_s1 + d * args.z_end_s2, z);
    }
}
