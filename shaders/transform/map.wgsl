// Feature maps of rows, by FEATURE (the order of `transform::Feature`).
//
// One workgroup: WORKGROUP / 16 rows, 16 threads a row, each for every 16th vec4 of the features.
// Workgroup memory: 0.5 KiB. Barriers: 4 where the map is a softmax, else none.

const LANES: u32 = 16u;
const EXP: u32 = 6u;
const SOFTMAX: u32 = 7u;
const HEDGEHOG: u32 = 8u;
const TAYLOR: u32 = 9u;
const TAYLOR_COMPACT: u32 = 10u;
const EXP_PM: u32 = 12u;
const PAD: u32 = 13u;

var<workgroup> parts: array<f32, WORKGROUP>;

fn each(x: f32) -> f32 {
    return elementwise(FEATURE, x);
}

fn channel(base: u32, i: u32) -> f32 {
    return feature(x_load(base + i));
}

// Channel i of max([x, -x], 0).
fn rectified(base: u32, i: u32) -> f32 {
    if (i < args.depth) {
        return max(channel(base, i), 0.0);
    }
    return max(-channel(base, i - args.depth), 0.0);
}

// x_i x_j of the pair number n, (0, 1), (0, 2) .. (1, 2) ..
fn pair(base: u32, n: u32) -> f32 {
    let d = args.depth;
    // The root tells i but for rounding; row i begins at i (2 d - i - 1) / 2.
    let b = f32(2u * d - 1u);
    var i = u32(max((b - sqrt(max(b * b - 8.0 * f32(n), 0.0))) * 0.5, 0.0));
    while (i > 0u && i * (2u * d - i - 1u) / 2u > n) {
        i--;
    }
    while ((i + 1u) * (2u * d - i - 2u) / 2u <= n) {
        i++;
    }
    return channel(base, i) * channel(base, n - i * (2u * d - i - 1u) / 2u + i + 1u);
}

// Feature n of a row that is not elementwise; `high` and `sum` of its softmax.
fn value(base: u32, n: u32, high: f32, sum: f32) -> f32 {
    let d = args.depth;
    if (n >= args.width) {
        return 0.0;
    }
    if (FEATURE == SOFTMAX) {
        return exp(channel(base, n) - high) / sum;
    }
    if (FEATURE == HEDGEHOG) {
        return exp(select(2.0, -2.0, n >= d) * channel(base, n % d) - high) / sum;
    }
    if (FEATURE == EXP_PM) {
        return exp(select(1.0, -1.0, n >= d) * channel(base, n % d));
    }
    if (FEATURE == PAD) {
        return select(0.0, channel(base, n % d), n < d);
    }
    if (FEATURE == TAYLOR || FEATURE == TAYLOR_COMPACT) {
        if (n == 0u) {
            return 1.0;
        }
        if (n <= d) {
            return channel(base, n - 1u) * args.linear;
        }
        let m = n - 1u - d;
        if (FEATURE == TAYLOR) {
            return channel(base, m / d) * channel(base, m % d) * args.square;
        }
        if (m < d) {
            return channel(base, m) * channel(base, m) * args.square;
        }
        return pair(base, m - d) * args.cross;
    }
    let i = n % (2u * d);
    let shift = n / (2u * d) + 1u;
    return rectified(base, i) * rectified(base, (i + 2u * d - shift % (2u * d)) % (2u * d));
}

fn kernel(group: u32, lane: u32) {
    let part = lane % LANES;
    let first = lane - part;
    let row = min(group * (WORKGROUP / LANES) + lane / LANES, args.rows - 1u);
    let valid = group * (WORKGROUP / LANES) + lane / LANES < args.rows;
    let i = row % args.length;
    let h = (row / args.length) % args.heads;
    let b = row / args.length / args.heads;
    let base = args.x_offset + b * args.x_s0 + h * args.x_s1 + i * args.x_s2;
    let out = args.out_offset + b * args.out_s0 + h * args.out_s1 + i * args.out_s2;

    if (FEATURE < SOFTMAX) {
        for (var d = part * 4u; d < args.width; d += LANES * 4u) {
            let x = x_load4(base, d, args.depth);
            if (valid) {
                out_store4(out, d, args.width, vec4<f32>(each(feature(x.x)), each(feature(x.y)), each(feature(x.z)), each(feature(x.w))));
            }
        }
        return;
    }
    var high = -1e30;
    var sum = 0.0;
    if (FEATURE == SOFTMAX || FEATURE == HEDGEHOG) {
        for (var d = part; d < args.depth; d += LANES) {
            let x = channel(base, d);
            high = max(high, select(x, 2.0 * abs(x), FEATURE == HEDGEHOG));
        }
        parts[lane] = high;
        workgroupBarrier();
        for (var n = 0u; n < LANES; n++) {
            high = max(high, parts[first + n]);
        }
        workgroupBarrier();
        var own = 0.0;
        for (var d = part; d < args.depth; d += LANES) {
            let x = channel(base, d);
            if (FEATURE == SOFTMAX) {
                own += exp(x - high);
            } else {
                own += exp(2.0 * x - high) + exp(-2.0 * x - high);
            }
        }
        parts[lane] = own;
        workgroupBarrier();
        for (var n = 0u; n < LANES; n++) {
            sum += parts[first + n];
        }
    }
    if (valid) {
        for (var d = part * 4u; d < args.width; d += LANES * 4u) {
            let x = vec4<f32>(
                value(base, d, high, sum),
                value(base, d + 1u, high, sum),
                value(base, d + 2u, high, sum),
                value(base, d + 3u, high, sum),
            );
            out_store4(out, d, args.width, x);
        }
    }
}
