// Hooks, weights and row statistics of attend/tile.

// Hooks and mask over the scores of one slot that a thread left in `operands`; masked pairs hold MASKED (or weight 0 without softmax).
fn hooked(t: Tile, first: i32, slot: u32, rows: u32, column: u32, unmasked: bool) {
    let key = key_at(first, slot % K_ROW * 4u + slot / K_ROW);
    for (var n = 0u; n < ROWS_EACH; n++) {
        let four = rows + n / 4u * 8u;
        let row = four * 4u + n % 4u;
        let place = column * WEIGHTS + four;
        let at = row_at(t, row);
        let query = position(t, at.row);
        let pair = At(t.batch, at.head, at.row, query, key);
        var x = select(0.0, MASKED, SOFTMAX);
        if (allowed_in(t, at, query, row_bounds[row], key, unmasked)) {
            x = score(operands[place][n % 4u] * args.scale, pair);
            if (SOFTMAX) {
                // A bias of -inf masks too. Written so that NaN stays.
                x = select(x * LOG2_E, MASKED, x < MASKED);
            } else {
                x = weight(x, pair);
            }
        }
        operands[place][n % 4u] = x;
    }
}

// min lo, max hi, max lo, min hi of the rows. Rows past the end (lo beyond any key) do not count.
fn bounds_of_all() -> vec4<i32> {
    var b = vec4<i32>(0x3fffffff, 0, 0, 0x3fffffff);
    for (var r = 0u; r < TILE_Q; r++) {
        let row = row_bounds[r];
        if (row.x < 0x3fffffff) {
            b = vec4<i32>(min(b.x, row.x), max(b.y, row.y), max(b.z, row.x), min(b.w, row.y));
        }
    }
    return b;
}

fn highest(x: vec4<f32>) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}

