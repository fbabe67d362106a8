//! From checked naga IR to the register code of [`Program`].
//!
//! Calls are inlined. A hook without loops becomes straight code: both sides of a branch run, and a store under a condition is a select.
//! With loops, branches switch lanes off by masks.

use crate::hook::{Assembler, Binary, Op, Parameter, Program, Reg, Source, Unary};
use crate::kernel::key::Point;
use naga::{Block, Expression, Function, Handle, Module, Statement};
use std::collections::HashMap;

/// The components of a value, each a register.
pub(super) type Value = Vec<Reg>;

/// Why there is no code: a construct that the allow-list should have refused, or too much of it.
#[derive(Debug)]
pub(super) enum Failure {
    TooLong,
    Unknown(String),
}

pub(super) type Lowered<T> = Result<T, Failure>;

/// A variable, or a part of one. Its registers lie in `Lower::variables`.
#[derive(Clone)]
pub(super) struct Place {
    pub variable: usize,
    pub first: usize,
    pub length: usize,
    /// Index register, elements and their length; what `first` counts from lies inside an element.
    pub dynamic: Option<(Reg, usize, usize)>,
}

/// One inlined call.
pub(super) struct Frame<'a> {
    pub function: &'a Function,
    pub info: &'a naga::valid::FunctionInfo,
    pub args: Vec<Value>,
    pub values: HashMap<Handle<Expression>, Value>,
    pub locals: HashMap<Handle<naga::LocalVariable>, usize>,
    /// Straight code: the value returned so far, and the lanes that have returned (`None`: none).
    pub result: Option<Value>,
    pub returned: Option<Reg>,
    pub done: bool,
    /// With masks: the variable of the result and the set of lanes that have returned.
    pub exit: Option<(Vec<Reg>, Reg)>,
}

/// Where `break` and `continue` leave to.
#[derive(Clone, Copy)]
pub(super) struct Exits {
    /// With masks.
    breaks: Reg,
    continues: Option<Reg>,
}

pub(super) struct Lower<'a> {
    pub module: &'a Module,
    pub info: &'a naga::valid::ModuleInfo,
    pub asm: Assembler,
    pub variables: Vec<Vec<Reg>>,
    /// No loops anywhere.
    pub straight: bool,
    /// Straight code: the condition under which a statement runs.
    pub predicate: Option<Reg>,
    pub exits: Vec<Exits>,
    pub depth: usize,
}

/// The program of a function whose signature was checked.
pub(super) fn program(
    module: &Module,
    info: &naga::valid::ModuleInfo,
    entry: Handle<Function>,
    point: Point,
    params: &[Parameter],
) -> Lowered<Program> {
    let mut asm = Assembler::new(point, params.to_vec());
    let mut args = Vec::new();
    if point != Point::Mask {
        args.push(vec![asm.source(Source::Score)]);
    }
    if point != Point::Feature {
        // In the order of the members of `At`.
        args.push(
            [Source::Batch, Source::Head, Source::Row, Source::Query, Source::Key].map(|s| asm.source(s)).to_vec(),
        );
    }
    args.extend((0..params.len()).map(|n| vec![asm.source(Source::Arg(n))]));
    let straight = !module.functions.iter().any(|(_, f)| has_loop(&f.body));
    let mut lower =
        Lower { module, info, asm, variables: Vec::new(), straight, predicate: None, exits: Vec::new(), depth: 0 };
    let result = lower.call(entry, args)?;
    let Some(&result) = result.first() else { return unknown("a result") };
    lower.asm.finish(result).ok_or(Failure::TooLong)
}

pub(super) fn has_loop(block: &Block) -> bool {
    block.iter().any(|statement| match statement {
        Statement::Loop { .. } => true,
        Statement::Block(inner) => has_loop(inner),
        Statement::If { accept, reject, .. } => has_loop(accept) || has_loop(reject),
        // `break` in a switch leaves it like a loop.
        Statement::Switch { .. } => true,
        _ => false,
    })
}

