// Hooks and mask of attend/tile over the scores that a thread left in `weights`; masked pairs hold MASKED (or weight 0 without softmax).
fn hooked(t: Tile, first: i32, slot: u32, rows: u32, column: u32, unmasked: bool) {
    for (var n = 0u; n < PART_EACH * ROWS_EACH; n++) {
        let part = column + n / ROWS_EACH * COLUMNS;
        let row = rows + n % ROWS_EACH;
        let place = part * WEIGHTS + row / 4u;
        let at = row_at(t, row);
        let query = position(t, at.row);
        let key = key_at(first, slot + part);
        let pair = At(t.batch, at.head, at.row, query, key);
        var x = select(0.0, MASKED, SOFTMAX);
        if (allowed_in(t, at, query, row_bounds[row], key, unmasked)) {
            x = score(weights[place][row % 4u] * args.scale, pair);
            if (SOFTMAX) {
                // A bias of -inf masks too. Written so that NaN stays.
                x = select(x, MASKED, x < MASKED);
            } else {
                x = weight(x, pair);
            }
        }
        weights[place][row % 4u] = x;
    }
}
