//! `KernelKey`: the one value from which the WGSL text, the bind group layout, the cache entry and the label follow.
//!
//! In the key: entry, constants (tile, bucketed head widths, switches), storage types, tables and hooks. Never a batch, a length,
//! a window or another value: those are arguments, so that changing them never recompiles.

use crate::caps::{Target, Tier};
use crate::tensor::DType;
use std::sync::Arc;

/// A constant of the composed shader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Const {
    /// `const NAME: u32`.
    U32(u32),
    /// `const NAME: bool`.
    Bool(bool),
}

/// How a storage binding is declared and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    /// Element type of the tensor.
    pub dtype: DType,
    /// Four neighbours are read at once: every row starts at a multiple of four elements and holds a multiple of four.
    pub vector: bool,
}

/// Whether a kernel reads or writes a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`, written and possibly read back by the same kernel.
    Write,
}

/// One storage binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buffer {
    /// The role's name; accessors are called `NAME_load`, `NAME_store`, ...
    pub name: &'static str,
    /// Declaration.
    pub element: Element,
    /// Read or write.
    pub access: Access,
    /// `false`: no binding is made, and the accessors are stubs that give 0 and store nothing.
    pub present: bool,
}

/// Where a table's elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Absent: the accessor gives 0.
    Absent,
    /// Packed with the other small tables into the one binding `side`.
    Side,
    /// A binding of its own: too large to be copied.
    Own,
}

/// A tensor read through `fn NAME(at: At)`, broadcast to (B, H, Lq, Lk).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableKey {
    /// Accessor's name.
    pub name: String,
    /// Element type of the tensor.
    pub dtype: DType,
    /// What the accessor returns.
    pub result: ScalarType,
    /// Where the elements lie.
    pub place: Place,
}

/// A WGSL scalar type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScalarType {
    /// `f32`
    F32,
    /// `i32`
    I32,
    /// `u32`
    U32,
    /// `bool`
    Bool,
}

impl ScalarType {
    /// The name in WGSL.
    pub fn wgsl(self) -> &'static str {
        match self {
            ScalarType::F32 => "f32",
            ScalarType::I32 => "i32",
            ScalarType::U32 => "u32",
            ScalarType::Bool => "bool",
        }
    }
}

/// Where in a kernel a hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// `fn (s: f32, at: At, ...) -> f32`: changes a score before the mask.
    Score,
    /// `fn (at: At, ...) -> bool`: whether a pair is allowed.
    Mask,
    /// `fn (s: f32, at: At, ...) -> f32`: the weight of a score, instead of softmax.
    Weight,
    /// `fn (x: f32) -> f32`: an elementwise feature map or activation.
    Feature,
}

/// A hook's part of the key: its text and the kinds of its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HookKey {
    /// Where it is called.
    pub point: Point,
    /// The function's name in `source`.
    pub name: String,
    /// WGSL text.
    pub source: Arc<str>,
    /// A user's: nobody vouches for its divisors.
    pub user: bool,
    /// Arguments after `at`, in order: name and type; each is an argument of the kernel or a table called `hN_NAME`.
    pub args: Vec<(String, ScalarType, bool)>,
    /// Tables that the text reads itself: `lookup_NAME(` in it stands for the accessor `hN_NAME(`.
    pub lookups: Vec<String>,
}

/// Everything that a composed shader depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelKey {
    /// File under `shaders/` without its ending: `attend/tile`.
    pub entry: &'static str,
    /// Further files under `shaders/`, in order.
    pub imports: Vec<&'static str>,
    /// Invocations a workgroup.
    pub workgroup: u32,
    /// Constants in order.
    pub consts: Vec<(&'static str, Const)>,
    /// The fields of `Args` in order; values are in [`Launch::args`].
    pub args: Vec<(String, ScalarType)>,
    /// Storage bindings in order.
    pub buffers: Vec<Buffer>,
    /// Tables in order.
    pub tables: Vec<TableKey>,
    /// Hooks in order.
    pub hooks: Vec<HookKey>,
    /// Abilities used.
    pub tier: Tier,
    /// Who compiles.
    pub target: Target,
}

impl KernelKey {
    /// The name in profiles and labels: entry, tile and hooks.
    pub fn label(&self) -> String {
        let mut text = self.entry.to_owned();
        for (name, value) in &self.consts {
            match value {
                Const::U32(n) => text += &format!(" {}={n}", name.to_lowercase()),
                Const::Bool(true) => text += &format!(" {}", name.to_lowercase()),
                Const::Bool(false) => {}
            }
        }
        for buffer in self.buffers.iter().filter(|b| b.present && b.element.dtype == DType::F16) {
            text += &format!(" {}:f16", buffer.name);
        }
        for hook in &self.hooks {
            text += &format!(" +{}", hook.name);
        }
        text
    }

    /// The bindings that the layout holds, in order after the arguments: present buffers, tables of their own, `side`.
    pub fn bindings(&self) -> Vec<(String, Access)> {
        let mut list: Vec<(String, Access)> =
            self.buffers.iter().filter(|b| b.present).map(|b| (b.name.to_owned(), b.access)).collect();
        list.extend(self.tables.iter().filter(|t| t.place == Place::Own).map(|t| (t.name.clone(), Access::Read)));
        if self.tables.iter().any(|t| t.place == Place::Side) {
            list.push(("side".to_owned(), Access::Read));
        }
        list
    }
}

/// Argument values in the order of [`KernelKey::args`], and the number of workgroups.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The key.
    pub key: KernelKey,
    /// One word a field.
    pub args: Vec<u32>,
    /// Workgroups in all; the engine folds them into the axes of a dispatch.
    pub groups: u64,
}
