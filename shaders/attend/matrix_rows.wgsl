// Scores and weights of rows for attend/matrix and attend/decode_matrix, four keys at a time. Scores are held in powers of two, or raw where
// FUSED: the factor then joins the exponent.

const OWN: u32 = N / SHARE;            // scores of a step in one invocation
const OWN4: u32 = OWN / 4u;
const N4: u32 = N / 4u;
const MASKED: f32 = -1e30;             // finite: shaders may assume that there is no infinity
const SEEN: f32 = -1e27;               // no maximum is lower: weights of masked pairs are exp2(MASKED - SEEN) = 0
const GROWTH: f32 = 14.0;              // weights stay below 2^14, a quarter of the end of f16
const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;

// Keys of a step: its first slot and, in a list of blocks of whole steps (ALIGNED), what was found when the block began: the key there, whether
// the mask allows all of the block, the slot where it ends.
struct Step {
    slot: u32,
    key: i32,
    full: bool,
    end: u32,
}

// The key in a slot of a step, -1 for none.
fn key_at(t: Tile, bounds: vec4<i32>, step: Step, n: u32) -> i32 {
    if (ALIGNED) {
        let j = step.key + i32(n);
        return select(-1, j, (step.slot < step.end) & (j < i32(args.keys)));
    }
    return keys_at(t, bounds, step.slot + n);
}

// Whether every row of the tile sees every key of a step.
fn whole(t: Tile, bounds: vec4<i32>, step: Step) -> bool {
    let j = key_at(t, bounds, step, 0u);
    return unmasked(t, bounds, step) & (ALIGNED | keys_run(step.slot)) & (j >= bounds.z) & (j + i32(TILE_K) <= bounds.w);
}

// Whether the mask hooks allow every pair of a step.
fn unmasked(t: Tile, bounds: vec4<i32>, step: Step) -> bool {
    if (ALIGNED) {
        return !HAS_MASK || step.full;
    }
    return !HAS_MASK || keys_full(t, bounds, step.slot);
}

// Four scores after the hooks, from a slot of a step on; the factor is left to the exponent where FUSED.
fn scored(t: Tile, at: RowAt, query: i32, bounds: vec4<i32>, step: Step, slot: u32, raw: vec4<f32>) -> vec4<f32> {
    var x = raw;
    if (!FUSED) {
        x *= args.scale;
        for (var n = 0u; n < 4u; n++) { // unroll
            let pair = At(t.batch, at.head, at.row, query, key_at(t, bounds, step, slot + n));
            x[n] = score(x[n], pair);
            if (SOFTMAX) {
                // A bias of -inf masks too. Written so that NaN stays.
                x[n] = select(x[n] * LOG2_E, MASKED, x[n] < MASKED);
            } else {
                x[n] = weight(x[n], pair);
            }
        }
    }
    return x;
}

// Four scores after the mask. Where keys follow each other, bounds are all there is to it.
fn masked(t: Tile, at: RowAt, query: i32, mine: vec2<i32>, bounds: vec4<i32>, step: Step, slot: u32, x: vec4<f32>) -> vec4<f32> {
    let nothing = vec4<f32>(select(0.0, select(MASKED, args.masked, FUSED), SOFTMAX));
    let free = unmasked(t, bounds, step);
    if (free && (ALIGNED || keys_run(step.slot))) {
        let j = vec4<i32>(key_at(t, bounds, step, 0u) + i32(slot)) + vec4<i32>(0, 1, 2, 3);
        return select(nothing, x, (j >= vec4<i32>(mine.x)) & (j < vec4<i32>(mine.y)));
    }
    var y = x;
    for (var n = 0u; n < 4u; n++) { // unroll
        y[n] = select(nothing[n], x[n], allowed_in(t, at, query, mine, key_at(t, bounds, step, slot + n), free));
    }
    return y;
}

// The largest score of a row, in powers of two.
fn highest(x: array<vec4<f32>, OWN4>) -> f32 {
    var four = x[0];
    for (var n = 1u; n < OWN4; n++) { // unroll
        four = max(four, x[n]);
    }
    var high = max(max(four.x, four.y), max(four.z, four.w));
    if (SHARE == 2u) {
        high = max(high, subgroupShuffleXor(high, 1u));
    }
    return select(high, high * args.exponent, FUSED);
}

fn weights(x: vec4<f32>, top: f32) -> vec4<f32> {
    if (!SOFTMAX) {
        return x;
    }
    return exp2(select(x, x * args.exponent, vec4<bool>(FUSED)) - top);
}

// The outputs of rows that see no key.
fn finish_without_keys(t: Tile, at: RowAt, base: u32, column: u32, lane: u32) {
    finish_row(t, at, MASKED, 0.0, lane % SHARE == 0u);
    if (at.valid) {
        for (var c = 0u; c < VALUE_TILES; c++) {
            for (var n = 0u; n < OWN4; n++) {
                out_store4(base, c * N + (column + n) * 4u, args.width, vec4<f32>());
            }
        }
    }
}