pub(super) fn unknown<T>(what: impl std::fmt::Debug) -> Lowered<T> {
    Err(Failure::Unknown(format!("{what:?}")))
}

impl<'a> Lower<'a> {
    fn call(&mut self, handle: Handle<Function>, args: Vec<Value>) -> Lowered<Value> {
        let function = &self.module.functions[handle];
        self.depth += 1;
        if self.depth > 64 || self.asm.is_too_long() {
            return Err(Failure::TooLong);
        }
        let mut frame = Frame {
            function,
            info: &self.info[handle],
            args,
            values: HashMap::new(),
            locals: HashMap::new(),
            result: None,
            returned: None,
            done: false,
            exit: None,
        };
        for (local, variable) in function.local_variables.iter() {
            let length = self.length(&self.module.types[variable.ty].inner)?;
            let value = match variable.init {
                Some(init) => self.value(&mut frame, init)?,
                None => vec![self.asm.constant(0); length],
            };
            // With masks a variable has registers of its own.
            let registers = if self.straight { value } else { self.copies(&value) };
            self.variables.push(registers);
            frame.locals.insert(local, self.variables.len() - 1);
        }
        let (predicate, exits) = (self.predicate.take(), std::mem::take(&mut self.exits));
        if self.straight {
            self.block(&mut frame, &function.body)?;
        } else {
            let length = match &function.result {
                Some(result) => self.length(&self.module.types[result.ty].inner)?,
                None => 0,
            };
            let zero = vec![self.asm.constant(0); length];
            let (result, saved, set) = (self.copies(&zero), self.asm.registers(1), self.asm.registers(1));
            frame.exit = Some((result, set));
            self.asm.push(Op::Enter { saved });
            self.asm.push(Op::Clear { set });
            self.block(&mut frame, &function.body)?;
            self.asm.push(Op::Return { set });
            self.asm.push(Op::Restore { saved });
        }
        (self.predicate, self.exits) = (predicate, exits);
        self.depth -= 1;
        Ok(match frame.exit {
            // Copied: the same call in a loop writes the variable again.
            Some((result, _)) => self.copies(&result),
            None => frame.result.unwrap_or_default(),
        })
    }

    /// New registers side by side with the value.
    pub(super) fn copies(&mut self, value: &[Reg]) -> Value {
        let first = self.asm.registers(value.len());
        let to: Value = (0..value.len()).map(|n| first + n as Reg).collect();
        for (&to, &from) in to.iter().zip(value) {
            self.asm.push(Op::Copy { to, from });
        }
        to
    }

    fn block(&mut self, frame: &mut Frame<'a>, block: &'a Block) -> Lowered<()> {
        for statement in block {
            if frame.done {
                break;
            }
            if self.asm.is_too_long() {
                return Err(Failure::TooLong);
            }
            self.statement(frame, statement)?;
        }
        Ok(())
    }

    fn statement(&mut self, frame: &mut Frame<'a>, statement: &'a Statement) -> Lowered<()> {
        match statement {
            Statement::Emit(range) => {
                for handle in range.clone() {
                    if !self.is_pointer(frame, handle) {
                        let value = self.expression(frame, handle)?;
                        frame.values.insert(handle, value);
                    }
                }
            }
            Statement::Block(inner) => self.block(frame, inner)?,
            Statement::Store { pointer, value } => {
                let place = self.place(frame, *pointer)?;
                let value = self.value(frame, *value)?;
                self.store(frame, &place, &value);
            }
            Statement::Call { function, arguments, result } => {
                let args = arguments.iter().map(|a| self.value(frame, *a)).collect::<Lowered<Vec<_>>>()?;
                let value = self.call(*function, args)?;
                if let Some(handle) = result {
                    frame.values.insert(*handle, value);
                }
            }
            Statement::Return { value } => {
                let value = value.map_or(Ok(Vec::new()), |v| self.value(frame, v))?;
                self.give_back(frame, value);
            }
            Statement::If { condition, accept, reject } => {
                let condition = self.value(frame, *condition)?[0];
                self.branch(frame, condition, accept, reject)?;
            }
            Statement::Loop { body, continuing, break_if } => self.repeat(frame, body, continuing, *break_if)?,
            Statement::Switch { selector, cases } => self.switch(frame, *selector, cases)?,
            Statement::Break => match self.exits.last() {
                Some(exits) => self.asm.push(Op::Leave { set: exits.breaks }),
                None => return unknown("break"),
            },
            Statement::Continue => match self.exits.iter().rev().find_map(|e| e.continues) {
                Some(set) => self.asm.push(Op::Leave { set }),
                None => return unknown("continue"),
            },
            other => return unknown(other),
        }
        Ok(())
    }

