// The levels of `scan/chunks_channel`: which tokens a level has where, and its products on their way into the record.
//
// With scan/chunk_record.

// Depth of a subgroup in matrices: a quarter of it all, or what gives an invocation 4 tokens at least. Channels past the last are zeros.
const SHARE: u32 = (DEPTH_TILES + SUBGROUPS - 1u) / SUBGROUPS;
const LEAST: u32 = (LANES + 2u * N - 1u) / (2u * N);
const DEPTH_EACH: u32 = SHARE * ((LEAST + SHARE - 1u) / SHARE);
const CHANNELS: u32 = DEPTH_EACH * N;
const PADDED: u32 = DEPTH_TILES * N;
const GROUPS: u32 = CHANNELS / 4u;      // invocations beside each other
const OWN: u32 = 32u * GROUPS / LANES;  // tokens of an invocation
const HALF: u32 = 16u / N;              // matrices along the tokens of a level
const KINDS: u32 = 1u + DELTA;          // products of queries, and of keys
const LEVELS: u32 = 5u;
const STRIDE: u32 = GROUPS + 2u;        // padded against bank conflicts
const TILE: u32 = 32u * STRIDE;
const PRODUCT: u32 = 64u;               // vec4 of a level's product, in `pairs`
const NEAR: u32 = 64u;                  // in `seen_sums`: 32 of the diagonal, 16 of neighbours of each kind
const COPIES: u32 = (CHANNELS * QUADS + LANES - 1u) / LANES;

// Of each subgroup the tokens with a level's bit, then those without; last K~.
var<workgroup> tile: array<vec4<f16>, SUBGROUPS * TILE>;
var<workgroup> inner: array<vec4<f32>, DELTA * CHUNK * PAIR_STRIDE + 1u>; // N below the diagonal

// The place of a token among the 16 that have, or lack, the bit of a level.
fn rank(i: u32, level: u32) -> u32 {
    return ((i >> (level + 1u)) << level) | (i & ((1u << level) - 1u));
}

// The token without the bit that has a place.
fn unrank(r: u32, level: u32) -> u32 {
    return ((r >> level) << (level + 1u)) | (r & ((1u << level) - 1u));
}

fn over_channels(x: f32) -> f32 {
    var sum = x + subgroupShuffleXor(x, 1u);
    if (GROUPS > 2u) {
        sum += subgroupShuffleXor(sum, 2u);
    }
    if (GROUPS > 4u) {
        sum += subgroupShuffleXor(sum, 4u);
    }
    if (GROUPS > 8u) {
        sum += subgroupShuffleXor(sum, 8u);
    }
    return sum;
}

fn near_sum(at: u32) -> f32 {
    return (seen_sums[at] + seen_sums[at + NEAR]) + (seen_sums[at + 2u * NEAR] + seen_sums[at + 3u * NEAR]);
}

fn product_sum(at: u32) -> vec4<f32> {
    return (pairs[at] + pairs[at + PRODUCT]) + (pairs[at + 2u * PRODUCT] + pairs[at + 3u * PRODUCT]);
}

// The four pairs (i, 4 (i / 4) ..): two of level 1, neighbours and the diagonal.
fn near_pairs(kind: u32, i: u32) -> vec4<f32> {
    let x = product_sum(rank(i, 1u) * 4u + i / 8u);
    let two = select(x.xy, x.zw, (i & 4u) != 0u);
    let next = near_sum(32u + 16u * kind + i / 2u);
    let own = near_sum(i);
    let r = i % 4u;
    let y = vec4<f32>(select(two.x, next, r == 1u), two.y, select(own, next, r == 3u), own);
    return select(y, vec4<f32>(own), vec4<bool>(r == 0u, r == 1u, r == 2u, true));
}

// Puts a level's products of queries (kind 0) into the record, those of keys into `inner`. Gives what `seen_sums` has no place for yet.
fn take(record: u32, level: u32, kind: u32, lane: u32) -> f32 {
    if (level == 1u) {
        if (lane >= CHUNK) {
            return 0.0;
        }
        let quad = lane / 4u;
        let j = vec4<u32>(0u, 1u, 2u, 3u) + quad * 4u;
        let x = near_pairs(kind, lane);
        if (kind == 1u) {
            inner[lane * PAIR_STRIDE + quad] = select(vec4<f32>(), x * writes[quad][lane % 4u], j < vec4<u32>(lane));
            return 0.0;
        }
        let y = select(vec4<f32>(), x * args.scale, j <= vec4<u32>(lane));
        chunks_data[record + SEEN_AT + place(lane, quad, TILES)] = vec4<f16>(y);
        return (y.x + y.y) + (y.z + y.w);
    }
    for (var p = lane; p < PRODUCT; p += WORKGROUP) {
        let i = unrank(p / 4u, level) | (1u << level);
        let quad = unrank(p % 4u * 4u, level) / 4u;
        if ((i ^ (quad * 4u)) >> (level + 1u) == 0u) {
            let x = product_sum(p);
            if (kind == 0u) {
                seen_store(record, i, quad, x * args.scale);
            } else {
                inner[i * PAIR_STRIDE + quad] = x * writes[i / 4u][i % 4u];
            }
        }
    }
    return 0.0;
}
