//! What can be said of a call before it runs: the block maps of its masks and the tiles that its attention visits.

use super::CpuEngine;
use crate::error::Result;
use crate::kernel::attend::{Attend, Visits};
use crate::kernel::key::Access;
use crate::kernel::{Io, Op, TwinIo};
use crate::plan::{Plan, Ref, SlotRole};
use crate::tensor::{HostData, HostTensor, Inputs, Layout, Storage, Tensor};
use std::sync::Arc;

/// Counts the tiles of stage `n`.
pub(crate) type Count<'a> = &'a dyn Fn(usize, &Attend, &TwinIo) -> Result<Option<Visits>>;

impl CpuEngine {
    /// The block maps of a plan, each with the number of its stage: (B or 1, H or 1, ceil(Lq / queries), ceil(Lk / keys)) i32, 0 for an empty
    /// tile, 1 for a mixed one, 2 for a full one. `None` where the masks read inputs that `inputs` does not have.
    ///
    /// # Errors
    /// What the masks' twins refuse.
    pub fn block_maps(self, plan: &Plan, inputs: &Inputs) -> Result<Vec<(usize, Option<HostTensor>)>> {
        let memory = known(plan, inputs, &layouts(plan, inputs))?;
        let mut maps = Vec::new();
        for (n, stage) in plan.stages.iter().enumerate().filter(|(_, s)| matches!(s.op, Op::BlockMap(_))) {
            let Some((_, r)) = stage.bindings.iter().find(|(name, _)| *name == "map") else { continue };
            let map = memory[r.slot.0].as_ref().map(|data| HostTensor::new(&r.shape, (**data).clone())).transpose()?;
            maps.push((n, map));
        }
        Ok(maps)
    }
}

/// The tiles that each attend stage visits, by `count`. `None` where a stage reads what an earlier one computes (but for key ranges of packed
/// rows and block maps).
pub(crate) fn count(plan: &Plan, inputs: &Inputs, count: Count) -> Result<Vec<(usize, Option<Visits>)>> {
    let layouts = layouts(plan, inputs);
    let memory = known(plan, inputs, &layouts)?;
    let mut list = Vec::new();
    for (n, stage) in plan.stages.iter().enumerate() {
        let Op::Attend(op) = &stage.op else { continue };
        let io = plan.io(n, &layouts);
        let visits = match reads(plan, n, &memory, &io) {
            Some(io) => count(n, op, &io)?,
            None => None,
        };
        list.push((n, visits));
    }
    Ok(list)
}

fn layouts(plan: &Plan, inputs: &Inputs) -> Vec<Layout> {
    let layout = |slot: &crate::plan::Slot| match (&slot.role, inputs.get(&slot.name)) {
        (SlotRole::Input, Some(tensor)) => tensor.layout().clone(),
        _ => slot.layout.clone(),
    };
    plan.slots.iter().map(layout).collect()
}

/// The memory of the slots that are known: constants, inputs on the host, and the key ranges and block maps that follow from them.
fn known(plan: &Plan, inputs: &Inputs, layouts: &[Layout]) -> Result<Vec<Option<Arc<HostData>>>> {
    let given = |slot: &crate::plan::Slot| match (&slot.role, inputs.get(&slot.name).map(Tensor::storage)) {
        (SlotRole::Constant(data), _) => Some(data.shared()),
        (SlotRole::Input, Some(Storage::Host(data))) => Some(data.clone()),
        _ => None,
    };
    let mut memory: Vec<_> = plan.slots.iter().map(given).collect();
    for (n, stage) in plan.stages.iter().enumerate() {
        if !matches!(stage.op, Op::BlockMap(_) | Op::Segments(_)) {
            continue;
        }
        let io = plan.io(n, layouts);
        let Some(TwinIo { reads, tables, .. }) = reads(plan, n, &memory, &io) else { continue };
        let written =
            |name: &str| stage.op.kernel().roles().iter().any(|r| r.name == name && r.access == Access::Write);
        let slots: Vec<(&'static str, &Ref)> =
            stage.bindings.iter().filter(|(name, _)| written(name)).map(|(name, r)| (*name, r)).collect();
        let zeros = |r: &Ref| HostData::zeros(plan.slot(r.slot).dtype, plan.slot(r.slot).layout.len());
        let mut made: Vec<HostData> = slots.iter().map(|(_, r)| zeros(r)).collect();
        let writes = slots.iter().zip(&mut made).map(|((name, _), data)| (*name, data)).collect();
        stage.op.kernel().twin(&mut TwinIo { io: &io, reads, writes, tables })?;
        let made: Vec<_> = slots.iter().map(|(_, r)| r.slot.0).zip(made).collect();
        made.into_iter().for_each(|(slot, data)| memory[slot] = Some(Arc::new(data)));
    }
    Ok(memory)
}

/// What stage `n` reads, if all of it is known.
fn reads<'a>(plan: &Plan, n: usize, memory: &'a [Option<Arc<HostData>>], io: &'a Io) -> Option<TwinIo<'a>> {
    let stage = &plan.stages[n];
    let held = |r: &Ref| memory[r.slot.0].as_deref();
    let mut reads = Vec::new();
    for role in stage.op.kernel().roles().iter().filter(|r| r.access == Access::Read) {
        if let Some((_, r)) = stage.bindings.iter().find(|(name, _)| *name == role.name) {
            reads.push((role.name, held(r)?));
        }
    }
    let tables = plan.tables(n).iter().map(|(_, r, _)| held(r)).collect::<Option<_>>()?;
    Some(TwinIo { io, reads, writes: Vec::new(), tables })
}
