// The recurrence in chunks of tokens: all decays, without erase.
//
// One workgroup: one (batch, head) and COLUMNS vec4 of value columns, all tokens in order; its part of the state stays on the chip. A
// chunk goes over the depth in slabs: pairs of the chunk and reads of the state before it, then the chunk is added to the state.
// Bidirectional: chunks of keys that only write, then chunks of queries that only read.
// Threads: pairs as 2 blocks of 8 rows x 16 keys x 4 parts of a slab; reads as PARTS shares x 8 pairs of rows x COLUMNS; the state one
// element each.
// Workgroup memory: 16 COLUMNS (D + 16) + 5.1 KiB, + 2 KiB with channel decay, + 4 D with z. Barriers a chunk: 9 + 2 a slab (5 with
// channel decay).
// Decays are products, or exponentials of sums, of what lies between two tokens; never a quotient, so that nothing overflows.

fn load_state(t: Tile, lane: u32) {
    for (var n = lane; n < DEPTH * COLUMNS; n += WORKGROUP) {
        let d = n / COLUMNS;
        var x = vec4<f32>();
        if (d < args.depth) {
            x = state_in_load4(old_row(t, d), t.column + (n % COLUMNS) * 4u, args.width);
        }
        state[n] = x;
    }
    if (HAS_Z) {
        for (var d = lane; d < DEPTH; d += WORKGROUP) {
            var x = 0.0;
            if (d < args.depth) {
                x = z_in(At(t.batch, t.head, 0u, 0, i32(d)));
            }
            norm[d] = x;
        }
    }
}

fn store_state(t: Tile, lane: u32) {
    for (var n = lane; n < args.depth * COLUMNS; n += WORKGROUP) {
        state_store4(new_row(t, n / COLUMNS), t.column + (n % COLUMNS) * 4u, args.width, state[n]);
    }
    if (HAS_Z && t.column == 0u) {
        for (var d = lane * 4u; d < args.depth; d += WORKGROUP * 4u) {
            z_store4(z_row(t), d, args.depth, norm4(d));
        }
    }
}

fn stage_values(t: Tile, lane: u32, first: u32, writes: bool) {
    for (var n = lane; n < CHUNK * COLUMNS; n += WORKGROUP) {
        let token = first + n / COLUMNS;
        var x = vec4<f32>();
        if (writes && kept(t, token)) {
            x = v_load4(v_row(t, token), t.column + (n % COLUMNS) * 4u, args.width);
        }
        values[n] = x;
    }
}

fn stage_decay(t: Tile, lane: u32, first: u32, writes: bool) {
    if (lane < CHUNK) {
        var g = 0.0;
        if (writes) {
            g = token_decay(t, first + lane);
        }
        gate[lane] = g;
    }
    workgroupBarrier();
    if (lane < CHUNK) {
        enter[lane] = exp(decay_between(0u, read_end(lane)));
        leave[lane] = exp(decay_between(lane + 1u, CHUNK));
    }
    if (lane == CHUNK) {
        whole = less_one(decay_between(0u, CHUNK));
    }
}

