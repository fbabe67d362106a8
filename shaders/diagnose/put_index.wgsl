// Up to four neighbours of the output, from flat index i: whole numbers.
fn put(i: u32, x: vec4<f32>, count: u32) {
    for (var n = 0u; n < count; n++) {
        out_data[args.out_offset + i + n] = i32(x[n]);
    }
}
