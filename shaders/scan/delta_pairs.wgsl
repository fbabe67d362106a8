// What the tokens of a chunk of the delta rule do to each other, whatever the state before: T = (I + N)^-1 diag(w), where
// N[i, j] = w_i e^(G_i - G_j) k_i . k_j of the keys before, and A[i, j] = scale e^(G_i - G_j) q_i . k_j of the keys up to the row's own.
//
// One workgroup: one chunk of 32 tokens of one (batch, head). A row of `pairs` holds T[i, .], A[i, .] and G_i, the chunk's log decay up to
// the token.
// Threads: pairs as blocks of 4 rows and 2 keys; T one column each, by forward substitution in its own column.
// Workgroup memory: 12.8 KiB. Barriers: 3.

const STRIDE: u32 = 33u;

var<workgroup> ratio: array<f32, CHUNK * STRIDE>;      // [i, j] e^(G_i - G_j); then N
var<workgroup> column: array<f32, CHUNK * STRIDE>;     // [i, j] columns of (I + N)^-1
var<workgroup> seen: array<f32, CHUNK * STRIDE>;       // [i, j] A
var<workgroup> gates: array<f32, CHUNK>;
var<workgroup> writes: array<f32, CHUNK>;

fn key4(t: Chunk, j: u32, d: u32) -> vec4<f32> {
    var x = vec4<f32>();
    if (kept(t, j)) {
        x = k_load4(k_row(t, j), d, args.depth);
    }
    return x;
}

fn query4(t: Chunk, i: u32, d: u32) -> vec4<f32> {
    return q_load4(q_row(t, min(i, args.tokens - 1u)), d, args.depth);
}

fn kernel(group: u32, lane: u32) {
    let t = chunk_of(group);
    let first = t.first;
    if (lane < CHUNK) {
        gates[lane] = log_decay(t, first + lane);
        writes[lane] = write_weight(t, first + lane);
    }
    workgroupBarrier();
    // A sum of its own for each pair: a difference of two long sums has their error.
    if (lane < CHUNK) {
        var sum = 0.0;
        for (var i = 0u; i < CHUNK; i++) {
            sum += select(0.0, gates[i], i > lane);
            ratio[i * STRIDE + lane] = select(0.0, exp(sum), i >= lane);
        }
    }
    let i = lane / 16u * 4u;
    let j = lane % 16u * 2u;
    let a = first + i;
    let b = first + j;
    var n0 = vec4<f32>();      // k_i . k_j of rows i .. i + 4
    var n1 = vec4<f32>();      // and of j + 1
    var a0 = vec4<f32>();
    var a1 = vec4<f32>();
    for (var d = 0u; d < args.depth; d += 4u) {
        let y0 = key4(t, b, d);
        let y1 = key4(t, b + 1u, d);
        let k0 = key4(t, a, d);
        let k1 = key4(t, a + 1u, d);
        let k2 = key4(t, a + 2u, d);
        let k3 = key4(t, a + 3u, d);
        n0 += vec4<f32>(dot(k0, y0), dot(k1, y0), dot(k2, y0), dot(k3, y0));
        n1 += vec4<f32>(dot(k0, y1), dot(k1, y1), dot(k2, y1), dot(k3, y1));
        let q0 = query4(t, a, d);
        let q1 = query4(t, a + 1u, d);
        let q2 = query4(t, a + 2u, d);
        let q3 = query4(t, a + 3u, d);
        a0 += vec4<f32>(dot(q0, y0), dot(q1, y0), dot(q2, y0), dot(q3, y0));
        a1 += vec4<f32>(dot(q0, y1), dot(q1, y1), dot(q2, y1), dot(q3, y1));
    }
    workgroupBarrier();
    for (var e = 0u; e < 4u; e++) { // unroll
        let at = (i + e) * STRIDE + j;
        let decay = vec2<f32>(ratio[at], ratio[at + 1u]);
        seen[at] = args.scale * decay.x * a0[e];
        seen[at + 1u] = args.scale * decay.y * a1[e];
        ratio[at] = select(0.0, writes[i + e] * decay.x * n0[e], j < i + e);
        ratio[at + 1u] = select(0.0, writes[i + e] * decay.y * n1[e], j + 1u < i + e);
    }
    workgroupBarrier();
    if (lane < CHUNK) {
        for (var r = 0u; r < CHUNK; r++) {
            var x = select(0.0, 1.0, r == lane);
            for (var l = 0u; l < r; l++) {
                x -= ratio[r * STRIDE + l] * column[l * STRIDE + lane];
            }
            column[r * STRIDE + lane] = x;
        }
    }
    workgroupBarrier();
    for (var n = lane; n < CHUNK * 8u; n += WORKGROUP) {
        let row = pairs_row(t.batch, t.head, first + n / 8u);
        let c = n % 8u * 4u;
        let at = n / 8u * STRIDE + c;
        let by = vec4<f32>(writes[c], writes[c + 1u], writes[c + 2u], writes[c + 3u]);
        let x = vec4<f32>(column[at], column[at + 1u], column[at + 2u], column[at + 3u]);
        pairs_store4(row, c, ROW, x * by);
        pairs_store4(row, CHUNK + c, ROW, vec4<f32>(seen[at], seen[at + 1u], seen[at + 2u], seen[at + 3u]));
    }
    if (lane < CHUNK) {
        var until = 0.0;
        for (var l = 0u; l < CHUNK; l++) {
            until += select(0.0, gates[l], l <= lane);
        }
        pairs_store4(pairs_row(t.batch, t.head, first + lane), 2u * CHUNK, ROW, vec4<f32>(until, 0.0, 0.0, 0.0));
    }
}
