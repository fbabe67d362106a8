//! `PlanBuilder`: what a variant writes its plan with. Slots here, stages by the typed verbs of `verbs.rs`.

use super::{Check, Plan, Ref, Slot, SlotId, SlotRole, Stage};
use crate::caps::{Caps, DeviceClass};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::Hook;
use crate::kernel::Op;
use crate::kernel::key::ScalarType;
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor, Layout};

/// Collects slots and stages.
#[derive(Debug)]
pub struct PlanBuilder<'a> {
    problem: &'a Problem,
    plan: Plan,
    whole_from: usize,
    workgroups: usize,
    matrices: Option<u64>,
    class: Option<DeviceClass>,
    fused: bool,
}

/// Workgroups that fill a large device with several each on its processors.
const WORKGROUPS: usize = 1024;

impl<'a> PlanBuilder<'a> {
    /// An empty plan for a problem; its inputs are slots already.
    pub fn new(problem: &'a Problem) -> Self {
        let mut plan = Plan {
            variant: problem.subject(),
            slots: Vec::new(),
            stages: Vec::new(),
            notes: Vec::new(),
            portable: None,
        };
        let card = problem.card();
        let known = card.inputs.iter().filter_map(|i| Some((i.name, problem.input(i.name)?)));
        for (name, spec) in known.chain(problem.inputs().filter(|(name, _)| card.input(name).is_none())) {
            plan.slots.push(Slot {
                name: name.to_owned(),
                role: SlotRole::Input,
                dtype: spec.dtype,
                layout: Layout::contiguous(&spec.shape),
                check: None,
            });
        }
        PlanBuilder {
            problem,
            plan,
            whole_from: usize::MAX,
            workgroups: WORKGROUPS,
            matrices: None,
            class: None,
            fused: false,
        }
    }

