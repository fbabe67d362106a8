// Whether a row lies outside two ranges of rows that its key is hidden from.
fn intervals(at: At, start0: i32, end0: i32, start1: i32, end1: i32) -> bool {
    let i = i32(at.row);
    return !(start0 <= i && i < end0) && !(start1 <= i && i < end1);
}
