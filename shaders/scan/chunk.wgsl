// The recurrence in chunks of tokens: all decays, without erase.
//
// One workgroup: one (batch, head) and COLUMNS vec4 of value columns, all tokens in order; its part of the state stays on the chip. A
// chunk goes over the depth in slabs: pairs of the chunk and reads of the state before it, then the chunk is added to the state.
// Bidirectional: chunks of keys that only write, then chunks of queries that only read.
// Threads: pairs as 2 blocks of 8 rows x 16 keys x 4 parts of a slab; reads as PARTS shares x 8 pairs of rows x COLUMNS; the state one
// element each.
// Workgroup memory: 16 COLUMNS (D + 16) + 5.1 KiB, + 2 KiB with channel decay, + 4 D with z. Barriers a chunk: 10 + 2 a slab (5 with
// channel decay).
// Loads run a slab ahead of the arithmetic. Decays are products, or exponentials of sums, of what lies between two tokens; never a
// quotient, so that nothing overflows.

// What a thread stages of a chunk: a vec4 of a value, and the decay of four tokens.
struct Token {
    value: vec4<f32>,
    gate: vec4<f32>,
}

fn load_token(t: Tile, lane: u32, n: u32) -> Token {
    var x = Token(vec4<f32>(), vec4<f32>());
    let token = first_of(n) + lane / COLUMNS;
    if (writes_at(n) && lane < CHUNK * COLUMNS && kept(t, token)) {
        x.value = v_load4(v_row(t, token), t.column + (lane % COLUMNS) * 4u, args.width);
    }
    if (SCALAR && writes_at(n) && lane < 4u) {
        let first = first_of(n) + lane * 4u;
        x.gate = vec4<f32>(token_decay(t, first), token_decay(t, first + 1u), token_decay(t, first + 2u), token_decay(t, first + 3u));
    }
    return x;
}

// What a thread stages of a slab: a vec4 of a row of q and of its decay, and its own two of a key.
struct Slab {
    query: vec4<f32>,
    factor: vec4<f32>,
    key0: vec4<f32>,
    key1: vec4<f32>,
}

fn load_slab(t: Tile, lane: u32, n: u32, depth: u32) -> Slab {
    var x = Slab(vec4<f32>(), vec4<f32>(1.0), vec4<f32>(), vec4<f32>());
    let first = first_of(n);
    let i = first + lane / SLAB;
    let d = depth + (lane % SLAB) * 4u;
    if (reads_at(n) && i < args.queries) {
        x.query = q_load4(q_row(t, i), d, args.depth) * args.scale;
    }
    if (writes_at(n)) {
        if (CHANNEL && kept(t, i)) {
            x.factor = exp(g_load4(g_row(t, i), d, args.depth));
        }
        let j = first + (lane / 4u) % CHUNK;
        x.key0 = written_key(t, j, depth + (lane % 4u) * 4u);
        x.key1 = written_key(t, j, depth + (lane % 4u) * 4u + 16u);
    }
    return x;
}

fn stage_decay(lane: u32, g: vec4<f32>) {
    if (lane < 4u) {
        gate[lane] = g;
    }
    workgroupBarrier();
    if (lane < CHUNK) {
        enter[lane] = exp(decay_between(0u, read_end(lane)));
        leave[lane] = exp(decay_between(lane + 1u, CHUNK));
    }
    if (lane == CHUNK) {
        whole = less_one(decay_between(0u, CHUNK));
        if (SUMS) {
            totals[0] += whole * totals[0];
        }
    }
}

// The output of rows i = 0 .. 8 or 8 .. 16 of the chunk, from each thread's share of the reads.
fn finish(t: Tile, lane: u32, first: u32, i: u32, share: u32, column: u32, read: vec4<f32>) {
    var sum = read;
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
        let by = (divisors[i * 4u] + divisors[i * 4u + 1u]) + (divisors[i * 4u + 2u] + divisors[i * 4u + 3u]);
        out_store4(out_row(t, first + i), t.column + column * 4u, args.width, divided(x, by));
    }
    workgroupBarrier();
}

