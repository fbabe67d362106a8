// Rotary position embedding: pairs of channels turned by an angle, from tables of cosines and sines, from an angle a position, or from
// real positions and a table of what each channel turns with.
//
// One thread: four neighbouring channels of one row. No workgroup memory.
// With THETA the angle is reduced exactly, in integers: a position times an angle in f32 alone is wrong by 0.01 at position 10^5.

// High word of a product of 32-bit numbers.
fn high(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let mid = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let cross = (a & 0xffffu) * (b >> 16u) + (mid & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (mid >> 16u) + (cross >> 16u);
}

// Angle / 2 pi modulo 1 as a fraction of 64 bits (high, low word), for |angle| < 2^24.
fn turns(angle: f32) -> vec2<u32> {
    let bits = bitcast<u32>(angle);
    let exponent = (bits >> 23u) & 0xffu;
    let mantissa = select(0u, (bits & 0x7fffffu) | 0x800000u, exponent > 0u);
    // angle = mantissa 2^-down; 1 / 2 pi in words of 2^-32, 2^-64, 2^-96.
    let down = 150u - min(exponent, 150u);
    var inverse = array<u32, 3>(0x7f09d5f4u, 0x9391054au, 0x28be60dbu);
    // mantissa * inverse, low word first.
    var product = array<u32, 4>();
    var carry = 0u;
    for (var n = 0u; n < 3u; n++) {
        let low = mantissa * inverse[n];
        product[n] = low + carry;
        carry = high(mantissa, inverse[n]) + select(0u, 1u, product[n] < low);
    }
    product[3] = carry;
    // Words 1 and 2 count 2^-64 and 2^-32 of a turn once moved down.
    var word = array<u32, 2>();
    for (var n = 0u; n < 2u; n++) {
        let word_at = n + 1u + down / 32u;
        let by = down % 32u;
        if (word_at < 4u) {
            word[n] = product[word_at] >> by;
            if (by > 0u && word_at < 3u) {
                word[n] |= product[word_at + 1u] << (32u - by);
            }
        }
    }
    if ((bits >> 31u) == 1u) {
        let low = ~word[0] + 1u;
        return vec2<u32>(~word[1] + select(0u, 1u, low == 0u), low);
    }
    return vec2<u32>(word[1], word[0]);
}

// Cosine and sine of a fraction of a turn in 2^-32; WGSL's own promise only 2^-11.
fn cos_sin(turn: u32) -> vec2<f32> {
    let quarter = (turn + 0x20000000u) >> 30u;
    let x = f32(bitcast<i32>(turn - (quarter << 30u))) * 1.4629180792671596e-9; // 2 pi / 2^32; |x| <= pi / 4
    let y = x * x;
    let s = x + x * y * (-1.6666666666e-1 + y * (8.3333331876e-3 + y * (-1.9841270114e-4 + y * 2.7557314297e-6)));
    let c = 1.0 + y * (-0.5 + y * (4.1666666642e-2 + y * (-1.3888888397e-3 + y * (2.4801587642e-5 - y * 2.7557314297e-7))));
    var r = vec2<f32>(c, s);
    if ((quarter & 1u) == 1u) {
        r = vec2<f32>(-s, c);
    }
    return select(r, -r, quarter >= 2u);
}

// A real position times an angle of t turns (64 bits behind the point), as a fraction of a turn in 2^-32, exactly: for |position| < 2^31.
fn turn_at(position: f32, t: vec2<u32>) -> u32 {
    let bits = bitcast<u32>(position);
    let exponent = (bits >> 23u) & 0xffu;
    let mantissa = select(0u, (bits & 0x7fffffu) | 0x800000u, exponent > 0u);
    // position = mantissa 2^(exponent - 150); the product of 88 bits, low word first.
    let carry = high(t.y, mantissa);
    let mid = t.x * mantissa + carry;
    var word = array<u32, 4>(t.y * mantissa, mid, high(t.x, mantissa) + select(0u, 1u, mid < carry), 0u);
    let down = 182u - min(exponent, 182u);
    let at = min(down / 32u, 3u);
    let by = down % 32u;
    var turn = word[at] >> by;
    if (by > 0u && at < 3u) {
        turn |= word[at + 1u] << (32u - by);
    }
    return select(turn, ~turn + 1u, (bits >> 31u) == 1u);
}

// A row of the table of channels.
fn number(row: u32, d: u32) -> i32 {
    return channel(At(0u, 0u, row, 0, i32(d)));
}

// Channel d by table: rows of `channel` are the two words of its turns a position, 2 partner + 1 for the second of a pair (-1 for a
// channel that passes through), and which of the row's positions it turns with.
fn turned(at: At, base: u32, d: u32) -> f32 {
    let x = x_load(base + d);
    let pair = number(2u, d);
    if (pair < 0) {
        return x;
    }
    let here = position(At(at.batch, at.head, at.row, 0, number(3u, d)));
    let r = cos_sin(turn_at(here, vec2<u32>(bitcast<u32>(number(0u, d)), bitcast<u32>(number(1u, d)))));
    return (x * r.x + x_load(base + u32(pair >> 1u)) * select(-r.y, r.y, (pair & 1) == 1)) * args.scale;
}

fn kernel(group: u32, lane: u32) {
    let n = group * WORKGROUP + lane;
    if (n >= args.rows * args.vectors) {
        return;
    }
    let row = n / args.vectors;
    let first = (n % args.vectors) * 4u;
    let i = row % args.length;
    let h = (row / args.length) % args.heads;
    let b = row / args.length / args.heads;
    let base = args.x_offset + b * args.x_s0 + h * args.x_s1 + i * args.x_s2;
    let pairs = args.depth / 2u;
    var y = vec4<f32>();
    for (var e = 0u; e < 4u; e++) {
        let d = first + e;
        if (d >= args.depth) {
            continue;
        }
        if (BY_CHANNEL) {
            y[e] = turned(At(b, h, i, 0, 0), base, d);
            continue;
        }
        let x = x_load(base + d);
        if (d >= 2u * pairs) {
            y[e] = x;
            continue;
        }
        var p = d % pairs;
        var second = d >= pairs;
        var other = (d + pairs) % (2u * pairs);
        if (INTERLEAVED) {
            p = d / 2u;
            second = d % 2u == 1u;
            other = d ^ 1u;
        }
        var r = vec2<f32>();
        if (THETA) {
            let t = turns(theta(At(b, h, 0u, 0, i32(p))));
            let place = args.position + i;
            r = cos_sin(t.x * place + high(t.y, place));
        } else {
            let at = At(b, h, i, 0, i32(p));
            r = vec2<f32>(cos(at), sin(at));
        }
        y[e] = x * r.x + x_load(base + other) * select(-r.y, r.y, second);
    }
    out_store4(args.out_offset + b * args.out_s0 + h * args.out_s1 + i * args.out_s2, first, args.depth, select(y * args.scale, y, BY_CHANNEL));
}
