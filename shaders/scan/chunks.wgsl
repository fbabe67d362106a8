// Naive records (for tests only).
const N4: u32 = N / 4u;
const CHANNELS: u32 = DEPTH_TILES * N;
const TALL: u32 = CHUNK * CHANNELS;
const SQUARE: u32 = CHUNK * CHUNK;
var<workgroup> gates: array<f32, CHUNK>;
var<workgroup> until: array<f32, CHUNK>;
var<workgroup> ws: array<f32, CHUNK>;
var<workgroup> seen: array<f32, CHUNK * CHUNK>;
var<workgroup> nn: array<f32, CHUNK * CHUNK>;
var<workgroup> tt: array<f32, CHUNK * CHUNK>;

fn key(t: Chunk, j: u32, d: u32) -> f32 {
    if (kept(t, t.first + j) && d < args.depth) { return k_load(k_row(t, t.first + j) + d); }
    return 0.0;
}
fn qq(t: Chunk, j: u32, d: u32) -> f32 {
    if (t.first + j < args.tokens && d < args.depth) { return q_load(q_row(t, t.first + j) + d); }
    return 0.0;
}
fn put(t: Chunk, at: u32, x: f32) {
    chunks_data[record_at(t) + at / 4u][at % 4u] = f16(x);
}
fn kernel(group: u32, lane: u32) {
    let t = chunk_of(group);
    if (lane < CHUNK) {
        gates[lane] = log_decay(t, t.first + lane);
        ws[lane] = write_weight(t, t.first + lane);
    }
    workgroupBarrier();
    if (lane < CHUNK) {
        var s = 0.0;
        for (var j = 0u; j <= lane; j++) { s += gates[j]; }
        until[lane] = s;
    }
    workgroupBarrier();
    for (var n = lane; n < SQUARE; n += WORKGROUP) {
        let i = n / CHUNK;
        let j = n % CHUNK;
        var a = 0.0;
        var b = 0.0;
        for (var d = 0u; d < args.depth; d++) {
            a += qq(t, i, d) * key(t, j, d);
            b += key(t, i, d) * key(t, j, d);
        }
        var f = 0.0;
        if (j <= i) { f = exp(until[i] - until[j]); }
        seen[n] = args.scale * a * f * select(ws[j], 1.0, DELTA == 1u);
        nn[n] = select(0.0, b * f * ws[i], j < i);
    }
    workgroupBarrier();
    if (lane < CHUNK) {
        for (var r = 0u; r < CHUNK; r++) {
            var y = select(0.0, 1.0, r == lane);
            for (var l = 0u; l < r; l++) { y -= nn[r * CHUNK + l] * tt[l * CHUNK + lane]; }
            tt[r * CHUNK + lane] = y;
        }
    }
    workgroupBarrier();
    for (var n = lane; n < SQUARE / 4u; n += WORKGROUP) {
        for (var e = 0u; e < 4u; e++) {
            let m = n * 4u + e;
            let tile = m / (N * N);
            let i = tile / (CHUNK / N) * N + m % (N * N) / N;
            let j = tile % (CHUNK / N) * N + m % N;
            put(t, 2u * TALL + m, seen[i * CHUNK + j]);
            if (DELTA == 1u) { put(t, 3u * TALL + SQUARE + m, tt[i * CHUNK + j] * ws[j]); }
        }
    }
    for (var n = lane; n < TALL / 4u; n += WORKGROUP) {
        for (var e = 0u; e < 4u; e++) {
            let m = n * 4u + e;
            let tile = m / (N * N);
            let i = tile / DEPTH_TILES * N + m % (N * N) / N;
            let d = tile % DEPTH_TILES * N + m % N;
            put(t, m, args.scale * exp(until[i]) * qq(t, i, d));
            if (DELTA == 1u) { put(t, 2u * TALL + SQUARE + m, exp(until[i]) * key(t, i, d)); }
            let c = tile / (CHUNK / N) * N + m % (N * N) / N;
            let j = tile % (CHUNK / N) * N + m % N;
            put(t, TALL + m, exp(until[CHUNK - 1u] - until[j]) * key(t, j, c) * select(ws[j], 1.0, DELTA == 1u));
        }
    }
    for (var d = lane; d < CHANNELS; d += WORKGROUP) {
        var s = 0.0;
        for (var j = 0u; j < CHUNK; j++) { s += exp(until[CHUNK - 1u] - until[j]) * key(t, j, d) * ws[j]; }
        marks_store(marks_at(t) + d, exp(until[CHUNK - 1u]));
        marks_store(marks_at(t) + CHANNELS + d, s);
    }
    if (lane < CHUNK) {
        var s = 0.0;
        for (var j = 0u; j < CHUNK; j++) { s += seen[lane * CHUNK + j]; }
        marks_store(marks_at(t) + 2u * CHANNELS + lane, s);
    }
}
