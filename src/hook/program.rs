//! A hook as flat register code: what its WGSL text is compiled to for the CPU.
//!
//! Every register holds one 32-bit value for each of [`LANES`] keys, so that an operation is a short loop over lanes which the compiler
//! makes vectors of. Control flow is by masks: lanes that took another branch, left a loop or returned are switched off, and only writes
//! to variables ([`Op::Move`]) look at the mask; all else is pure and may run on any lane. What does not depend on the key runs once a
//! row, on one lane.

use super::exec;
use super::{ArgRow, Row};
use crate::kernel::key::{Point, ScalarType};

/// The most keys worked on at once: enough that taking an instruction costs little beside running it, few enough for the first cache.
pub const LANES: usize = 256;

/// The number of a register.
pub type Reg = u16;

/// What a register holds before the code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The score, or the feature's element.
    Score,
    /// `at.batch`
    Batch,
    /// `at.head`
    Head,
    /// `at.row`
    Row,
    /// `at.query`
    Query,
    /// `at.key`
    Key,
    /// An argument after `at`.
    Arg(usize),
}

/// Operations on one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as in WGSL, with the operand's type: F f32, I i32, U u32, B bool")]
pub enum Unary {
    NegF,
    NegI,
    NotB,
    NotBits,
    AbsF,
    AbsI,
    SignF,
    SignI,
    Floor,
    Ceil,
    Trunc,
    Round,
    Exp,
    Exp2,
    Log,
    Log2,
    Sqrt,
    InverseSqrt,
    Sin,
    Cos,
    Tan,
    Sinh,
    Cosh,
    Tanh,
    Asin,
    Acos,
    Atan,
    Asinh,
    Acosh,
    Atanh,
    /// Truncated, clamped to the values that f32 and the type share; NaN gives 0.
    FToI,
    FToU,
    IToF,
    UToF,
    FToB,
    IToB,
    BToF,
    CountOneBits,
    CountLeadingZeros,
    CountTrailingZeros,
    ReverseBits,
    FirstLeadingBitI,
    FirstLeadingBitU,
    FirstTrailingBit,
}

/// Operations on two registers. Integers wrap; x / 0 = x and x % 0 = 0, as WGSL has it; shifts are modulo 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as in WGSL, with the operands' type: F f32, I i32, U u32")]
pub enum Binary {
    AddF,
    SubF,
    MulF,
    DivF,
    RemF,
    MinF,
    MaxF,
    Pow,
    Atan2,
    AddI,
    SubI,
    MulI,
    DivI,
    DivU,
    RemI,
    RemU,
    MinI,
    MinU,
    MaxI,
    MaxU,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRightI,
    ShiftRightU,
    EqualF,
    NotEqualF,
    LessF,
    LessEqualF,
    Equal,
    NotEqual,
    LessI,
    LessEqualI,
    LessU,
    LessEqualU,
}

/// An operand that is the same for all keys of a row, of which only the first lane is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the operands")]
pub enum One {
    Neither,
    A,
    B,
}

/// One instruction. `to` is never one of the operands, except that of `Move`, which writes a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "operands are registers")]
pub enum Op {
    Unary {
        op: Unary,
        to: Reg,
        a: Reg,
    },
    Binary {
        op: Binary,
        to: Reg,
        a: Reg,
        b: Reg,
        one: One,
    },
    /// a * b + c, rounded once.
    Fma {
        to: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Select {
        to: Reg,
        no: Reg,
        yes: Reg,
        condition: Reg,
    },
    Copy {
        to: Reg,
        from: Reg,
    },
    /// `to` = register `first + step * min(index, count - 1)`.
    Index {
        to: Reg,
        first: Reg,
        step: Reg,
        count: Reg,
        index: Reg,
    },
    /// A variable of the lanes that are on.
    Move {
        to: Reg,
        from: Reg,
    },
    /// Keeps which lanes are on.
    Enter {
        saved: Reg,
    },
    /// Only the lanes of the condition stay on; without any the code goes on at `none`.
    Only {
        condition: Reg,
        none: u32,
    },
    /// The other lanes of `saved`.
    Others {
        saved: Reg,
        condition: Reg,
        none: u32,
    },
    /// The lanes of `saved` that have not left.
    Restore {
        saved: Reg,
    },
    /// No lane has left to `set`.
    Clear {
        set: Reg,
    },
    /// The lanes that are on leave: to the end of a loop's turn, of a loop, or of a function.
    Leave {
        set: Reg,
    },
    /// Those that left to `set` are back (with the next `Restore`).
    Return {
        set: Reg,
    },
    /// Goes on at `head` while a lane is on.
    Again {
        head: u32,
    },
}

impl Op {
    pub(super) fn reads(&self) -> Vec<Reg> {
        match *self {
            Op::Unary { a, .. } | Op::Copy { from: a, .. } | Op::Move { from: a, .. } => vec![a],
            Op::Binary { a, b, .. } => vec![a, b],
            Op::Fma { a, b, c, .. } => vec![a, b, c],
            Op::Select { no, yes, condition, .. } => vec![no, yes, condition],
            Op::Index { first, step, count, index, .. } => {
                (0..count).map(|n| first + n * step).chain([index]).collect()
            }
            Op::Only { condition, .. } => vec![condition],
            Op::Others { condition, .. } => vec![condition],
            _ => Vec::new(),
        }
    }