// Part of the product of row i's query with key j as row i sees it.
fn pair(t: Tile, i: u32, j: u32, part: u32, depth: u32, x0: vec4<f32>, x1: vec4<f32>, slab: Slab) -> f32 {
    var y0 = x0;
    var y1 = x1;
    if (READ_BEFORE && i == j) {
        y0 = slab.key0 * bonus4(t, depth + part * 4u);
        y1 = slab.key1 * bonus4(t, depth + part * 4u + 16u);
    }
    return dot(queries[i * STRIDE + part], y0) + dot(queries[i * STRIDE + part + 4u], y1);
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
    let one = vec4<f32>(1.0);

    let start = t.segment * (args.segment_tokens / CHUNK);
    let stop = select(args.chunks, min(args.chunks, start + args.segment_tokens / CHUNK), args.segments > 1u);
    var token = load_token(t, lane, start);
    var next = load_slab(t, lane, start, 0u);
    for (var n = start; n < stop; n++) {
        let writes = writes_at(n);
        let reads = reads_at(n);
        let first = first_of(n);
        workgroupBarrier();
        if (lane < CHUNK * COLUMNS) {
            values[lane] = token.value;
        }
        if (SCALAR) {
            stage_decay(lane, token.gate);
        }
        token = load_token(t, lane, n + 1u);

        var p0 = vec4<f32>();               // part of the pairs (8 block + e, j)
        var p1 = vec4<f32>();               // and (8 block + 4 + e, j)
        var z_read = 0.0;                   // part of q·z of row j
        var acc = Reads(vec4<f32>(), vec4<f32>());
        for (var depth = 0u; depth < DEPTH; depth += SLAB * 4u) {
            let slab = next;
            if (CHANNEL) {
                workgroupBarrier();
                factors[lane] = slab.factor;
            }
            queries[(lane / SLAB) * STRIDE + lane % SLAB] = slab.query;
            workgroupBarrier();
            let last = depth + SLAB * 4u >= DEPTH;
            next = load_slab(t, lane, n + select(0u, 1u, last), select(depth + SLAB * 4u, 0u, last));

            let i = block * 8u;
            var k0 = slab.key0;
            var k1 = slab.key1;
            var way = Way(vec4<f32>(), vec4<f32>(), one, one, one, one);
            if (CHANNEL) {
                for (var r = 0u; r < i; r++) {
                    way = advance(way, r, j, part, k0, k1);
                }
                for (var r = 0u; r < 8u; r++) {
                    let before = way;
                    way = advance(way, i + r, j, part, k0, k1);
                    var x = 0.0;
                    if (READ_BEFORE) {
                        x = pair(t, i + r, j, part, depth, before.key0, before.key1, slab);
                    } else {
                        x = pair(t, i + r, j, part, depth, way.key0, way.key1, slab);
                    }
                    let here = vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(r % 4u);
                    p0 += select(vec4<f32>(), vec4<f32>(x), here & vec4<bool>(r < 4u));
                    p1 += select(vec4<f32>(), vec4<f32>(x), here & vec4<bool>(r >= 4u));
                }
            } else {
                p0 += vec4<f32>(
                    pair(t, i, j, part, depth, k0, k1, slab),
                    pair(t, i + 1u, j, part, depth, k0, k1, slab),
                    pair(t, i + 2u, j, part, depth, k0, k1, slab),
                    pair(t, i + 3u, j, part, depth, k0, k1, slab),
                );
                p1 += vec4<f32>(
                    pair(t, i + 4u, j, part, depth, k0, k1, slab),
                    pair(t, i + 5u, j, part, depth, k0, k1, slab),
                    pair(t, i + 6u, j, part, depth, k0, k1, slab),
                    pair(t, i + 7u, j, part, depth, k0, k1, slab),
                );
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
                keep_key(j * KEY_STRIDE + part * 4u, k0);
                keep_key(j * KEY_STRIDE + part * 4u + 16u, k1);
                if (HAS_Z) {
                    z_read += dot(q0, norm4(depth + part * 4u)) + dot(q1, norm4(depth + part * 4u + 16u));
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
                acc = read_state(acc, row, share, column, depth);
            }
            workgroupBarrier();
            if (writes) {
                add_chunk(lane, depth);
            }
        }

        if (reads) {
            if (!BIDIRECTIONAL) {
                gather_pairs(lane, 0u, p0);
                gather_pairs(lane, 4u, p1);
            }
            if (block == 1u) {
                if (!BIDIRECTIONAL) {
                    let at = j * KEY_STRIDE + part * 4u;
                    z_read += (keys[at] + keys[at + 1u]) + (keys[at + 2u] + keys[at + 3u]);
                }
                divisors[lane - 64u] = z_read;
            }
            finish(t, lane, first, row, share, column, acc.low);
            finish(t, lane, first, row + 8u, share, column, acc.high);
        }
    }
    workgroupBarrier();
    store_state(t, lane);
}
