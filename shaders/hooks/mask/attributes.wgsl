// Whether attributes of two tokens allow the pair.
//
// order: position (causal, window), or a prefix key, or one span (0 is none); scope: one segment; flags: a shared key or a global query.
// rule: 1 causal, 2 flags also stand in for order, 4 and 8 the query's and the key's position are given (else they are the indices),
// 16 a window to the left, 32 to the right. Keys at positions below `prefix` are prefix keys.
fn attributes(at: At, rule: u32, left: i32, right: i32, prefix: i32, pos_q: i32, pos_k: i32, seg_q: i32, seg_k: i32,
    span_q: i32, span_k: i32, k_prefix: u32, k_shared: u32, q_global: u32) -> bool {
    let p = select(at.query, pos_q, (rule & 4u) != 0u);
    let t = select(at.key, pos_k, (rule & 8u) != 0u);
    var order = ((rule & 1u) == 0u || t <= p) && ((rule & 16u) == 0u || p - t <= left) && ((rule & 32u) == 0u || t - p <= right);
    order = order || k_prefix != 0u || t < prefix || (span_q == span_k && span_q != 0);
    let flags = k_shared != 0u || q_global != 0u;
    let scope = seg_q == seg_k;
    return select(order && (scope || flags), (order && scope) || flags, (rule & 2u) != 0u);
}
