// Sum of up to three results, each times a gate of its row.
//
// One thread: four neighbouring elements of one row. No workgroup memory.

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

    let gate = args.gates_offset + b * args.gates_s0 + h * args.gates_s1 + i * args.gates_s2;
    let x0 = x0_load4(args.x0_offset + b * args.x0_s0 + h * args.x0_s1 + i * args.x0_s2, d, args.width);
    var sum = gates_load(gate) * x0;
    if (PARTS > 1u) {
        let x1 = x1_load4(args.x1_offset + b * args.x1_s0 + h * args.x1_s1 + i * args.x1_s2, d, args.width);
        sum += gates_load(gate + args.gates_s3) * x1;
    }
    if (PARTS > 2u) {
        let x2 = x2_load4(args.x2_offset + b * args.x2_s0 + h * args.x2_s1 + i * args.x2_s2, d, args.width);
        sum += gates_load(gate + 2u * args.gates_s3) * x2;
    }
    let out = args.out_offset + b * args.out_s0 + h * args.out_s1 + i * args.out_s2;
    out_store4(out, d, args.width, sum);
}
