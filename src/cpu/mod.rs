//! The CPU engine: runs plans by the kernels' twins, on all cores natively and on one thread in wasm.

mod visits;

pub(crate) use visits::count;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::TwinIo;
use crate::kernel::key::Access;
use crate::plan::{Plan, SlotId, SlotRole};
use crate::tensor::{HostData, HostTensor, Inputs, Layout, Storage, Tensor};
use std::sync::Arc;

/// Runs plans on the CPU. Holds nothing between runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuEngine;

/// The memory of one slot during a run.
enum Memory {
    /// Not made yet, or already gone.
    None,
    /// An input or a constant.
    Shared(Arc<HostData>),
    /// Written by a stage.
    Owned(HostData),
}

impl CpuEngine {
    /// What runs: `cpu, 2 threads`.
    pub fn describe(self) -> String {
        #[cfg(not(target_arch = "wasm32"))]
        let threads = rayon::current_num_threads();
        #[cfg(target_arch = "wasm32")]
        let threads = 1;
        format!("CPU engine, {threads} thread{}", if threads == 1 { "" } else { "s" })
    }

    /// Runs the plan; outputs in the order of the plan.
    ///
    /// # Errors
    /// As [`Plan::layouts`]; [`ErrorKind::Unsupported`] when an input is on a device.
    pub fn run(self, plan: &Plan, inputs: &Inputs) -> Result<Vec<(String, Tensor)>> {
        let layouts = plan.layouts(inputs)?;
        let mut memory = Vec::with_capacity(plan.slots.len());
        for slot in &plan.slots {
            memory.push(match &slot.role {
                SlotRole::Input => match inputs.get(&slot.name).map(Tensor::storage) {
                    Some(Storage::Host(data)) => Memory::Shared(data.clone()),
                    _ => {
                        let message = format!(
                            "{}: `{}` is on a device; the CPU engine takes host tensors",
                            plan.variant, slot.name
                        );
                        return Err(Error::new(ErrorKind::Unsupported, message));
                    }
                },
                SlotRole::Constant(data) => Memory::Shared(data.shared()),
                SlotRole::Output | SlotRole::Transient => Memory::None,
            });
        }
        let last = last_uses(plan);
        for n in 0..plan.stages.len() {
            self.stage(plan, n, &layouts, &mut memory)?;
            for (slot, entry) in memory.iter_mut().enumerate() {
                if last[slot] == Some(n) && plan.slots[slot].role == SlotRole::Transient {
                    *entry = Memory::None;
                }
            }
        }
        plan.outputs()
            .map(|(SlotId(at), slot)| match std::mem::replace(&mut memory[at], Memory::None) {
                Memory::Owned(data) => Ok((slot.name.clone(), HostTensor::strided(slot.layout.clone(), data)?.into())),
                _ => {
                    Err(Error::new(ErrorKind::Unsupported, format!("{}: no stage wrote `{}`", plan.variant, slot.name)))
                }
            })
            .collect()
    }

    fn stage(self, plan: &Plan, n: usize, layouts: &[Layout], memory: &mut [Memory]) -> Result<()> {
        let stage = &plan.stages[n];
        let kernel = stage.op.kernel();
        let io = plan.io(n, layouts);
        // What the stage writes is taken out, so that the rest can be borrowed.
        let mut written: Vec<(&'static str, usize, HostData)> = Vec::new();
        for role in kernel.roles().iter().filter(|r| r.access == Access::Write) {
            let Some((_, r)) = stage.bindings.iter().find(|(name, _)| *name == role.name) else { continue };
            let at = r.slot.0;
            let data = match std::mem::replace(&mut memory[at], Memory::None) {
                Memory::Owned(data) => data,
                Memory::Shared(data) => Arc::unwrap_or_clone(data),
                Memory::None => HostData::zeros(plan.slots[at].dtype, plan.slots[at].layout.len()),
            };
            written.push((role.name, at, data));
        }
        let held = |at: usize| match &memory[at] {
            Memory::Shared(data) => Ok(&**data),
            Memory::Owned(data) => Ok(data),
            Memory::None => {
                let message =
                    format!("{}: stage {n} reads `{}` before it is written", plan.variant, plan.slots[at].name);
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        };
        let mut reads = Vec::new();
        for role in kernel.roles().iter().filter(|r| r.access == Access::Read) {
            if let Some((_, r)) = stage.bindings.iter().find(|(name, _)| *name == role.name) {
                reads.push((role.name, held(r.slot.0)?));
            }
        }
        let tables = plan.tables(n).iter().map(|(_, r, _)| held(r.slot.0)).collect::<Result<_>>()?;
        let writes = written.iter_mut().map(|(name, _, data)| (*name, data)).collect();
        kernel.twin(&mut TwinIo { io: &io, reads, writes, tables })?;
        for (_, at, data) in written {
            memory[at] = Memory::Owned(data);
        }
        Ok(())
    }
}

fn last_uses(plan: &Plan) -> Vec<Option<usize>> {
    let mut last = vec![None; plan.slots.len()];
    for n in 0..plan.stages.len() {
        for SlotId(slot) in plan.uses(n) {
            last[slot] = Some(n);
        }
    }
    last
}
