// One key tile of `attend/tile`: scores, normaliser, products with the values.

// Nothing but the rows' bounds decides what is seen of keys that follow each other.
fn is_straight(t: Tile, bounds: vec4<i32>, slot: u32) -> bool {
    let unmasked = !HAS_MASK || keys_full(t, bounds, slot);
    return SOFTMAX & !HAS_SCORE & unmasked & keys_run(slot);
}

// Every row sees every key.
fn sees_whole(t: Tile, bounds: vec4<i32>, slot: u32) -> bool {
    let first = keys_at(t, bounds, slot);
    return is_straight(t, bounds, slot) & (first >= bounds.z) & (first + i32(TILE_K) <= bounds.w);
}

fn find_keys(t: Tile, bounds: vec4<i32>, lane: u32, slot: u32) {
    if (!RUN) {
        workgroupBarrier();
        for (var n = lane; n < TILE_K; n += WORKGROUP) {
            key_of[n] = keys_at(t, bounds, slot + n);
        }
        workgroupBarrier();
    }
}

// `first`: the tile's first key; `last`: where keys end; `unmasked`: hooks mask nothing of it.
fn visit(t: Tile, lane: u32, rows: u32, column: u32, first: i32, last: i32, unmasked: bool, straight: bool, whole: bool,
         q_base: ptr<function, array<u32, 4u * Q_EACH>>, q_next: ptr<function, array<q_raw, 4u * Q_EACH>>,
         k_next: ptr<function, array<k_raw, 4u * K_EACH>>, v_next: ptr<function, array<v_raw, V_EACH>>,
         top: ptr<function, array<vec4<f32>, R4>>, sum: ptr<function, array<vec4<f32>, R4>>,
         acc: ptr<function, array<vec4<f32>, ROWS_EACH * VALUE_VECS>>) {
    var s = array<vec4<f32>, ROWS_EACH * K4>();
    if (!(RUN & PREFETCH)) {
        ask(t, lane, first, last, 0u, q_base, q_next, k_next);
    }
    for (var depth = 0u; depth < args.depth; depth += CHUNK * 4u) {
        for (var n = 0u; n < Q_EACH; n++) { // unroll
            stage(0u, Q_ROW, lane + n * WORKGROUP, depth, q_real((*q_next)[n * 4u]), q_real((*q_next)[n * 4u + 1u]),
                q_real((*q_next)[n * 4u + 2u]), q_real((*q_next)[n * 4u + 3u]));
        }
        for (var n = 0u; n < K_EACH; n++) { // unroll
            stage(KEYS, K_ROW, lane + n * WORKGROUP, depth, k_real((*k_next)[n * 4u]), k_real((*k_next)[n * 4u + 1u]),
                k_real((*k_next)[n * 4u + 2u]), k_real((*k_next)[n * 4u + 3u]));
        }
        workgroupBarrier();
        let more = depth + CHUNK * 4u < args.depth;
        if (PREFETCH & more) {
            ask(t, lane, first, last, depth + CHUNK * 4u, q_base, q_next, k_next);
        }
        for (var start = 0u; start < CHUNK * 4u; start += UNROLL) {
            for (var u = 0u; u < UNROLL; u++) { // unroll
                let d = start + u;
                let turned = d / 4u * 2u;       // as `stage` left them
                var k = array<vec4<f32>, K4>();
                for (var n = 0u; n < K4; n++) { // unroll
                    k[n] = operands[KEYS + d * K_ROW + n * COLUMNS + (column ^ turned)];
                }
                for (var r = 0u; r < R4; r++) { // unroll
                    let x = operands[d * Q_ROW + r * 8u + (rows ^ turned)];
                    for (var n = 0u; n < K4; n++) { // unroll
                        s[r * 4u * K4 + n] += x.x * k[n];
                        s[(r * 4u + 1u) * K4 + n] += x.y * k[n];
                        s[(r * 4u + 2u) * K4 + n] += x.z * k[n];
                        s[(r * 4u + 3u) * K4 + n] += x.w * k[n];
                    }
                }
            }
        }
        workgroupBarrier();
        if (!PREFETCH & more) {
            ask(t, lane, first, last, depth + CHUNK * 4u, q_base, q_next, k_next);
        }
    }
    if (PREFETCH) {
        ask_values(t, lane, first, last, 0u, v_next);
    }

    if (!straight) {
        // Through workgroup memory, because copies of the hooks for every score would make the shader long. Nobody else touches
        // the vec4 of this thread, so no barrier is needed.
        for (var turn = 0u; turn < 4u; turn++) {
            for (var n = 0u; n < K4; n++) { // unroll
                for (var r = 0u; r < R4; r++) { // unroll
                    operands[column * WEIGHTS + rows + r * 8u] = vec4<f32>(s[r * 4u * K4 + n].x, s[(r * 4u + 1u) * K4 + n].x,
                        s[(r * 4u + 2u) * K4 + n].x, s[(r * 4u + 3u) * K4 + n].x);
                }
                hooked(t, first, turn * K_ROW + n * COLUMNS + column, rows, column, unmasked);
                for (var r = 0u; r < R4; r++) { // unroll
                    let four = operands[column * WEIGHTS + rows + r * 8u];
                    s[r * 4u * K4 + n].x = four.x;
                    s[(r * 4u + 1u) * K4 + n].x = four.y;
                    s[(r * 4u + 2u) * K4 + n].x = four.z;
                    s[(r * 4u + 3u) * K4 + n].x = four.w;
                }
            }
            for (var n = 0u; n < ROWS_EACH * K4; n++) { // unroll
                s[n] = s[n].yzwx;
            }
        }
    } else if (!FUSED) {
        for (var n = 0u; n < ROWS_EACH * K4; n++) { // unroll
            s[n] *= args.exponent;
        }
    }
    if (straight & !whole) {
        hide(first, rows, column, &s);
    }
    if (SOFTMAX) {
        weigh(lane, rows, column, select(1.0, args.exponent, straight & FUSED), &s, top, sum, acc);
    }
    for (var r = 0u; r < R4; r++) { // unroll
        for (var n = 0u; n < K4; n++) { // unroll
            (*sum)[r] += vec4<f32>(total(s[r * 4u * K4 + n]), total(s[(r * 4u + 1u) * K4 + n]), total(s[(r * 4u + 2u) * K4 + n]),
                total(s[(r * 4u + 3u) * K4 + n]));
        }
    }

    // A turn takes the first of each four keys, and the next of them comes first. SPREAD turns are in the text.
    for (var turns = 0u; turns < 4u; turns += SPREAD) {
        for (var turn = 0u; turn < SPREAD; turn++) { // unroll
            for (var p = 0u; p < PARTS; p++) { // unroll
                for (var q = 0u; q < PART_EACH; q++) { // unroll
                    for (var r = 0u; r < R4; r++) { // unroll
                        operands[(q * COLUMNS + column) * WEIGHTS + rows + r * 8u] = vec4<f32>(
                            s[r * 4u * K4 + p * PART_EACH + q].x, s[(r * 4u + 1u) * K4 + p * PART_EACH + q].x,
                            s[(r * 4u + 2u) * K4 + p * PART_EACH + q].x, s[(r * 4u + 3u) * K4 + p * PART_EACH + q].x);
                    }
                }
                for (var start = 0u; start < PART_KEYS; start += VALUE_KEYS) {
                    let part = (turns + turn) * K_ROW + p * PART_KEYS + start;
                    if (!PREFETCH) {
                        ask_values(t, lane, first, last, part, v_next);
                    }
                    stage_values(lane, whole, v_next);
                    workgroupBarrier();
                    if (PREFETCH) {
                        if (part + VALUE_KEYS < TILE_K) {
                            ask_values(t, lane, first, last, part + VALUE_KEYS, v_next);
                        } else if (RUN) {
                            ask(t, lane, first + i32(TILE_K), last, 0u, q_base, q_next, k_next);
                        }
                    }
                    add_values(rows, column, start, acc);
                    if (!whole && stained != 0u) {
                        add_stained(t, first, last, rows, column, part, start, acc);
                    }
                    workgroupBarrier();
                }
            }
            for (var n = 0u; n < ROWS_EACH * K4; n++) { // unroll
                s[n] = s[n].yzwx;
            }
        }
    }
}
