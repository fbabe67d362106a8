// The recurrence token by token: everything, erase included. For few tokens, for erase, and for states too deep for `scan/chunk`.
//
// One workgroup: one (batch, head) and COLUMNS vec4 of value columns, all tokens in order; its part of the state is in registers.
// Threads: GROUPS of rows x COLUMNS; a thread holds rows r GROUPS + its group of one column. Step n writes token n and reads with query
// n - args.shift: the read of the state before a step and a^T S of that step share one sum over the groups.
// Workgroup memory: 4 D VECTORS TOKENS (vectors of the staged tokens) + 16 COLUMNS TOKENS + 3 KiB, + 2 KiB with erase.
// Barriers: 1 a step, 2 every TOKENS steps.

const GROUPS: u32 = WORKGROUP / COLUMNS;
const ROWS: u32 = DEPTH / GROUPS;
// Vectors of a token in the order they are staged.
const DECAY: u32 = 2u;
const LEFT: u32 = 2u + u32(CHANNEL);
const RIGHT: u32 = LEFT + 1u;

var<workgroup> vectors: array<f32, TOKENS * VECTORS * DEPTH>; // [TOKENS, VECTORS, DEPTH]: q, w k, e^g - 1, a, b
var<workgroup> values: array<vec4<f32>, TOKENS * COLUMNS>;
var<workgroup> decays: array<f32, TOKENS>;                    // e^g - 1
var<workgroup> read_part: array<vec4<f32>, 2u * WORKGROUP>;   // q^T S of each thread, of this step and the one before
var<workgroup> left_part: array<vec4<f32>, LEFT_PARTS>;       // a^T S
var<workgroup> row_part: array<vec2<f32>, 2u * GROUPS>;       // q·z and q·(u k)

// Four channels of one of the vectors of step n.
fn vector4(t: Tile, which: u32, n: u32, d: u32) -> vec4<f32> {
    if (which == 0u) {
        var x = vec4<f32>();
        if (n >= args.shift) {
            x = q_load4(q_row(t, n - args.shift), d, args.depth) * args.scale;
        }
        return x;
    }
    if (which == 1u) {
        return written_key(t, n, d);
    }
    if (!kept(t, n)) {
        return vec4<f32>();
    }
    if (CHANNEL && which == DECAY) {
        let g = g_load4(g_row(t, n), d, args.depth);
        return vec4<f32>(less_one(g.x), less_one(g.y), less_one(g.z), less_one(g.w));
    }
    if (DELTA) {
        if (which != LEFT) {
            return -written_key(t, n, d);
        }
        var factor = vec4<f32>(exp(token_decay(t, n)));
        if (CHANNEL) {
            factor = exp(g_load4(g_row(t, n), d, args.depth));
        }
        return factor * k_load4(k_row(t, n), d, args.depth);
    }
    if (PACKED) {
        let side = select(1u, 0u, which == LEFT);
        let row = args.ab_offset + side * args.ab_s0 + t.batch * args.ab_s1 + (t.head / args.ab_share) * args.ab_s2 + n * args.ab_s3;
        return ab_load4(row, d, args.depth);
    }
    if (which == LEFT) {
        return a_load4(args.a_offset + t.batch * args.a_s0 + (t.head / args.a_share) * args.a_s1 + n * args.a_s2, d, args.depth);
    }
    return b_load4(args.b_offset + t.batch * args.b_s0 + (t.head / args.b_share) * args.b_s1 + n * args.b_s2, d, args.depth);
}

fn stage(t: Tile, lane: u32, first: u32, count: u32) {
    const QUADS: u32 = DEPTH / 4u;
    for (var n = lane; n < count * VECTORS * QUADS; n += WORKGROUP) {
        let x = vector4(t, (n / QUADS) % VECTORS, first + n / (VECTORS * QUADS), (n % QUADS) * 4u);
        for (var e = 0u; e < 4u; e++) {
            vectors[n * 4u + e] = x[e];
        }
    }
    for (var n = lane; n < count * COLUMNS; n += WORKGROUP) {
        let token = first + n / COLUMNS;
        var x = vec4<f32>();
        if (kept(t, token)) {
            x = v_load4(v_row(t, token), t.column + (n % COLUMNS) * 4u, args.width);
        }
        values[n] = x;
    }
    if (SCALAR) {
        for (var n = lane; n < count; n += WORKGROUP) {
            decays[n] = less_one(token_decay(t, first + n));
        }
    }
}

