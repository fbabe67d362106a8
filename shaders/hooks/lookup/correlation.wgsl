// Sum of a window of another tensor times a kernel of the head, zeros outside: it begins `up` rows and `left` columns before the pair.
// `share` heads read one head of the tensor.
fn correlation(s: f32, at: At, rows: i32, columns: i32, height: i32, width: i32, up: i32, left: i32, share: u32) -> f32 {
    let i = i32(at.row) - up;
    let j = at.key - left;
    var sum = 0.0;
    for (var a = max(0, -i); a < min(height, rows - i); a++) {
        for (var b = max(0, -j); b < min(width, columns - j); b++) {
            let x = lookup_x(At(at.batch, at.head / share, u32(i + a), 0, j + b));
            sum += x * lookup_taps(At(at.batch, at.head, u32(a), 0, b));
        }
    }
    return sum;
}