// A vec4 of the slab of a row of q, and of its decay.
fn stage_row(t: Tile, lane: u32, first: u32, depth: u32, writes: bool, reads: bool) {
    let i = first + lane / SLAB;
    let d = depth + (lane % SLAB) * 4u;
    var x = vec4<f32>();
    if (reads && i < args.queries) {
        x = q_load4(q_row(t, i), d, args.depth) * args.scale;
    }
    queries[(lane / SLAB) * STRIDE + lane % SLAB] = x;
    if (CHANNEL) {
        var f = vec4<f32>(1.0);
        if (writes && kept(t, i)) {
            f = exp(g_load4(g_row(t, i), d, args.depth));
        }
        factors[lane] = f;
    }
}

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group);
    load_state(t, lane);

    let block = lane / 64u;
    let j = (lane / 4u) % CHUNK;
    let part = lane % 4u;
    let column = lane % COLUMNS;
    let row = (lane / COLUMNS) % 8u;
    let share = lane / (COLUMNS * 8u);

    for (var n = 0u; n < args.chunks; n++) {
        let writes = n < args.key_chunks;
        let reads = !BIDIRECTIONAL || !writes;
        let first = (n - select(args.key_chunks, 0u, writes)) * CHUNK;
        workgroupBarrier();
        stage_values(t, lane, first, writes);
        if (SCALAR) {
            stage_decay(t, lane, first, writes);
        }

        var p = array<f32, 8>();            // part of the pairs (8 block + r, j)
        var z_read = 0.0;                   // part of q·z of row j
        var acc = array<vec4<f32>, 2>();    // part of the reads of rows row and row + 8
        for (var depth = 0u; depth < DEPTH; depth += SLAB * 4u) {
            if (CHANNEL) {
                workgroupBarrier();
            }
            stage_row(t, lane, first, depth, writes, reads);
            let d0 = depth + part * 4u;
            let d1 = d0 + 16u;
            var k0 = vec4<f32>();
            var k1 = vec4<f32>();
            if (writes) {
                k0 = written_key(t, first + j, d0);
                k1 = written_key(t, first + j, d1);
            }
            workgroupBarrier();

            let one = vec4<f32>(1.0);
            var way = Way(vec4<f32>(), vec4<f32>(), one, one, one, one);
            if (CHANNEL) {
                for (var i = 0u; i < block * 8u; i++) {
                    advance(&way, i, j, part, k0, k1);
                }
            }
            for (var r = 0u; r < 8u; r++) {
                let i = block * 8u + r;
                var x0 = k0;
                var x1 = k1;
                if (CHANNEL) {
                    x0 = way.key0;
                    x1 = way.key1;
                    advance(&way, i, j, part, k0, k1);
                    if (!READ_BEFORE) {
                        x0 = way.key0;
                        x1 = way.key1;
                    }
                }
                if (READ_BEFORE && i == j) {
                    x0 = k0 * bonus4(t, d0);
                    x1 = k1 * bonus4(t, d1);
                }
                p[r] += dot(queries[i * STRIDE + part], x0) + dot(queries[i * STRIDE + part + 4u], x1);
            }

            var q0 = queries[j * STRIDE + part];
            var q1 = queries[j * STRIDE + part + 4u];
            if (CHANNEL) {
                k0 = way.key0;
                k1 = way.key1;
                q0 *= way.enter0;
                q1 *= way.enter1;
                workgroupBarrier();
            }
            if (SCALAR) {
                k0 *= leave[j];
                k1 *= leave[j];
                q0 *= enter[j];
                q1 *= enter[j];
            }
            // The upper rows' threads, whose keys have been through all rows.
            if (block == 1u) {
                keep_key(j, part * 4u, k0);
                keep_key(j, part * 4u + 16u, k1);
                if (HAS_Z) {
                    z_read += dot(q0, norm4(d0)) + dot(q1, norm4(d1));
                }
                if (CHANNEL) {
                    queries[j * STRIDE + part] = q0;
                    queries[j * STRIDE + part + 4u] = q1;
                    if (j == 0u) {
                        factors[part] = way.all0;
                        factors[part + 4u] = way.all1;
                    }
                }
            }
            if (CHANNEL) {
                workgroupBarrier();
            }
            if (reads && share < PARTS) {
                let sums = read_state(row, share, column, depth);
                acc[0] += sums[0];
                acc[1] += sums[1];
            }
            workgroupBarrier();
            if (writes) {
                add_chunk(lane, depth);
            }
        }

        if (reads) {
            if (block == 1u) {
                norm_part[lane - 64u] = z_read;
            }
            if (BIDIRECTIONAL) {
                workgroupBarrier();
            } else {
                gather_pairs(lane, &p);
            }
            sum_divisors(lane);
            for (var r = 0u; r < 2u; r++) {
                let i = row + r * 8u;
                var sum = acc[r];
                if (SCALAR) {
                    sum *= enter[i];
                }
                if (!BIDIRECTIONAL && share < PARTS) {
                    sum += read_pairs(i, share, column);
                }
                queries[lane] = sum;
                workgroupBarrier();
                if (lane < 8u * COLUMNS && first + i < args.queries) {
                    var x = vec4<f32>();
                    for (var s = 0u; s < PARTS; s++) {
                        x += queries[lane + s * 8u * COLUMNS];
                    }
                    out_store4(out_row(t, first + i), t.column + column * 4u, args.width, divided(x, divisor[i]));
                }
                workgroupBarrier();
            }
        }
    }
    workgroupBarrier();
    store_state(t, lane);
}
