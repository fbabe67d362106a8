// The range of keys of each packed row.
//
// One thread: one row. The row's sequence is the last one that begins at or before it, found by bisection. No workgroup memory.

fn kernel(group: u32, lane: u32) {
    let row = i32(group * WORKGROUP + lane);
    if (row >= args.rows) {
        return;
    }
    // cu_q[low] <= row < cu_q[high], where cu_q[0] = 0 and what lies past the end counts as endless.
    var low = 0u;
    var high = args.sequences + 1u;
    while (high - low > 1u) {
        let middle = (low + high) / 2u;
        if (cu_q_load(args.cu_q_offset + middle * args.cu_q_s0) <= row) {
            low = middle;
        } else {
            high = middle;
        }
    }
    var start = 0;
    var end = 0;
    if (low < args.sequences) {
        start = cu_k_load(args.cu_k_offset + low * args.cu_k_s0);
        end = cu_k_load(args.cu_k_offset + high * args.cu_k_s0);
        if (args.causal != 0u) {
            let q_start = cu_q_load(args.cu_q_offset + low * args.cu_q_s0);
            let q_end = cu_q_load(args.cu_q_offset + high * args.cu_q_s0);
            let shift = select(0, (end - start) - (q_end - q_start), args.bottom_right != 0u);
            end = clamp(start + row - q_start + shift + 1, start, end);
        }
    }
    start_store(args.start_offset + u32(row), start);
    end_store(args.end_offset + u32(row), end);
}
