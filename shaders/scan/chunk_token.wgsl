// The tokens of one chunk: addresses, gates, weights. Head h of args.heads reads head h / share of an input that has fewer heads.

const CHUNK: u32 = 32u;
// e^-120 is 0 in f32, and sums of such decays stay exact enough.
const FASTEST: f32 = -120.0;

struct Chunk {
    batch: u32,
    head: u32,
    first: u32,
}

fn chunk_of(group: u32) -> Chunk {
    let line = group / args.chunks;
    return Chunk(line / args.heads, line % args.heads, group % args.chunks * CHUNK);
}

// Where the chunk's record of halves begins, in vec4, and that of floats.
fn record_at(t: Chunk) -> u32 {
    return (args.chunks_offset + t.batch * args.chunks_s0 + t.head * args.chunks_s1 + t.first / CHUNK * args.chunks_s2) >> 2u;
}

fn marks_at(t: Chunk) -> u32 {
    return args.marks_offset + t.batch * args.marks_s0 + t.head * args.marks_s1 + t.first / CHUNK * args.marks_s2;
}

fn q_row(t: Chunk, i: u32) -> u32 {
    return args.q_offset + t.batch * args.q_s0 + (t.head / args.q_share) * args.q_s1 + i * args.q_s2;
}

fn k_row(t: Chunk, j: u32) -> u32 {
    return args.k_offset + t.batch * args.k_s0 + (t.head / args.k_share) * args.k_s1 + j * args.k_s2;
}

fn g_row(t: Chunk, j: u32) -> u32 {
    return args.g_offset + t.batch * args.g_s0 + (t.head / args.g_share) * args.g_s1 + j * args.g_s2;
}
