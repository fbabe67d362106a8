// What all forms of the scan share: the state's columns of a workgroup, addresses of values, outputs and states, division. Head h of args.heads
// reads head h / share of an input that has fewer heads.

// The state of one (batch, head), columns column .. column + 4 COLUMNS of the values.
struct Tile {
    batch: u32,
    head: u32,
    column: u32,
    segment: u32,
}

fn tile_of(group: u32) -> Tile {
    let rest = group / args.tiles;
    let line = rest / args.segments;
    return Tile(line / args.heads, line % args.heads, (group % args.tiles) * COLUMNS * 4u, rest % args.segments);
}

fn v_row(t: Tile, j: u32) -> u32 {
    return args.v_offset + t.batch * args.v_s0 + (t.head / args.v_share) * args.v_s1 + j * args.v_s2;
}

fn out_row(t: Tile, i: u32) -> u32 {
    return args.out_offset + t.batch * args.out_s0 + t.head * args.out_s1 + i * args.out_s2;
}

// The place of a segment among the states of all heads; parts is the number of segments or, for one state a head, 1.
fn place(t: Tile, parts: u32) -> u32 {
    return t.head * parts + select(0u, t.segment, parts > 1u);
}

// Rows of the state before and after.
fn old_row(t: Tile, d: u32) -> u32 {
    return args.state_in_offset + t.batch * args.state_in_s0 + place(t, args.parts_in) * args.state_in_s1 + d * args.state_in_s2;
}

fn new_row(t: Tile, d: u32) -> u32 {
    return args.state_offset + t.batch * args.state_s0 + place(t, args.parts_out) * args.state_s1 + d * args.state_s2;
}

fn z_row(t: Tile) -> u32 {
    return args.z_offset + t.batch * args.z_s0 + place(t, args.parts_out) * args.z_s1;
}

// Where the product of the segment's decays goes.
fn total_row(t: Tile) -> u32 {
    return args.total_offset + t.batch * args.total_s0 + place(t, args.parts_out) * args.total_s1;
}

// Of the segments that share one state afterwards only the last one has it.
fn ends(t: Tile) -> bool {
    return args.parts_out > 1u || t.segment + 1u == args.segments;
}

// A token that is not kept leaves the state as it is: no write, no decay, no erase. Its tensors are not read, they may hold NaN.
fn kept(t: Tile, j: u32) -> bool {
    return j < args.tokens && (!HAS_KEEP || keep(At(t.batch, t.head, j, 0, 0)));
}

// A read over its divisor: q·z, by DIVIDE 0 nothing, 1 with eps added, 2 at least 1 in size.
fn divided(read: vec4<f32>, by: f32) -> vec4<f32> {
    if (DIVIDE == 1u) {
        let sum = by + args.eps;
        // A row that has seen no key.
        return select(read / sum, vec4<f32>(), sum == 0.0);
    }
    if (DIVIDE == 2u) {
        return read / max(abs(by), 1.0);
    }
    return read;
}
