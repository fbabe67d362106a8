// The power of two by which numbers fill halves.

// The largest size of what a subgroup holds, as bits, which are ordered as the numbers are. What is not finite is negative here: a scale for it
// would leave the other columns nothing. By exchanges: the maximum of a subgroup was a call to a driver, around which all registers moved.
fn top_of(x: array<vec4<f32>, SCALED>) -> i32 {
    var most = vec4<i32>();
    for (var i = 0u; i < SCALED; i++) { // unroll
        most = max(most, bitcast<vec4<i32>>((bitcast<vec4<u32>>(x[i]) & vec4<u32>(0x7fffffffu)) + vec4<u32>(0x00800000u)));
    }
    var top = max(max(most.x, most.y), max(most.z, most.w));
    top = max(top, subgroupShuffleXor(top, 1u));
    top = max(top, subgroupShuffleXor(top, 2u));
    if (LANES > 4u) {
        top = max(top, subgroupShuffleXor(top, 4u));
    }
    if (LANES > 8u) {
        top = max(top, subgroupShuffleXor(top, 8u));
    }
    if (LANES > 16u) {
        top = max(top, subgroupShuffleXor(top, 16u));
    }
    if (LANES > 32u) {
        top = max(top, subgroupShuffleXor(top, 32u));
    }
    return top;
}

// The power of two that brings the largest number to [1024, 2048). Products that it scales stay within f32.
fn power_of(top: i32) -> i32 {
    return clamp(138 - (top >> 23u), -50, 50);
}

fn two_to(power: i32) -> f32 {
    return bitcast<f32>(u32(power + 127) << 23u);
}
