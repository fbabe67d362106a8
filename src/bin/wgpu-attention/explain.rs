//! `plan --explain`: why the plan is what it is.

use crate::failure::Failure;
use crate::out;
use wgpu_attention::caps::Caps;
use wgpu_attention::cpu::CpuEngine;
use wgpu_attention::kernel::Op;
use wgpu_attention::plan::Plan;
use wgpu_attention::{HostTensor, Inputs, Layout};

/// The widest picture of a map, in characters.
const WIDTH: usize = 64;

/// What became of the masks given as code: notes of the plan, and the block maps as pictures.
pub fn masks(plan: &Plan) -> Result<(), Failure> {
    plan.notes.iter().for_each(out::line);
    for (n, map) in CpuEngine.block_maps(plan, &Inputs::new())? {
        let Op::BlockMap(op) = &plan.stages[n].op else { continue };
        let Some(map) = map else {
            out::line(format!("{n}. the block map is made at every call: its masks read inputs"));
            continue;
        };
        let states = map.to_i32();
        let share = |state: i32| states.iter().filter(|s| **s == state).count();
        out::line(format!(
            "{n}. tiles of {} queries x {} keys: {} empty (skipped), {} mixed, {} full (no mask asked), of {}",
            op.queries,
            op.keys,
            share(0),
            share(1),
            share(2),
            states.len()
        ));
        picture(&map).iter().for_each(out::line);
    }
    out::line("");
    Ok(())
}

/// Which kernel each stage takes on such a device, why, and which it passes over.
pub fn kernels(plan: &Plan, caps: &Caps) {
    let matrix = caps.matrix.map_or(String::new(), |side| format!(", matrices of {side} x {side}"));
    let memory = caps.max_workgroup_memory >> 10;
    out::line(format!(
        "kernels for tier {}, class {}, {memory} KiB of workgroup memory{matrix}:",
        caps.tier.name(),
        caps.class.name()
    ));
    let layouts: Vec<Layout> = plan.slots.iter().map(|s| s.layout.clone()).collect();
    for (n, stage) in plan.stages.iter().enumerate() {
        for reason in stage.op.kernel().reasons(&plan.io(n, &layouts), caps) {
            out::line(format!("{n}. {reason}"));
        }
    }
    out::line("");
}

/// The first map, queries downwards, keys to the right: `.` empty, `#` full, `+` mixed or several tiles that differ.
fn picture(map: &HostTensor) -> Vec<String> {
    let [.., lines, columns] = map.shape()[..] else { return Vec::new() };
    let states = map.to_i32();
    let step = columns.max(lines).div_ceil(WIDTH);
    let cell = |line: usize, column: usize| {
        let rows = line * step..((line + 1) * step).min(lines);
        let mut tiles =
            rows.flat_map(|r| &states[r * columns + column * step..r * columns + ((column + 1) * step).min(columns)]);
        let first = tiles.next().copied().unwrap_or_default();
        match (first, tiles.all(|state| *state == first)) {
            (0, true) => '.',
            (2, true) => '#',
            _ => '+',
        }
    };
    let line = |line: usize| (0..columns.div_ceil(step)).map(|column| cell(line, column)).collect();
    (0..lines.div_ceil(step)).map(line).collect()
}
