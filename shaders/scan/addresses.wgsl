// Rows of queries and keys, for the forms of the scan that read them themselves. Head h of args.heads reads head h / share.

fn q_row(t: Tile, i: u32) -> u32 {
    return args.q_offset + t.batch * args.q_s0 + (t.head / args.q_share) * args.q_s1 + i * args.q_s2;
}

fn k_row(t: Tile, j: u32) -> u32 {
    return args.k_offset + t.batch * args.k_s0 + (t.head / args.k_share) * args.k_s1 + j * args.k_s2;
}
