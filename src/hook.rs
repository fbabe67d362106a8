//! Hooks: the small functions by which variants differ. WGSL for the GPU, a twin over a row of keys for the CPU.

mod exec;
mod program;
mod structure;

pub use program::{Assembler, Binary, LANES, One, Op, Parameter, Program, Reg, Source, Unary};
pub use structure::{Depends, Structure};

use crate::kernel::key::{Point, ScalarType};
use crate::plan::Ref;
use crate::tensor::{HostData, Layout};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A function called at one point of a kernel.
///
/// The WGSL text defines `fn NAME(s: f32, at: At, ...) -> f32` (score, weight), `fn NAME(at: At, ...) -> bool` (mask) or
/// `fn NAME(x: f32) -> f32` (feature). What follows `at` are the arguments, in order: numbers, or elements of tables.
#[derive(Clone)]
pub struct Hook {
    /// Where it is called.
    pub point: Point,
    /// The function's name in the text.
    pub name: Cow<'static, str>,
    /// WGSL text.
    pub source: Arc<str>,
    /// Arguments after `at`.
    pub args: Vec<HookArg>,
    /// The same on the CPU.
    pub twin: Twin,
    /// What a mask rule hangs on, as far as it is known.
    pub structure: Structure,
}

/// The CPU side of a hook.
#[derive(Clone)]
pub enum Twin {
    /// Changes the scores of a row of keys.
    Score(fn(&mut [f32], &Row, &[ArgRow])),
    /// Clears the entries of pairs that are not allowed.
    Mask(fn(&mut [bool], &Row, &[ArgRow])),
    /// Elementwise.
    Feature(fn(f32) -> f32),
    /// Any of them, interpreted: what the WGSL text was compiled to.
    Program(Arc<Program>),
}

impl Twin {
    /// Whether it serves a point.
    pub fn serves(&self, point: Point) -> bool {
        match self {
            Twin::Score(_) => matches!(point, Point::Score | Point::Weight),
            Twin::Mask(_) => point == Point::Mask,
            Twin::Feature(_) => point == Point::Feature,
            Twin::Program(program) => program.point() == point,
        }
    }

    /// Changes the scores (or makes them weights) of a row of keys. Nothing where the twin serves another point.
    pub fn score(&self, scores: &mut [f32], row: &Row, args: &[ArgRow]) {
        match self {
            Twin::Score(function) => function(scores, row, args),
            Twin::Program(program) => program.score(scores, row, args),
            _ => {}
        }
    }

    /// Clears the entries of pairs that are not allowed. Nothing where the twin serves another point.
    pub fn mask(&self, allowed: &mut [bool], row: &Row, args: &[ArgRow]) {
        match self {
            Twin::Mask(function) => function(allowed, row, args),
            Twin::Program(program) => program.mask(allowed, row, args),
            _ => {}
        }
    }

    /// The feature of each element. Nothing where the twin serves another point.
    pub fn feature(&self, x: &mut [f32], args: &[ArgRow]) {
        match self {
            Twin::Feature(function) => x.iter_mut().for_each(|x| *x = function(*x)),
            Twin::Program(program) => program.feature(x, args),
            _ => {}
        }
    }
}

/// One argument of a hook.
#[derive(Clone, Debug, PartialEq)]
pub struct HookArg {
    /// Name, for printing and for the kernel's argument `hN_NAME`.
    pub name: Cow<'static, str>,
    /// Number or table.
    pub value: ArgValue,
}

/// A number that joins the kernel's arguments, or a tensor read at each pair.
#[derive(Clone, Debug, PartialEq)]
pub enum ArgValue {
    /// A real number.
    F32(f32),
    /// A signed number.
    I32(i32),
    /// An unsigned number.
    U32(u32),
    /// A tensor that broadcasts to (B, H, Lq, Lk), and the type the function takes.
    Table(Ref, ScalarType),
    /// A tensor of rank 4 that the function reads where it likes, as `lookup_NAME(At(batch, head, row, 0, key))`: it is no argument of
    /// the function. Indices are not checked. For the crate's own hooks.
    Lookup(Ref, ScalarType),
}

