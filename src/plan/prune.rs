//! Leaves out what no later stage reads.

use super::{Plan, SlotId, SlotRole};
use crate::hook::ArgValue;
use crate::kernel::key::Access;

impl Plan {
    /// Leaves out stages that write nothing but scratch that no other stage uses, and scratch that no stage uses.
    pub(super) fn prune(&mut self) {
        while let Some(n) = (0..self.stages.len()).find(|&n| self.dead(n)) {
            self.stages.remove(n);
        }
        let used: Vec<SlotId> = (0..self.stages.len()).flat_map(|n| self.uses(n)).collect();
        let kept = |n: usize, plan: &Plan| plan.slots[n].role != SlotRole::Transient || used.contains(&SlotId(n));
        let keeps: Vec<bool> = (0..self.slots.len()).map(|n| kept(n, self)).collect();
        let place = |SlotId(n): SlotId| SlotId(keeps[..n].iter().filter(|kept| **kept).count());
        for stage in &mut self.stages {
            stage.bindings.iter_mut().for_each(|(_, r)| r.slot = place(r.slot));
            stage.tables.iter_mut().for_each(|(_, r, _)| r.slot = place(r.slot));
            for arg in stage.hooks.iter_mut().flat_map(|hook| &mut hook.args) {
                if let ArgValue::Table(r, ..) | ArgValue::Lookup(r, ..) = &mut arg.value {
                    r.slot = place(r.slot);
                }
            }
        }
        let mut keeps = keeps.iter();
        self.slots.retain(|_| keeps.next().copied().unwrap_or(true));
    }

    /// Whether a stage writes nothing but scratch that no other stage uses.
    fn dead(&self, n: usize) -> bool {
        let roles = self.stages[n].op.kernel().roles();
        let writes = |role: &str| roles.iter().any(|r| r.name == role && r.access == Access::Write);
        let mut written = self.stages[n].bindings.iter().filter(|(role, _)| writes(role)).map(|(_, r)| r.slot);
        let others: Vec<SlotId> = (0..self.stages.len()).filter(|&m| m != n).flat_map(|m| self.uses(m)).collect();
        written.all(|slot| self.slot(slot).role == SlotRole::Transient && !others.contains(&slot))
    }
}
