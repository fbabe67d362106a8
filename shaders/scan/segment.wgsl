// What `scan/sums` and `scan/reads` share: the decays and write weights of a segment's tokens, matrices, tiles in workgroup memory.
//
// Workgroup memory: 8 bytes a token of the segment.

const N4: u32 = N / 4u;
const LANES: u32 = WORKGROUP / SUBGROUPS;
const CHANNELS4: u32 = DEPTH_TILES * N4;
const COLUMNS4: u32 = VALUE_TILES * N4;
const COLUMNS: u32 = COLUMNS4;                // as scan/state has it
const RUN: u32 = (SEGMENT + WORKGROUP - 1u) / WORKGROUP;       // neighbouring tokens an invocation; the last ones may have none
// e^-120 is 0 in f32, and sums of such decays stay exact enough.
const FASTEST: f32 = -120.0;
const LOG2_E: f32 = 1.4426950408889634;

var<workgroup> until: array<vec4<f32>, SEGMENT / 4u>;          // decay of the segment up to and with a token, as a power of two
var<workgroup> writes: array<vec4<f32>, SEGMENT / 4u>;         // w, 0 of tokens that are not kept
var<workgroup> gate_sums: array<f32, SUBGROUPS>;

// Fills `until` and `writes`, and says the decay of all the segment, as a power of two. Two barriers, the last one for its readers.
fn gates(t: Tile, lane: u32) -> f32 {
    let begin = t.segment * SEGMENT;
    var g = array<f32, RUN>();
    var sum = 0.0;
    for (var r = 0u; r < RUN; r++) { // unroll
        let n = lane * RUN + r;
        let at = At(t.batch, t.head, min(begin + n, args.tokens - 1u), 0, 0);
        let is_kept = (begin + n < args.tokens) & (keep(at) | !HAS_KEEP);
        if (n < SEGMENT) {
            writes[n / 4u][n % 4u] = select(0.0, select(1.0, w(at), HAS_WRITE), is_kept);
        }
        if (SCALAR) {
            sum += select(0.0, max(g_scalar(at), FASTEST) * LOG2_E, is_kept & (n < SEGMENT));
        }
        g[r] = sum;
    }
    if (!SCALAR) {
        workgroupBarrier();
        return 0.0;
    }
    // Sums of the invocations before, by exchanges.
    var before = 0.0;
    for (var d = 1u; d < LANES; d *= 2u) {
        let other = subgroupShuffleXor(sum, d);
        before += select(0.0, other, (lane & d) != 0u);
        sum += other;
    }
    if (lane % LANES == 0u) {
        gate_sums[lane / LANES] = sum;
    }
    workgroupBarrier();
    var all = 0.0;
    for (var s = 0u; s < SUBGROUPS; s++) { // unroll
        before += select(0.0, gate_sums[s], s < lane / LANES);
        all += gate_sums[s];
    }
    for (var r = 0u; r < RUN; r++) { // unroll
        let n = lane * RUN + r;
        if (n < SEGMENT) {
            until[n / 4u][n % 4u] = before + g[r];
        }
    }
    workgroupBarrier();
    return all;
}
