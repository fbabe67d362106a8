// A boolean mask, 1 = not allowed.
fn hidden(at: At, forbidden: bool) -> bool {
    return !forbidden;
}