fn total(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

// Scores become weights relative to the rows' maxima, in powers of two. A maximum is kept until a score is far above it: sums of what was
// weighed before are changed only then.
fn weigh(lane: u32, rows: u32, column: u32, factor: f32, s: ptr<function, array<vec4<f32>, ROWS_EACH * K4>>,
         top: ptr<function, array<vec4<f32>, R4>>, sum: ptr<function, array<vec4<f32>, R4>>,
         acc: ptr<function, array<vec4<f32>, ROWS_EACH * VALUE_VECS>>) {
    var high: array<vec4<f32>, R4>;
    var above = vec4<f32>();
    for (var r = 0u; r < R4; r++) { // unroll
        for (var n = 0u; n < K4; n++) { // unroll
            let x = vec4<f32>(highest((*s)[r * 4u * K4 + n]), highest((*s)[(r * 4u + 1u) * K4 + n]),
                highest((*s)[(r * 4u + 2u) * K4 + n]), highest((*s)[(r * 4u + 3u) * K4 + n]));
            high[r] = select(max(high[r], x), x, n == 0u);
        }
        high[r] *= factor;
        above = max(above, high[r] - (*top)[r]);
    }
    if (highest(above) > GROWN) {
        grown = 1u;
    }
    if (workgroupUniformLoad(&grown) != 0u) {
        for (var r = 0u; r < R4; r++) { // unroll
            operands[column * WEIGHTS + rows + r * 8u] = high[r];
        }
        workgroupBarrier();
        if (lane == 0u) {
            grown = 0u;
        }
        for (var r = 0u; r < R4; r++) { // unroll
            var best = (*top)[r];
            for (var n = 0u; n < COLUMNS; n++) {
                best = max(best, operands[n * WEIGHTS + rows + r * 8u]);
            }
            let kept = exp2((*top)[r] - best);
            (*top)[r] = best;
            (*sum)[r] *= kept;
            for (var n = 0u; n < VALUE_VECS; n++) { // unroll
                (*acc)[r * 4u * VALUE_VECS + n] *= kept.x;
                (*acc)[(r * 4u + 1u) * VALUE_VECS + n] *= kept.y;
                (*acc)[(r * 4u + 2u) * VALUE_VECS + n] *= kept.z;
                (*acc)[(r * 4u + 3u) * VALUE_VECS + n] *= kept.w;
            }
        }
        workgroupBarrier();
    }
    for (var r = 0u; r < ROWS_EACH; r++) { // unroll
        for (var n = 0u; n < K4; n++) { // unroll
            (*s)[r * K4 + n] = exp2((*s)[r * K4 + n] * factor - (*top)[r / 4u][r % 4u]);
        }
    }
}

// Scores outside of the rows' bounds.
fn hide(first: i32, rows: u32, column: u32, s: ptr<function, array<vec4<f32>, ROWS_EACH * K4>>) {
    for (var r = 0u; r < ROWS_EACH; r++) { // unroll
        let mine = row_bounds[(rows + r / 4u * 8u) * 4u + r % 4u];
        for (var n = 0u; n < K4; n++) { // unroll
            let j = vec4<i32>(first + i32((column + n * COLUMNS) * 4u)) + vec4<i32>(0, 1, 2, 3);
            let seen = (j >= vec4<i32>(mine.x)) & (j < vec4<i32>(mine.y));
            (*s)[r * K4 + n] = select(vec4<f32>(select(MASKED, args.masked, FUSED)), (*s)[r * K4 + n], seen);
        }
    }
}

// Weights of the keys that are staged, from the part's `start` on, times their values.
fn add_values(rows: u32, column: u32, start: u32, acc: ptr<function, array<vec4<f32>, ROWS_EACH * VALUE_VECS>>) {
    for (var e = 0u; e < VALUE_KEYS; e += VALUE_UNROLL) {
        for (var u = 0u; u < VALUE_UNROLL; u++) { // unroll
            var x = array<vec4<f32>, VALUE_VECS>();
            for (var c = 0u; c < VALUE_VECS; c++) { // unroll
                x[c] = operands[VALUES + (e + u) * VALUE_ROW + column + c * COLUMNS];
            }
            for (var r = 0u; r < R4; r++) { // unroll
                let w = operands[(start + e + u) * WEIGHTS + rows + r * 8u];
                for (var c = 0u; c < VALUE_VECS; c++) { // unroll
                    (*acc)[r * 4u * VALUE_VECS + c] += w.x * x[c];
                    (*acc)[(r * 4u + 1u) * VALUE_VECS + c] += w.y * x[c];
                    (*acc)[(r * 4u + 2u) * VALUE_VECS + c] += w.z * x[c];
                    (*acc)[(r * 4u + 3u) * VALUE_VECS + c] += w.w * x[c];
                }
            }
        }
    }
}

// What stage_values left out, for the rows that see it.
fn add_stained(t: Tile, first: i32, last: i32, rows: u32, column: u32, part: u32, start: u32,
               acc: ptr<function, array<vec4<f32>, ROWS_EACH * VALUE_VECS>>) {
    let begin = args.v_offset + t.batch * args.v_s0 + t.kv_head * args.v_s1;
    for (var n = 0u; n < VALUE_KEYS; n++) {
        let j = key_at(first, (part + n) % K_ROW * 4u + (part + n) / K_ROW);
        for (var c = 0u; c < VALUE_VECS; c++) { // unroll
            let x = v_real(v_raw4(begin + u32(clamp(j, 0, last - 1)) * args.v_s2, (column + c * COLUMNS) * 4u, args.width));
            let bad = endless(x);
            if (any(bad)) {
                for (var r = 0u; r < ROWS_EACH; r++) { // unroll
                    let w = operands[(start + n) * WEIGHTS + rows + r / 4u * 8u][r % 4u];
                    (*acc)[r * VALUE_VECS + c] += select(vec4<f32>(), w * x, bad & vec4<bool>(w != 0.0));
                }
            }
        }
    }
}
