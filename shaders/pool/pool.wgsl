// Windows along axis 3: sums of taps, weighted or averaged over the taps that exist.
//
// One thread: four neighbouring elements of one window. No workgroup memory.

fn kernel(group: u32, lane: u32) {
    var rest = group * WORKGROUP + lane;
    if (rest >= args.total) {
        return;
    }
    let d = (rest % args.vectors) * 4u;
    rest /= args.vectors;
    let n = rest % args.windows;
    rest /= args.windows;
    let c = rest % args.size_c;
    rest /= args.size_c;
    let b = rest % args.size_b;
    let a = rest / args.size_b;

    let x_base = args.x_offset + a * args.x_s0 + b * args.x_s1 + c * args.x_s2;
    let start = i32(n) * args.step - args.before;
    let first = max(-start, 0);
    let end = min(args.taps, args.length - start);
    var sum = vec4<f32>();
    for (var t = first; t < end; t++) {
        let x = x_load4(x_base + u32(start + t) * args.x_s3, d, args.width);
        if (WEIGHTED) {
            sum += tap(At(a, b, c, 0, t)) * x;
        } else {
            sum += x;
        }
    }
    if (MEAN) {
        sum /= f32(max(end - first, 1));
    }
    let out_base = args.out_offset + a * args.out_s0 + b * args.out_s1 + c * args.out_s2 + n * args.out_s3;
    out_store4(out_base, d, args.width, sum);
}
