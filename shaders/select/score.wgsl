// Scores of candidates: products of the query heads of a group with a candidate's row, combined over the heads.
//
// One workgroup: one (batch, score head), QUERIES queries, TILE_N candidates. The tile's rows are pairs (query p / PACK, head p % PACK):
// few queries pack many heads, so that a decode step still fills the tile. Heads beyond PACK are taken in turn.
// Threads: 8 groups of ROWS rows x 16 columns of 4 candidates; sums over heads stay in registers until the end.
// Workgroup memory: (64 + 8 ROWS) * 64 = 4.5 to 8 KiB. Barriers: 2 a 16 of D and PACK heads, 1 at the end when PACK > ROWS.

const TILE_N: u32 = 64u;
const TILE_Q: u32 = 8u * ROWS;
const CHUNK: u32 = 4u;                              // vec4 of depth staged at once
const KEYS: u32 = TILE_Q * CHUNK;                   // where the candidates' operands begin
const QUERIES: u32 = TILE_Q / PACK;
const GROUPS: u32 = max(PACK / ROWS, 1u);           // thread groups that share a query
const SEEN: f32 = -5e29;

struct Tile {
    batch: u32,
    head: u32,       // score head
    query: u32,      // first query
    slot: u32,       // first candidate slot
}

var<workgroup> operands: array<vec4<f32>, (TILE_N + TILE_Q) * CHUNK>;

fn tile_of(group: u32) -> Tile {
    var t: Tile;
    var rest = group;
    t.slot = (rest % args.slot_tiles) * TILE_N;
    rest /= args.slot_tiles;
    t.query = (rest % args.query_tiles) * QUERIES;
    rest /= args.query_tiles;
    t.head = rest % args.score_heads;
    t.batch = rest / args.score_heads;
    return t;
}

// Where column c of a row is staged: swizzled, so that eight neighbouring rows lie in different banks.
fn place(row: u32, c: u32) -> u32 {
    return row * CHUNK + (c ^ ((row >> 1u) & 3u));
}

// The row of k behind a candidate slot, -1 for none. Slots of a list belong to one query, and a tile then holds one query.
fn candidate(t: Tile, slot: u32) -> i32 {
    if (slot >= args.slots) {
        return -1;
    }
    if (!HAS_LIST) {
        return i32(slot);
    }
    let entry = list_load(args.list_offset + t.batch * args.list_s0 + t.head * args.list_s1 + t.query * args.list_s2
        + (slot / args.list_block) * args.list_s3);
    // Compared before the product, which a stray index could make overflow.
    let inside = entry >= 0 && u32(entry) <= (args.keys - 1u) / args.list_block;
    let row = entry * i32(args.list_block) + i32(slot % args.list_block);
    return select(-1, row, inside && row < i32(args.keys));
}

fn seen(query: u32, row: i32) -> bool {
    let position = i32(query) + args.shift;
    return row >= 0 && (args.causal == 0u || row * args.unit + args.lead <= position);
}

fn stage(t: Tile, lane: u32, head: u32, depth: u32) {
    for (var n = lane; n < TILE_Q * CHUNK; n += WORKGROUP) {
        let r = n / CHUNK;
        let i = t.query + r / PACK;
        let h = head + r % PACK;
        var x = vec4<f32>();
        if (i < args.queries && h < args.group) {
            let base = args.q_offset + t.batch * args.q_s0 + (t.head * args.group + h) * args.q_s1 + i * args.q_s2;
            x = q_load4(base, depth + (n % CHUNK) * 4u, args.depth);
        }
        operands[place(r, n % CHUNK)] = x;
    }
    for (var n = lane; n < TILE_N * CHUNK; n += WORKGROUP) {
        let r = n / CHUNK;
        let row = candidate(t, t.slot + r);
        var x = vec4<f32>();
        if (row >= 0) {
            let base = args.k_offset + t.batch * args.k_s0 + t.head * args.k_s1 + u32(row) * args.k_s2;
            x = k_load4(base, depth + (n % CHUNK) * 4u, args.depth);
        }
        operands[KEYS + place(r, n % CHUNK)] = x;
    }
}