    /// Straight code: the lanes that run the statement; `None` for all.
    fn active(&mut self, frame: &Frame<'a>) -> Option<Reg> {
        let here = frame.returned.map(|r| self.asm.unary(Unary::NotB, r));
        match (self.predicate, here) {
            (Some(a), Some(b)) => Some(self.asm.binary(Binary::And, a, b)),
            (a, b) => a.or(b),
        }
    }

    fn store(&mut self, frame: &Frame<'a>, place: &Place, value: &[Reg]) {
        let active = if self.straight { self.active(frame) } else { None };
        let elements = place.dynamic.map_or(1, |(_, count, _)| count);
        for element in 0..elements {
            let chosen = place.dynamic.map(|(index, ..)| {
                let n = self.asm.constant(element as u32);
                self.asm.binary(Binary::Equal, index, n)
            });
            let step = place.dynamic.map_or(0, |(_, _, length)| length);
            for (n, &new) in value.iter().enumerate() {
                let at = place.first + element * step + n;
                let old = self.variables[place.variable][at];
                let new = match chosen {
                    Some(condition) => self.asm.select(old, new, condition),
                    None => new,
                };
                if !self.straight {
                    self.asm.push(Op::Move { to: old, from: new });
                    continue;
                }
                self.variables[place.variable][at] = match active {
                    Some(condition) => self.asm.select(old, new, condition),
                    None => new,
                };
            }
        }
    }

    fn give_back(&mut self, frame: &mut Frame<'a>, value: Value) {
        if let Some((result, set)) = &frame.exit {
            for (&to, &from) in result.iter().zip(&value) {
                self.asm.push(Op::Move { to, from });
            }
            self.asm.push(Op::Leave { set: *set });
            return;
        }
        let active = self.active(frame);
        frame.result = Some(match (frame.result.take(), active) {
            (Some(old), Some(active)) => {
                old.iter().zip(&value).map(|(&old, &new)| self.asm.select(old, new, active)).collect()
            }
            _ => value,
        });
        match (frame.returned, active) {
            (_, None) => frame.done = true,
            (None, Some(active)) => frame.returned = Some(active),
            (Some(before), Some(active)) => frame.returned = Some(self.asm.binary(Binary::Or, before, active)),
        }
    }

    fn branch(&mut self, frame: &mut Frame<'a>, condition: Reg, accept: &'a Block, reject: &'a Block) -> Lowered<()> {
        if self.straight {
            let outer = self.predicate;
            for (block, negate) in [(accept, false), (reject, true)] {
                if block.is_empty() {
                    continue;
                }
                let side = if negate { self.asm.unary(Unary::NotB, condition) } else { condition };
                self.predicate = Some(match outer {
                    Some(outer) => self.asm.binary(Binary::And, outer, side),
                    None => side,
                });
                self.block(frame, block)?;
                self.predicate = outer;
            }
            return Ok(());
        }
        let saved = self.asm.registers(1);
        self.asm.push(Op::Enter { saved });
        let skip = self.asm.here();
        self.asm.push(Op::Only { condition, none: 0 });
        self.block(frame, accept)?;
        self.asm.land(skip);
        if !reject.is_empty() {
            let skip = self.asm.here();
            self.asm.push(Op::Others { saved, condition, none: 0 });
            self.block(frame, reject)?;
            self.asm.land(skip);
        }
        self.asm.push(Op::Restore { saved });
        Ok(())
    }