// e^g - 1 of a row at a staged token.
fn decay_of(m: u32, d: u32) -> f32 {
    if (CHANNEL) {
        return vectors[(m * VECTORS + DECAY) * DEPTH + d];
    }
    if (SCALAR) {
        return decays[m];
    }
    return 0.0;
}

// The read of query i for one column: the groups' parts, the bonus, the divisor.
fn finish(t: Tile, column: u32, i: u32, m: u32, buffer: u32) {
    var x = vec4<f32>();
    var row = vec2<f32>();
    for (var g = 0u; g < GROUPS; g++) {
        x += read_part[buffer * WORKGROUP + g * COLUMNS + column];
        row += row_part[buffer * GROUPS + g];
    }
    if (READ_BEFORE) {
        x += row.y * values[m * COLUMNS + column];
    }
    out_store4(out_row(t, i), t.column + column * 4u, args.width, divided(x, row.x));
}

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group);
    let column = lane % COLUMNS;
    let rows = lane / COLUMNS;
    var s: array<vec4<f32>, ROWS>;
    var z: array<f32, ROWS>;
    var bonus: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) { // unroll
        let d = r * GROUPS + rows;
        if (d < args.depth) {
            s[r] = state_before(t, d, t.column + column * 4u);
            if (HAS_Z) {
                z[r] = z_before(t, d);
            }
            if (READ_BEFORE) {
                bonus[r] = u(At(t.batch, t.head, 0u, 0, i32(d)));
            }
        }
    }

    for (var first = 0u; first < args.steps; first += TOKENS) {
        let count = min(TOKENS, args.steps - first);
        workgroupBarrier();
        stage(t, lane, first, count);
        workgroupBarrier();
        for (var m = 0u; m < count; m++) {
            let n = first + m;
            let buffer = n % 2u;
            let at = m * VECTORS * DEPTH + rows;
            var read = vec4<f32>();
            var left = vec4<f32>();
            var row = vec2<f32>();
            for (var r = 0u; r < ROWS; r++) { // unroll
                let d = at + r * GROUPS;
                let q = vectors[d];
                read += q * s[r];
                if (ERASE) {
                    left += vectors[d + LEFT * DEPTH] * s[r];
                }
                if (READ_BEFORE) {
                    row.y += q * bonus[r] * vectors[d + DEPTH];
                }
                if (HAS_Z) {
                    // The divisor counts the token itself, even where the read does not.
                    let next = z[r] + decay_of(m, r * GROUPS + rows) * z[r] + vectors[d + DEPTH];
                    row.x += q * select(z[r], next, READ_BEFORE);
                    z[r] = next;
                }
            }
            read_part[buffer * WORKGROUP + lane] = read;
            if (ERASE) {
                left_part[buffer * WORKGROUP + lane] = left;
            }
            if (column == 0u) {
                row_part[buffer * GROUPS + rows] = row;
            }
            workgroupBarrier();

            if (lane < COLUMNS && n >= args.shift) {
                finish(t, column, n - args.shift, m, buffer);
            }
            var erased = vec4<f32>();
            if (ERASE) {
                for (var g = 0u; g < GROUPS; g++) {
                    erased += left_part[buffer * WORKGROUP + g * COLUMNS + column];
                }
            }
            let value = values[m * COLUMNS + column];
            for (var r = 0u; r < ROWS; r++) { // unroll
                let d = at + r * GROUPS;
                s[r] += decay_of(m, r * GROUPS + rows) * s[r] + vectors[d + DEPTH] * value;
                if (ERASE) {
                    s[r] += vectors[d + RIGHT * DEPTH] * erased;
                }
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) { // unroll
        let d = r * GROUPS + rows;
        if (d < args.depth) {
            state_store4(new_row(t, d), t.column + column * 4u, args.width, s[r]);
        }
    }
    if (HAS_Z && t.column == 0u) {
        workgroupBarrier();
        for (var r = 0u; r < ROWS; r++) { // unroll
            vectors[r * GROUPS + rows] = z[r];
        }
        workgroupBarrier();
        for (var d = lane * 4u; d < args.depth; d += WORKGROUP * 4u) {
            z_store4(z_row(t), d, args.depth, vec4<f32>(vectors[d], vectors[d + 1u], vectors[d + 2u], vectors[d + 3u]));
        }
    }
}