// What one head adds to the scores of a query.
fn contribution(t: Tile, i: u32, head: u32, s: vec4<f32>) -> vec4<f32> {
    let h = t.head * args.group + head;
    if (WEIGHTED_RELU) {
        return w_load(args.w_offset + t.batch * args.w_s0 + h * args.w_s1 + i * args.w_s2) * max(s, vec4<f32>());
    }
    let lse = lse_load(args.lse_offset + t.batch * args.lse_s0 + h * args.lse_s1 + i * args.lse_s2);
    // A row without keys has lse = -inf and gives no probability; NaN passes.
    return select(exp(s * args.scale - lse), vec4<f32>(), lse <= SEEN);
}

fn store(t: Tile, i: u32, column: u32, sum: vec4<f32>) {
    if (i >= args.queries) {
        return;
    }
    let fill = select(0.0, args.neg_inf, WEIGHTED_RELU);
    let factor = select(1.0, args.scale, WEIGHTED_RELU);
    let base = args.scores_offset + t.batch * args.scores_s0 + t.head * args.scores_s1 + i * args.scores_s2;
    for (var n = 0u; n < 4u; n++) {
        let slot = t.slot + column + n * 16u;
        if (slot < args.slots) {
            scores_store(base + slot, select(fill, sum[n] * factor, seen(i, candidate(t, slot))));
        }
    }
}

fn kernel(group: u32, lane: u32) {
    let t = tile_of(group);
    let column = lane % 16u;
    let first = (lane / 16u) * ROWS;    // first of this thread's rows
    // A tile that even its last query does not see holds only the fill.
    let last = min(t.query + QUERIES, args.queries) - 1u;
    let hidden = !HAS_LIST && !seen(last, i32(t.slot));
    let heads = select(args.group, 0u, hidden);

    var sum = array<vec4<f32>, ROWS>();
    for (var head = 0u; head < heads; head += PACK) {
        var s = array<vec4<f32>, ROWS>();
        for (var depth = 0u; depth < args.depth; depth += CHUNK * 4u) {
            stage(t, lane, head, depth);
            workgroupBarrier();
            for (var c = 0u; c < CHUNK; c++) {
                let at = KEYS + place(column, c);   // the swizzle repeats every 8 rows, so every 16
                let k0 = operands[at];
                let k1 = operands[at + 16u * CHUNK];
                let k2 = operands[at + 32u * CHUNK];
                let k3 = operands[at + 48u * CHUNK];
                for (var r = 0u; r < ROWS; r++) {
                    let x = operands[place(first + r, c)];
                    s[r] += vec4<f32>(dot(x, k0), dot(x, k1), dot(x, k2), dot(x, k3));
                }
            }
            workgroupBarrier();
        }
        for (var r = 0u; r < ROWS; r++) {
            let i = t.query + (first + r) / PACK;
            let h = head + (first + r) % PACK;
            if (i < args.queries && h < args.group) {
                sum[r] += contribution(t, i, h, s[r]);
            }
        }
    }

    if (PACK <= ROWS) {
        for (var r = 0u; r < ROWS; r += PACK) {
            var x = sum[r];
            for (var n = 1u; n < PACK; n++) {
                x += sum[r + n];
            }
            store(t, t.query + (first + r) / PACK, column, x);
        }
    } else {
        var x = sum[0];
        for (var r = 1u; r < ROWS; r++) {
            x += sum[r];
        }
        operands[lane] = x;
        workgroupBarrier();
        if ((lane / 16u) % GROUPS == 0u) {
            for (var n = 1u; n < GROUPS; n++) {
                x += operands[lane + n * 16u];
            }
            store(t, t.query + first / PACK, column, x);
        }
    }
}
