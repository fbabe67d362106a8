// The bounds of a tile of rows for attend/matrix, where tables give each row its own.

var<workgroup> bounds_of_subgroup: array<vec4<i32>, SUBGROUPS>;

// The keys that any and that every row of the tile sees: min lo, max hi, max lo, min hi.
fn bounds_of_tile(t: Tile, lane: u32, mine: vec2<i32>) -> vec4<i32> {
    // Rows past the end (lo beyond any key) do not count.
    let here = mine.x < 0x3fffffff;
    let least = vec2<i32>(mine.x, select(0x3fffffff, mine.y, here));
    let most = vec2<i32>(mine.y, select(0, mine.x, here));
    let part = vec4<i32>(subgroupMin(least.x), subgroupMax(most.x), subgroupMax(most.y), subgroupMin(least.y));
    if (lane % LANES == 0u) {
        bounds_of_subgroup[lane / LANES] = part;
    }
    workgroupBarrier();
    if (lane == 0u) {
        var b = part;
        for (var n = 1u; n < SUBGROUPS; n++) { // unroll
            let other = bounds_of_subgroup[n];
            b = vec4<i32>(min(b.x, other.x), max(b.y, other.y), max(b.z, other.z), min(b.w, other.w));
        }
        bounds_of_subgroup[0] = b;
    }
    return workgroupUniformLoad(&bounds_of_subgroup[0]);
}
