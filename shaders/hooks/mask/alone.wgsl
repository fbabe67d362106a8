// Tokens below an index see only themselves among themselves.
fn alone(at: At, below: u32) -> bool {
    return at.row >= below || u32(at.key) >= below || u32(at.key) == at.row;
}
