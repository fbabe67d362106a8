// The end of a row: sinks, lse and mass stored, the factor of its output returned. `top` is the row's maximum (at most MASKED for a row
// that saw no key), `sum` the sum of its weights relative to it; `writes` in the one invocation that stores.
fn finish_row(t: Tile, at: RowAt, top: f32, sum: f32, writes: bool) -> f32 {
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
        // Sinks of -inf add nothing to an empty row.
        if (total > 0.0) {
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
    if (at.valid && writes) {
        lse_store(args.lse_offset + t.split * args.lse_s0 + t.batch * args.lse_s1 + at.head * args.lse_s2 + at.row * args.lse_s3, lse);
        mass_store(args.mass_offset + t.split * args.mass_s0 + t.batch * args.mass_s1 + at.head * args.mass_s2 + at.row * args.mass_s3, mass);
    }
    return factor;
}
