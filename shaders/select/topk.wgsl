// Indices of the largest scores of one row, ascending; ties go to the lower slot.
//
// One workgroup: one row, any length. A radix select over keys whose order is that of the scores finds the key of the last score
// taken, 8 bits a pass from the top; a pass over the row in order then compacts what is above it and the first of its equals.
// Threads: 4 neighbouring slots each, 1024 a step; in the histogram one bin each. A row of at most SHORT slots is ranked at once instead,
// a slot a thread, because there the barriers of the passes would cost more than all comparisons.
// Workgroup memory: 1024 (histogram) + 1152 (sums) + 8 = 2.2 KiB. Barriers: 7 a pass, 3 a step of the compaction; short rows 5.

const SHORT: u32 = 128u;
const BITS: u32 = 0xffu;
const LOWEST: u32 = 0x7149f2cau;    // magnitude of -1e30: scores from there down are never taken
const INFINITE: u32 = 0x7f800000u;
const FORCED: u32 = 0xff800000u;    // the key of +inf

struct Row {
    batch: u32,
    head: u32,
    query: u32,
    scores: u32,     // position of the row's first score
    own: i32,        // last slot that may be taken
}

var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> parts: array<u32, 272>;      // padded by 1 in 16, against bank conflicts
var<workgroup> sums: array<u32, 16>;
var<workgroup> chosen: vec2<u32>;           // digit, and how many keys lie above it

fn row_of(group: u32) -> Row {
    var r: Row;
    r.query = group % args.queries;
    r.head = (group / args.queries) % args.heads;
    r.batch = group / (args.queries * args.heads);
    r.scores = args.scores_offset + r.batch * args.scores_s0 + r.head * args.scores_s1 + r.query * args.scores_s2;
    r.own = i32(args.slots) - 1;
    if (args.causal != 0u) {
        let position = i32(r.query) + args.shift;
        r.own = select(min(r.own, position / args.unit), -1, position < 0);
    }
    return r;
}

// Larger scores have larger keys; 0 is never taken. Integers only: shaders may assume that there is no NaN and no infinity.
fn key_of(r: Row, slot: i32, score: f32) -> u32 {
    if (slot > r.own) {
        return 0u;
    }
    if (slot < args.force_first || slot > r.own - args.force_last) {
        return FORCED;
    }
    let bits = bitcast<u32>(score);
    let size = bits & 0x7fffffffu;
    let negative = bits > size;
    if (size > INFINITE || (negative && size >= LOWEST)) {
        return 0u;
    }
    // -0 equals 0.
    return select(bits | 0x80000000u, ~bits, negative && size != 0u);
}

fn keys_at(r: Row, slot: u32) -> vec4<u32> {
    let x = scores_load4(r.scores, slot, args.slots);
    let n = i32(slot);
    return vec4<u32>(key_of(r, n, x.x), key_of(r, n + 1, x.y), key_of(r, n + 2, x.z), key_of(r, n + 3, x.w));
}

// Sum of x over the lower lanes, and over all. Ends in a barrier, so that it may be called again.
fn exclusive_sum(lane: u32, x: u32) -> vec2<u32> {
    let own = lane / 16u;
    parts[lane + own] = x;
    workgroupBarrier();
    if (lane < 16u) {
        var sum = 0u;
        for (var n = 0u; n < 16u; n++) {
            sum += parts[lane * 17u + n];
        }
        sums[lane] = sum;
    }
    workgroupBarrier();
    var before = 0u;
    var all = 0u;
    for (var n = 0u; n < 16u; n++) {
        before += select(0u, sums[n], n < own);
        all += sums[n];
    }
    for (var n = own * 17u; n < lane + own; n++) {
        before += parts[n];
    }
    workgroupBarrier();
    return vec2<u32>(before, all);
}

// Counts one digit of the keys that agree with the digits found so far.
fn count(r: Row, lane: u32, found: u32, known: u32, shift: u32) {
    var digit = 0u;
    var run = 0u;   // equal digits in a row count as one addition: rows of ties would serialise the atomics
    for (var slot = lane * 4u; slot < args.slots; slot += WORKGROUP * 4u) {
        let keys = keys_at(r, slot);
        for (var n = 0u; n < 4u; n++) {
            let key = keys[n];
            if (slot + n < args.slots && (key & known) == found) {
                let next = (key >> shift) & BITS;
                if (next != digit && run > 0u) {
                    atomicAdd(&histogram[digit], run);
                    run = 0u;
                }
                digit = next;
                run++;
            }
        }
    }
    if (run > 0u) {
        atomicAdd(&histogram[digit], run);
    }
}