    /// The registers of which every lane is read.
    fn reads_lanes(&self) -> Vec<Reg> {
        match *self {
            Op::Binary { b, one: One::A, .. } => vec![b],
            Op::Binary { a, one: One::B, .. } => vec![a],
            _ => self.reads(),
        }
    }

    pub(super) fn writes(&self) -> Vec<Reg> {
        match *self {
            Op::Unary { to, .. }
            | Op::Binary { to, .. }
            | Op::Fma { to, .. }
            | Op::Select { to, .. }
            | Op::Copy { to, .. }
            | Op::Index { to, .. }
            | Op::Move { to, .. } => vec![to],
            _ => Vec::new(),
        }
    }

    fn is_pure(&self) -> bool {
        matches!(
            self,
            Op::Unary { .. }
                | Op::Binary { .. }
                | Op::Fma { .. }
                | Op::Select { .. }
                | Op::Copy { .. }
                | Op::Index { .. }
        )
    }

    fn target(&mut self) -> Option<&mut u32> {
        match self {
            Op::Only { none, .. } | Op::Others { none, .. } => Some(none),
            Op::Again { head } => Some(head),
            _ => None,
        }
    }
}

/// An argument after `at`: its type, and what its value changes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Type.
    pub kind: ScalarType,
    /// Changes from query to query.
    pub along_rows: bool,
    /// Changes from key to key.
    pub along_keys: bool,
}

/// A compiled hook.
#[derive(Clone, Debug)]
pub struct Program {
    point: Point,
    pub(super) args: Vec<Parameter>,
    pub(super) sources: Vec<(Source, Reg)>,
    pub(super) constants: Vec<(Reg, u32)>,
    /// What runs once a row.
    pub(super) row: Vec<Op>,
    /// What is the same for all keys of a row, and read by the code on every lane.
    pub(super) spread: Vec<Reg>,
    pub(super) code: Vec<Op>,
    pub(super) result: Reg,
    pub(super) registers: usize,
    pub(super) branches: bool,
}

impl Program {
    /// Where the hook is called.
    pub fn point(&self) -> Point {
        self.point
    }

    /// Instructions: run once a row, and once for every [`LANES`] keys.
    pub fn len(&self) -> (usize, usize) {
        (self.row.len(), self.code.len())
    }

    /// Whether the result is one of the inputs as it is.
    pub fn is_empty(&self) -> bool {
        self.row.is_empty() && self.code.is_empty()
    }

    /// Replaces the scores of a row of keys.
    pub fn score(&self, scores: &mut [f32], row: &Row, args: &[ArgRow]) {
        exec::run(self, row, args, exec::Values::Floats(scores));
    }

    /// Clears the entries of pairs that are not allowed.
    pub fn mask(&self, allowed: &mut [bool], row: &Row, args: &[ArgRow]) {
        exec::run(self, row, args, exec::Values::Bools(allowed));
    }

    /// Replaces each element.
    pub fn feature(&self, x: &mut [f32], args: &[ArgRow]) {
        let row = Row { batch: 0, head: 0, row: 0, query: 0, keys: &[] };
        exec::run(self, &row, args, exec::Values::Floats(x));
    }
}

/// Writes a [`Program`].
#[derive(Debug)]
pub struct Assembler {
    point: Point,
    args: Vec<Parameter>,
    sources: Vec<(Source, Reg)>,
    constants: Vec<(Reg, u32)>,
    code: Vec<Op>,
    registers: usize,
}

/// More would not stay in any cache, and registers are 16 bits wide.
const MOST_REGISTERS: usize = 8192;
/// Inlining a function at every call may double the code at every level.
const MOST_CODE: usize = 16384;

impl Assembler {
    /// No code yet. `args` are the arguments after `at`.
    pub fn new(point: Point, args: Vec<Parameter>) -> Self {
        Assembler { point, args, sources: Vec::new(), constants: Vec::new(), code: Vec::new(), registers: 0 }
    }

    /// The first of `count` new registers, side by side.
    pub fn registers(&mut self, count: usize) -> Reg {
        let first = self.registers.min(MOST_REGISTERS);
        self.registers += count;
        first as Reg
    }

    /// Whether the code has grown beyond what a program holds.
    pub fn is_too_long(&self) -> bool {
        self.registers > MOST_REGISTERS || self.code.len() > MOST_CODE
    }

