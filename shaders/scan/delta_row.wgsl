// Rows of `pairs`: T[i, 32], A[i, 32], the chunk's log decay up to the token, and three numbers of no meaning.

const CHUNK: u32 = 32u;
const ROW: u32 = 68u;

fn pairs_row(batch: u32, head: u32, j: u32) -> u32 {
    return args.pairs_offset + batch * args.pairs_s0 + head * args.pairs_s1 + j * args.pairs_s2;
}
