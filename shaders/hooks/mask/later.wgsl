// Keys from the row's own index on: a causal map seen from its columns.
fn later(at: At) -> bool {
    return at.key >= i32(at.row);
}
