// A boolean mask.
fn given(at: At, allowed: bool) -> bool {
    return allowed;
}