impl ArgValue {
    /// Type and bits of a number.
    pub(crate) fn word(&self) -> (ScalarType, u32) {
        match self {
            ArgValue::F32(x) => (ScalarType::F32, x.to_bits()),
            ArgValue::I32(x) => (ScalarType::I32, *x as u32),
            ArgValue::U32(x) => (ScalarType::U32, *x),
            ArgValue::Table(_, kind) | ArgValue::Lookup(_, kind) => (*kind, 0),
        }
    }

    /// The tensor of a table or a lookup, and the type it is read as.
    pub(crate) fn tensor(&self) -> Option<(&Ref, ScalarType)> {
        match self {
            ArgValue::Table(r, kind) | ArgValue::Lookup(r, kind) => Some((r, *kind)),
            _ => None,
        }
    }
}

/// The position of a row of pairs: what `At` is in WGSL, for several keys at once.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Batch.
    pub batch: usize,
    /// Query head.
    pub head: usize,
    /// Query index.
    pub row: usize,
    /// Aligned query position i' (bottom-right: i + Lk − Lq).
    pub query: i32,
    /// Key index of each entry.
    pub keys: &'a [i32],
}

/// One argument over a row of keys.
#[derive(Clone, Copy, Debug)]
pub enum ArgRow<'a> {
    /// The same number for every key.
    Number(f64),
    /// An element of a table for key `j`: `data[base + j * step]`.
    Table {
        /// Elements.
        data: &'a HostData,
        /// Position for key 0.
        base: usize,
        /// Elements between keys.
        step: usize,
    },
    /// A whole tensor, for [`lookup`](ArgRow::lookup).
    Whole {
        /// Elements.
        data: &'a HostData,
        /// Layout (B, H, Lq, Lk).
        layout: &'a Layout,
    },
}

impl<'a> ArgRow<'a> {
    /// A table of layout (B, H, Lq, Lk) at one (batch, head, row).
    pub fn of(data: &'a HostData, layout: &Layout, [b, h, i]: [usize; 3]) -> Self {
        ArgRow::Table { data, base: layout.at(&[b, h, i, 0]), step: layout.strides[3] }
    }

    /// The value for key `j`.
    pub fn get(&self, j: i32) -> f64 {
        match *self {
            ArgRow::Number(x) => x,
            ArgRow::Table { data, base, step } => data.get(base + j as usize * step),
            ArgRow::Whole { .. } => self.lookup([0, 0, 0, j as usize]),
        }
    }

    /// The element of a lookup at (batch, head, row, key).
    pub fn lookup(&self, at: [usize; 4]) -> f64 {
        match *self {
            ArgRow::Whole { data, layout } => data.get(layout.at(&at)),
            _ => self.get(at[3] as i32),
        }
    }

    /// The value for key `j` as f32.
    pub fn f32(&self, j: i32) -> f32 {
        self.get(j) as f32
    }

    /// The value for key `j` as i32.
    pub fn i32(&self, j: i32) -> i32 {
        self.get(j) as i32
    }

    /// The value for key `j` as bool.
    pub fn bool(&self, j: i32) -> bool {
        self.get(j) != 0.0
    }
}

impl Hook {
    /// A hook from WGSL text and its CPU twin.
    pub fn new(point: Point, name: &'static str, source: &'static str, twin: Twin) -> Self {
        Hook { point, name: name.into(), source: source.into(), args: Vec::new(), twin, structure: Structure::Pairs }
    }

    /// Whether it is a user's text, checked but not known.
    pub fn is_user(&self) -> bool {
        matches!(self.twin, Twin::Program(_))
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, name: &'static str, value: ArgValue) -> Self {
        self.args.push(HookArg { name: name.into(), value });
        self
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        for arg in &self.args {
            write!(f, " {}={:?}", arg.name, arg.value)?;
        }
        Ok(())
    }
}

impl PartialEq for Hook {
    fn eq(&self, other: &Self) -> bool {
        self.point == other.point && self.name == other.name && self.source == other.source && self.args == other.args
    }
}
