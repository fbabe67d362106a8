// The state that tokens meet, for the forms of the scan that begin with it. With scan/state.

// Four columns of a row of the state before.
fn state_before(t: Tile, d: u32, column: u32) -> vec4<f32> {
    if (!STATE_TABLE) {
        return state_in_load4(old_row(t, d), column, args.width);
    }
    var x = vec4<f32>();
    for (var n = 0u; n < 4u; n++) {
        if (column + n < args.width) {
            x[n] = s_in(At(t.batch, place(t, args.parts_in), d, 0, i32(column + n)));
        }
    }
    return x;
}

// z before, channel d.
fn z_before(t: Tile, d: u32) -> f32 {
    return z_in(At(t.batch, place(t, args.parts_in), 0u, 0, i32(d)));
}
