// Up to four neighbours of the output, from flat index i, a multiple of four: one word of bytes, so that no two threads share a word.
fn put(i: u32, x: vec4<f32>, count: u32) {
    var word = 0u;
    for (var n = 0u; n < count; n++) {
        word |= (u32(x[n]) & 0xffu) << (8u * n);
    }
    out_data[(args.out_offset + i) >> 2u] = word;
}