    /// The register of a constant.
    pub fn constant(&mut self, bits: u32) -> Reg {
        if let Some((reg, _)) = self.constants.iter().find(|(_, b)| *b == bits) {
            return *reg;
        }
        let reg = self.registers(1);
        self.constants.push((reg, bits));
        reg
    }

    /// The register of an input.
    pub fn source(&mut self, source: Source) -> Reg {
        if let Some((_, reg)) = self.sources.iter().find(|(s, _)| *s == source) {
            return *reg;
        }
        let reg = self.registers(1);
        self.sources.push((source, reg));
        reg
    }

    /// The register of a result.
    pub fn unary(&mut self, op: Unary, a: Reg) -> Reg {
        let to = self.registers(1);
        self.push(Op::Unary { op, to, a });
        to
    }

    /// The register of a result.
    pub fn binary(&mut self, op: Binary, a: Reg, b: Reg) -> Reg {
        let to = self.registers(1);
        self.push(Op::Binary { op, to, a, b, one: One::Neither });
        to
    }

    /// The register of `yes` where the condition holds, of `no` elsewhere.
    pub fn select(&mut self, no: Reg, yes: Reg, condition: Reg) -> Reg {
        let to = self.registers(1);
        self.push(Op::Select { to, no, yes, condition });
        to
    }

    /// Adds an instruction.
    pub fn push(&mut self, op: Op) {
        if self.code.len() <= MOST_CODE {
            self.code.push(op);
        }
    }

    /// The number of the next instruction.
    pub fn here(&self) -> u32 {
        self.code.len() as u32
    }

    /// Sets the target of the jump at `at`.
    pub fn land(&mut self, at: u32) {
        let here = self.here();
        if let Some(target) = self.code.get_mut(at as usize).and_then(Op::target) {
            *target = here;
        }
    }

    /// The program. `None` when it is too long.
    pub fn finish(self, result: Reg) -> Option<Program> {
        if self.is_too_long() {
            return None;
        }
        let count = self.registers;
        let mut written = vec![0u32; count];
        self.code.iter().flat_map(Op::writes).for_each(|r| written[r as usize] += 1);
        // Registers whose value is the same for all keys of a row.
        let mut uniform = vec![false; count];
        for (source, reg) in &self.sources {
            uniform[*reg as usize] = match source {
                Source::Score | Source::Key => false,
                Source::Arg(n) => !self.args[*n].along_keys,
                _ => true,
            };
        }
        self.constants.iter().for_each(|(reg, _)| uniform[*reg as usize] = true);
        let (mut row, mut code, mut places) = (Vec::new(), Vec::new(), Vec::with_capacity(self.code.len() + 1));
        for op in &self.code {
            places.push(code.len() as u32);
            let once = op.is_pure() && op.writes().iter().all(|r| written[*r as usize] == 1);
            if once && op.reads().iter().all(|r| uniform[*r as usize]) {
                op.writes().iter().for_each(|r| uniform[*r as usize] = true);
                row.push(*op);
            } else {
                let mut op = *op;
                if let Op::Binary { a, b, one, .. } = &mut op {
                    *one = match [a, b].map(|r| uniform[*r as usize]) {
                        [true, false] => One::A,
                        [false, true] => One::B,
                        _ => One::Neither,
                    };
                }
                code.push(op);
            }
        }
        places.push(code.len() as u32);
        code.iter_mut().filter_map(Op::target).for_each(|target| *target = places[*target as usize]);
        // The executor trusts these.
        let inside = |op: &Op| op.reads().iter().chain(&op.writes()).all(|r| (*r as usize) < count);
        let apart = |op: &Op| !op.is_pure() || op.writes().iter().all(|to| !op.reads().contains(to));
        if !row.iter().chain(&code).all(|op| inside(op) && apart(op)) || result as usize >= count {
            return None;
        }
        let branches = code.iter().any(|op| matches!(op, Op::Enter { .. }));
        // What nothing reads need not be loaded.
        let mut used = vec![false; count];
        used[result as usize] = true;
        row.iter().chain(&code).flat_map(Op::reads).for_each(|r| used[r as usize] = true);
        let is_used = |reg: Reg| used[reg as usize];
        let mut spread: Vec<Reg> = code.iter().flat_map(Op::reads_lanes).chain([result]).collect();
        spread.retain(|reg| uniform[*reg as usize]);
        spread.sort_unstable();
        spread.dedup();
        Some(Program {
            point: self.point,
            args: self.args,
            sources: self.sources.into_iter().filter(|(_, reg)| is_used(*reg)).collect(),
            constants: self.constants.into_iter().filter(|(reg, _)| is_used(*reg)).collect(),
            row,
            spread,
            code,
            result,
            registers: count,
            branches,
        })
    }
}