fn index_of(r: Row, slot: u32) -> i32 {
    if (!HAS_LIST) {
        return i32(slot);
    }
    let entry = list_load(args.list_offset + r.batch * args.list_s0 + r.head * args.list_s1 + r.query * args.list_s2
        + (slot / args.list_block) * args.list_s3);
    return entry * i32(args.list_block) + i32(slot % args.list_block);
}

fn place_at(r: Row, n: u32) -> u32 {
    return args.indices_offset + r.batch * args.indices_s0 + r.head * args.indices_s1 + r.query * args.indices_s2 + n;
}

fn clear(r: Row, lane: u32, taken: u32) {
    for (var n = taken + lane; n < args.places; n += WORKGROUP) {
        indices_store(place_at(r, n), -1);
    }
}

// A slot is taken when fewer than `taken` slots have a larger key, or an equal one further down.
fn rank(r: Row, lane: u32) {
    var key = 0u;
    if (lane < args.slots) {
        key = key_of(r, i32(lane), scores_load(r.scores + lane));
    }
    atomicStore(&histogram[lane], key);
    workgroupBarrier();
    var above = 0u;
    for (var n = 0u; n < args.slots; n++) {
        let other = atomicLoad(&histogram[n]);
        above += select(0u, 1u, other > key || (other == key && n < lane));
    }
    let take = key > 0u && above < args.taken;
    let sum = exclusive_sum(lane, select(0u, 1u, take));
    if (take) {
        indices_store(place_at(r, sum.x), index_of(r, lane));
    }
    clear(r, lane, sum.y);
}

fn kernel(group: u32, lane: u32) {
    let r = row_of(group);
    if (args.slots <= SHORT) {
        rank(r, lane);
        return;
    }
    var found = 0u;             // digits of the last key taken, from the top
    var known = 0u;             // their mask
    var wanted = args.taken;    // keys to take among those that agree with `found`
    for (var shift = 24; shift >= 0; shift -= 8) {
        atomicStore(&histogram[lane], 0u);
        workgroupBarrier();
        count(r, lane, found, known, u32(shift));
        workgroupBarrier();
        let bin = BITS - lane;
        let size = atomicLoad(&histogram[bin]);
        let above = exclusive_sum(lane, size).x;
        if (above < wanted && above + size >= wanted) {
            chosen = vec2<u32>(bin, above);
        }
        let choice = workgroupUniformLoad(&chosen);
        found |= choice.x << u32(shift);
        known |= BITS << u32(shift);
        wanted -= choice.y;
    }
    // Fewer keys than places: all but those that are never taken.
    wanted = select(wanted, 0u, found == 0u);

    var taken = vec2<u32>();    // larger keys and equal ones so far
    for (var first = 0u; first < args.slots; first += WORKGROUP * 4u) {
        let slot = first + lane * 4u;
        let keys = keys_at(r, slot);
        let larger = keys > vec4<u32>(found);
        let equal = keys == vec4<u32>(found);
        var flags = vec4<u32>();
        for (var n = 0u; n < 4u; n++) {
            let inside = slot + n < args.slots;
            flags[n] = select(0u, select(select(0u, 0x10000u, equal[n]), 1u, larger[n]), inside);
        }
        let sum = exclusive_sum(lane, flags.x + flags.y + flags.z + flags.w);
        var at = taken + vec2<u32>(sum.x & 0xffffu, sum.x >> 16u);
        for (var n = 0u; n < 4u; n++) {
            if (flags[n] == 1u || (flags[n] != 0u && at.y < wanted)) {
                indices_store(place_at(r, at.x + min(at.y, wanted)), index_of(r, slot + n));
            }
            at += vec2<u32>(flags[n] & 0xffffu, flags[n] >> 16u);
        }
        taken += vec2<u32>(sum.y & 0xffffu, sum.y >> 16u);
    }
    clear(r, lane, taken.x + min(taken.y, wanted));
}
