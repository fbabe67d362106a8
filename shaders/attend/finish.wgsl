// Row sums, sinks, lse and mass of a tile; leaves the factor of each row's output in row_factor.
fn finish(t: Tile, lane: u32, top: f32, part: f32) {
    row_part[lane] = part;
    workgroupBarrier();
    if (lane % 4u == 0u) {
        let r = lane / 4u;
        let at = row_at(t, r);
        let sum = row_part[lane] + row_part[lane + 1u] + row_part[lane + 2u] + row_part[lane + 3u];
        var factor = 1.0;
        var lse = args.neg_inf;
        var mass = sum;
        if (SOFTMAX) {
            var high = top;
            for (var n = 0u; n < args.sinks; n++) {
                high = max(high, sink(At(t.batch, at.head, at.row, 0, i32(n))));
            }
            let keep = select(0.0, exp(top - high), top > SEEN);
            var total = sum * keep;
            for (var n = 0u; n < args.sinks; n++) {
                total += exp(sink(At(t.batch, at.head, at.row, 0, i32(n))) - high);
            }
            factor = 0.0;
            if (high > SEEN || args.sinks > 0u) {
                lse = high + log(total);
                factor = keep / total;
            }
            // NaN compares false everywhere: a row that met one must show it.
            if (!(sum >= 0.0)) {
                factor = sum;
                lse = sum;
            }
            mass = sum * factor;
        }
        row_factor[r] = factor;
        if (at.valid) {
            lse_store(args.lse_offset + t.split * args.lse_s0 + t.batch * args.lse_s1 + at.head * args.lse_s2 + at.row * args.lse_s3, lse);
            mass_store(args.mass_offset + t.split * args.mass_s0 + t.batch * args.mass_s1 + at.head * args.mass_s2 + at.row * args.mass_s3, mass);
        }
    }
    workgroupBarrier();
}
