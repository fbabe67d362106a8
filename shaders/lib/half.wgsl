// f16 and byte storage read through u32 words: works without the f16 extension.
fn unpack_half(word: u32, i: u32) -> f32 {
    return unpack2x16float(word >> ((i & 1u) << 4u)).x;
}
fn unpack_half4(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
fn unpack_byte(word: u32, i: u32) -> u32 {
    return (word >> ((i & 3u) << 3u)) & 0xffu;
}
