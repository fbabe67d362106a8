//! A plan: ordered stages over named slots. Data that prints, compares and snapshots; engines run it and know no variant.

mod bind;
mod builder;
mod chunks;
mod display;
mod memory;
mod prune;
mod scan;
mod verbs;

pub use builder::PlanBuilder;
pub use memory::Memory;
pub use verbs::{AttendIo, ScanIo, SolveIo};

use crate::hook::Hook;
use crate::kernel::Op;
use crate::kernel::key::ScalarType;
use crate::tensor::{DType, HostTensor, Layout};

/// The number of a slot in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub usize);

/// What a slot holds.
#[derive(Clone, Debug, PartialEq)]
pub enum SlotRole {
    /// A tensor of the caller's.
    Input,
    /// A result.
    Output,
    /// Scratch, reused by lifetime.
    Transient,
    /// Data made with the plan.
    Constant(HostTensor),
}

/// What the values of a host tensor must satisfy before a run; device tensors are guarded by the kernels themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Whole numbers from −1 (an empty place) below the bound.
    IndexBelow(usize),
    /// Never decreasing, from 0, at most the bound.
    Cumulative(usize),
    /// Whole numbers from 0 to the bound.
    AtMost(usize),
    /// Rectangles (first row, end, first key, end, kind 0 to 3) inside the given sizes, of which no two overlap.
    Disjoint {
        /// Rows.
        rows: usize,
        /// Keys.
        keys: usize,
    },
}

/// A named place for a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Name; inputs and outputs have their argument's.
    pub name: String,
    /// What it holds.
    pub role: SlotRole,
    /// Element type.
    pub dtype: DType,
    /// Layout; for inputs the one they had when the plan was made.
    pub layout: Layout,
    /// What its values must satisfy.
    pub check: Option<Check>,
}

/// A change of layout without a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// Axes in another order.
    Permute(Vec<usize>),
    /// A new axis of size 1.
    Insert(usize),
    /// Axis removed at an index.
    Select(usize, usize),
    /// Part of an axis: axis, start, length.
    Narrow(usize, usize, usize),
    /// Broadcast to a shape.
    Broadcast(Vec<usize>),
    /// An axis split in two, the outer of the given size.
    Split(usize, usize),
}

impl View {
    /// The layout seen through the view. The plan builder checked that it fits.
    pub fn apply(&self, layout: &Layout) -> Layout {
        match self {
            View::Permute(order) => layout.permute(order),
            View::Insert(axis) => layout.insert(*axis),
            View::Select(axis, index) => layout.select(*axis, *index),
            View::Narrow(axis, start, length) => layout.narrow(*axis, *start, *length),
            View::Broadcast(shape) => layout.broadcast(shape).unwrap_or_else(|| layout.clone()),
            View::Split(axis, outer) => {
                let mut to = layout.clone();
                let inner = to.shape[*axis] / outer;
                to.shape[*axis] = inner;
                to.shape.insert(*axis, *outer);
                to.strides.insert(*axis, to.strides[*axis] * inner);
                to
            }
        }
    }
}

/// A slot as a stage sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ref {
    /// The slot.
    pub slot: SlotId,
    /// Changes of layout, in order.
    pub views: Vec<View>,
    /// Element type.
    pub dtype: DType,
    /// Shape through the views.
    pub shape: Vec<usize>,
}

impl Ref {
    /// The layout through the views, given the slot's.
    pub fn layout(&self, slot: &Layout) -> Layout {
        self.views.iter().fold(slot.clone(), |layout, view| view.apply(&layout))
    }

    fn view(&self, view: View) -> Self {
        // Shapes do not depend on strides, so a contiguous stand-in tells the new one.
        let shape = view.apply(&Layout::contiguous(&self.shape)).shape;
        let mut views = self.views.clone();
        views.push(view);
        Ref { views, shape, ..self.clone() }
    }

    /// Axes in another order.
    #[must_use]
    pub fn permute(&self, order: &[usize]) -> Self {
        self.view(View::Permute(order.to_vec()))
    }

    /// A new axis of size 1 before `axis`.
    #[must_use]
    pub fn insert(&self, axis: usize) -> Self {
        self.view(View::Insert(axis))
    }

    /// Leading axes of size 1 up to a rank.
    #[must_use]
    pub fn lead(&self, rank: usize) -> Self {
        (self.shape.len()..rank).fold(self.clone(), |r, _| r.insert(0))
    }

    /// Axis `axis` removed at `index`.
    #[must_use]
    pub fn select(&self, axis: usize, index: usize) -> Self {
        self.view(View::Select(axis, index))
    }

    /// `length` elements of `axis` from `start`.
    #[must_use]
    pub fn narrow(&self, axis: usize, start: usize, length: usize) -> Self {
        self.view(View::Narrow(axis, start, length))
    }

    /// Broadcast to `shape`, which was checked to fit.
    #[must_use]
    pub fn broadcast(&self, shape: &[usize]) -> Self {
        self.view(View::Broadcast(shape.to_vec()))
    }

    /// Axis `axis` split in two, the outer of size `outer`.
    #[must_use]
    pub fn split(&self, axis: usize, outer: usize) -> Self {
        self.view(View::Split(axis, outer))
    }
}

/// One operation and what is bound to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What the stage is for: `scores`, `select`, `attend`.
    pub label: String,
    /// The operation.
    pub op: Op,
    /// Role and what is bound to it.
    pub bindings: Vec<(&'static str, Ref)>,
    /// Tables that the kernel itself reads: `row_start`, `lengths`, `sink`.
    pub tables: Vec<(&'static str, Ref, ScalarType)>,
    /// Hooks in order.
    pub hooks: Vec<Hook>,
}

/// Ordered stages over named slots.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The variant that wrote it.
    pub variant: &'static str,
    /// Slots.
    pub slots: Vec<Slot>,
    /// Stages in the order they run.
    pub stages: Vec<Stage>,
    /// What was decided while it was written, for a reader.
    pub notes: Vec<String>,
    /// The same without stages that only cooperative matrices serve, where it has such: taken when the device fails their self-test.
    pub portable: Option<Box<Plan>>,
}

impl Plan {
    /// The slot of an id.
    pub fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[id.0]
    }

    /// The outputs: id and slot.
    pub fn outputs(&self) -> impl Iterator<Item = (SlotId, &Slot)> {
        self.slots.iter().enumerate().filter(|(_, s)| s.role == SlotRole::Output).map(|(i, s)| (SlotId(i), s))
    }

    /// The inputs: id and slot.
    pub fn inputs(&self) -> impl Iterator<Item = (SlotId, &Slot)> {
        self.slots.iter().enumerate().filter(|(_, s)| s.role == SlotRole::Input).map(|(i, s)| (SlotId(i), s))
    }
}
