// attend/matrix where all subgroups end an epoch together. Software devices need it: there a barrier of a subgroup waits for the workgroup, so
// all have to meet as many.

const TOGETHER: bool = true;

// By step: a row's maximum grew too far. Three flags in turn, so that none is cleared while a slow subgroup may read it.
var<workgroup> grown: array<u32, 3>;

fn growth_start(lane: u32) {
    if (lane < 3u) {
        grown[lane] = 0u;
    }
}
fn growth_clear(lane: u32, turn: u32) {
    if (lane == 0u) {
        grown[turn] = 0u;
    }
}
fn growth_tell(turn: u32) {
    grown[turn] = 1u;
}
fn growth_told(turn: u32) -> bool {
    return grown[turn] != 0u;
}
// Whether all rescale, where they do so inside the step.
fn growth_any(lane: u32, turn: u32, rescales: bool) -> bool {
    if (rescales) {
        growth_tell(turn);
    }
    growth_clear(lane, select(turn + 1u, 0u, turn == 2u));
    workgroupBarrier();
    return growth_told(turn);
}
