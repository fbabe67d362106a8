// Causality and window by explicit positions: the order of a cache need not be that of time. left and right are -1 for no bound; use_q
// and use_k tell whether the position is given or is the index.
fn positions(at: At, pos_q: i32, pos_k: i32, use_q: u32, use_k: u32, left: i32, right: i32) -> bool {
    let p = select(at.query, pos_q, use_q != 0u);
    let t = select(at.key, pos_k, use_k != 0u);
    return t <= p && (left < 0 || t >= p - left) && (right < 0 || t <= p + right);
}
