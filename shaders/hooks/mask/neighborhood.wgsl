// Whether a key lies in the query's window along one axis of a row-major token grid. Coordinates are index / pitch % size.
fn neighborhood(at: At, pitch: i32, size: i32, window: i32, stride: i32, dilation: i32, causal: u32) -> bool {
    let x = i32(at.row) / pitch % size;
    let y = at.key / pitch % size;
    let residue = x % dilation;
    let t = x / dilation;
    let length = (size - residue + dilation - 1) / dilation;
    var start = 0;
    var end = 0;
    if (causal != 0u) {
        let leader = min(t / stride * stride + stride - 1, length - 1);
        start = max(leader - window + 1, 0);
        end = t + 1;
    } else {
        let leader = min(t / stride * stride + stride / 2, length - 1);
        let right = window - 1 - window / 2;
        start = select(max(leader - window / 2, 0), length - window, leader + right >= length);
        end = start + window;
    }
    let u = y / dilation;
    return y % dilation == residue && u >= start && u < end;
}