    fn repeat(
        &mut self,
        frame: &mut Frame<'a>,
        body: &'a Block,
        continuing: &'a Block,
        break_if: Option<Handle<Expression>>,
    ) -> Lowered<()> {
        let (saved, breaks, continues) = (self.asm.registers(1), self.asm.registers(1), self.asm.registers(1));
        self.asm.push(Op::Enter { saved });
        self.asm.push(Op::Clear { set: breaks });
        self.asm.push(Op::Clear { set: continues });
        let head = self.asm.here();
        self.exits.push(Exits { breaks, continues: Some(continues) });
        self.block(frame, body)?;
        self.asm.push(Op::Return { set: continues });
        self.asm.push(Op::Restore { saved });
        self.block(frame, continuing)?;
        if let Some(condition) = break_if {
            let condition = self.value(frame, condition)?[0];
            let inner = self.asm.registers(1);
            self.asm.push(Op::Enter { saved: inner });
            let skip = self.asm.here();
            self.asm.push(Op::Only { condition, none: 0 });
            self.asm.push(Op::Leave { set: breaks });
            self.asm.land(skip);
        }
        self.exits.pop();
        self.asm.push(Op::Restore { saved });
        self.asm.push(Op::Again { head });
        self.asm.push(Op::Return { set: breaks });
        self.asm.push(Op::Restore { saved });
        Ok(())
    }

    fn switch(
        &mut self,
        frame: &mut Frame<'a>,
        selector: Handle<Expression>,
        cases: &'a [naga::SwitchCase],
    ) -> Lowered<()> {
        let selector = self.value(frame, selector)?[0];
        let (saved, breaks) = (self.asm.registers(1), self.asm.registers(1));
        self.asm.push(Op::Enter { saved });
        self.asm.push(Op::Clear { set: breaks });
        self.exits.push(Exits { breaks, continues: None });
        // Selectors that share a body fall through to it.
        let (mut matched, mut any, mut default) = (None, self.asm.constant(0), None);
        for (n, case) in cases.iter().enumerate() {
            let is = match case.value {
                naga::SwitchValue::I32(x) => Some(x as u32),
                naga::SwitchValue::U32(x) => Some(x),
                naga::SwitchValue::Default => None,
            };
            match is {
                Some(bits) => {
                    let bits = self.asm.constant(bits);
                    let equal = self.asm.binary(Binary::Equal, selector, bits);
                    any = self.asm.binary(Binary::Or, any, equal);
                    matched = Some(matched.map_or(equal, |before| self.asm.binary(Binary::Or, before, equal)));
                }
                None => default = Some(n),
            }
            if case.fall_through && case.body.is_empty() {
                continue;
            }
            // The default's body is written last, unless its selectors name it too.
            if let Some(condition) = matched.take()
                && default != Some(n)
            {
                self.side(frame, condition, saved, &case.body)?;
            }
        }
        if let Some(body) = default.and_then(|n| cases[n..].iter().find(|c| !c.fall_through)).map(|c| &c.body) {
            let others = self.asm.unary(Unary::NotB, any);
            self.side(frame, others, saved, body)?;
        }
        self.exits.pop();
        self.asm.push(Op::Return { set: breaks });
        self.asm.push(Op::Restore { saved });
        Ok(())
    }

    fn side(&mut self, frame: &mut Frame<'a>, condition: Reg, saved: Reg, body: &'a Block) -> Lowered<()> {
        let skip = self.asm.here();
        self.asm.push(Op::Only { condition, none: 0 });
        self.block(frame, body)?;
        self.asm.land(skip);
        self.asm.push(Op::Restore { saved });
        Ok(())
    }
}