    /// The finished plan.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when an output of the card was not written: a defect of the variant.
    pub fn finish(mut self) -> Result<Plan> {
        for output in self.problem.card().outputs.iter().filter(|o| !o.optional) {
            let written = |stage: &Stage| {
                stage.bindings.iter().any(|(role, r)| {
                    self.plan.slot(r.slot).name == output.name
                        && self.plan.slot(r.slot).role == SlotRole::Output
                        && stage
                            .op
                            .kernel()
                            .roles()
                            .iter()
                            .any(|k| k.name == *role && k.access == crate::kernel::key::Access::Write)
                })
            };
            if !self.plan.stages.iter().any(written) {
                let name = output.name;
                let message = format!("{}: the plan writes no output `{name}`", self.plan.variant);
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
        if self.fused {
            self.plan.prune();
        }
        Ok(self.plan)
    }

    /// The problem.
    pub fn problem(&self) -> &'a Problem {
        self.problem
    }

    /// A required input, or an optional one known to be present.
    ///
    /// # Errors
    /// [`ErrorKind::MissingInput`].
    pub fn input(&self, name: &str) -> Result<Ref> {
        self.optional(name).ok_or_else(|| {
            let message = format!("{}: the input `{name}` is missing", self.problem.subject());
            Error::new(ErrorKind::MissingInput, message)
        })
    }

    /// An optional input, if present.
    pub fn optional(&self, name: &str) -> Option<Ref> {
        let at = self.plan.slots.iter().position(|s| s.name == name && s.role == SlotRole::Input)?;
        Some(self.reference(SlotId(at)))
    }

    /// Demands a property of an input's values.
    pub fn check(&mut self, input: &Ref, check: Check) {
        self.plan.slots[input.slot.0].check = Some(check);
    }

    /// The output `name` of the card, row-major.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownName`] when the card has no such output, [`ErrorKind::Shape`] when its size is not known.
    pub fn output(&mut self, name: &str) -> Result<Ref> {
        self.output_slot(name, |problem, words| problem.shape(words))
    }

    fn output_slot(&mut self, name: &str, shape: impl Fn(&Problem, &str) -> Result<Vec<usize>>) -> Result<Ref> {
        let spec = self.problem.card().outputs.iter().find(|o| o.name == name).ok_or_else(|| {
            Error::new(ErrorKind::UnknownName, format!("{}: the card has no output `{name}`", self.problem.subject()))
        })?;
        let shape = shape(self.problem, spec.shape)?;
        let dtype = spec.dtype;
        if let Some(at) = self.plan.slots.iter().position(|s| s.name == name && s.role == SlotRole::Output) {
            return Ok(self.reference(SlotId(at)));
        }
        Ok(self.slot(name, SlotRole::Output, dtype, &shape))
    }

    /// The output `name` with a shape that a parameter makes other than the card says: a state of wider features.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownName`] when the card has no such output.
    pub fn output_as(&mut self, name: &str, shape: &[usize]) -> Result<Ref> {
        let made = self.output_slot(name, |_, _| Ok(shape.to_vec()))?;
        self.plan.slots[made.slot.0].layout = Layout::contiguous(shape);
        Ok(self.reference(made.slot))
    }

    /// Scratch memory, reused by lifetime.
    pub fn scratch(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Ref {
        self.slot(name, SlotRole::Transient, dtype, shape)
    }

    /// Data made with the plan.
    pub fn constant(&mut self, name: &str, data: HostTensor) -> Ref {
        let data = data.contiguous();
        let (dtype, shape) = (data.dtype(), data.shape().to_vec());
        // The same data once: tables of cosines for q are those for k.
        let same = |s: &Slot| s.name == name && matches!(&s.role, SlotRole::Constant(held) if *held == data);
        if let Some(n) = self.plan.slots.iter().position(same) {
            return Ref { slot: SlotId(n), views: Vec::new(), dtype, shape };
        }
        self.slot(name, SlotRole::Constant(data), dtype, &shape)
    }

    /// Adds a stage. Prefer the typed verbs.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when a required role is not bound, or a table does not broadcast: a defect of the variant.
    pub fn stage(
        &mut self,
        label: &str,
        op: Op,
        bindings: Vec<(&'static str, Ref)>,
        tables: Vec<(&'static str, Ref, ScalarType)>,
        hooks: Vec<Hook>,
    ) -> Result<()> {
        let kernel = op.kernel();
        for role in kernel.roles().iter().filter(|r| !r.optional) {
            if !bindings.iter().any(|(name, _)| *name == role.name) {
                let message = format!("{}: {} needs `{}`", self.plan.variant, kernel.name(), role.name);
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
        let hook_tables = hooks.iter().flat_map(|hook| &hook.args).filter_map(|arg| Some(arg.value.tensor()?.0));
        if let Some(table) = hook_tables.chain(tables.iter().map(|(_, t, _)| t)).find(|t| t.shape.len() != 4) {
            let message = format!("{}: a table of shape {:?} is not (B, H, Lq, Lk)", self.plan.variant, table.shape);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        self.plan.stages.push(Stage { label: label.to_owned(), op, bindings, tables, hooks });
        Ok(())
    }

    /// Tells a reader of the plan what was decided and why.
    pub fn note(&mut self, text: impl Into<String>) {
        self.plan.notes.push(text.into());
    }

    /// Cuts work that has too few rows or heads of its own into about so many pieces, instead of those that fill a large device.
    #[must_use]
    pub fn filled_by(mut self, workgroups: usize) -> Self {
        self.workgroups = workgroups;
        self
    }

    /// Lets the plan use what a device has besides what all have, stages that only matrices need, and cut work as its class asks for.
    #[must_use]
    pub fn on(mut self, caps: &Caps) -> Self {
        self.matrices = caps.matrix.map(|_| caps.max_binding);
        self.class = Some(caps.class);
        self
    }

    /// The stage that computes a scratch tensor, where it is bound whole.
    pub(super) fn maker(&self, of: &Ref) -> Option<&Stage> {
        let whole = of.views.is_empty() && self.plan_role(of) == &SlotRole::Transient;
        let writes = |stage: &&Stage| stage.bindings.iter().any(|(role, r)| *role == "out" && r.slot == of.slot);
        self.plan
            .stages
            .iter()
            .rev()
            .find(writes)
            .filter(|stage| whole && stage.bindings.iter().all(|(role, r)| *role != "out" || r.views.is_empty()))
    }

    /// Another stage does what this one's maker did: it is left out if nothing else reads it.
    pub(super) fn fused(&mut self) {
        self.fused = true;
    }

    /// Bytes of a binding, at most, where the device has matrices.
    pub(super) fn matrices(&self) -> Option<u64> {
        self.matrices
    }

    /// Pieces that fill the engine.
    pub(super) fn workgroups(&self) -> usize {
        self.workgroups
    }

    /// Whether the device computes on the CPU.
    pub(super) fn is_software(&self) -> bool {
        self.class == Some(DeviceClass::Software)
    }

    /// Whether the device is known to run about a thousand small workgroups at once. A software device is not, but it is where the tests are.
    pub(super) fn is_large(&self) -> bool {
        matches!(self.class, Some(DeviceClass::Discrete | DeviceClass::Software))
    }

    /// Leaves the keys of `attend` stages of so many queries and more in one range: a wrapper will list their blocks.
    pub(crate) fn whole_from(&mut self, queries: usize) {
        self.whole_from = queries;
    }

    /// Whether a stage of so many queries may have its keys cut in ranges.
    pub(super) fn may_cut(&self, queries: usize) -> bool {
        queries < self.whole_from
    }

    /// The stages so far, for a wrapper to change.
    pub(crate) fn stages_mut(&mut self) -> &mut Vec<Stage> {
        &mut self.plan.stages
    }

    /// What the slot of a reference holds.
    pub(crate) fn plan_role(&self, of: &Ref) -> &SlotRole {
        &self.plan.slot(of.slot).role
    }

    fn slot(&mut self, name: &str, role: SlotRole, dtype: DType, shape: &[usize]) -> Ref {
        let layout = Layout::contiguous(shape);
        self.plan.slots.push(Slot { name: name.to_owned(), role, dtype, layout, check: None });
        self.reference(SlotId(self.plan.slots.len() - 1))
    }

    fn reference(&self, slot: SlotId) -> Ref {
        let of = self.plan.slot(slot);
        Ref { slot, views: Vec::new(), dtype: of.dtype, shape: of.layout.shape.clone() }
    }
}
