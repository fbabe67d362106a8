// attend/matrix where a subgroup ends its epoch alone: all that it touches then is its own, and the device counts who came to a barrier.

const TOGETHER: bool = false;

fn growth_start(lane: u32) {}
fn growth_clear(lane: u32, turn: u32) {}
fn growth_tell(turn: u32) {}
fn growth_told(turn: u32) -> bool {
    return false;
}
// Whether the subgroup rescales, where it does so inside the step.
fn growth_any(lane: u32, turn: u32, rescales: bool) -> bool {
    return subgroupAny(rescales);
}
