//! Expressions and places of [`Lower`]: types, variables' parts, constants, operators.

use super::lower::{Failure, Frame, Lower, Lowered, Place, Value, unknown};
use super::math;
use crate::hook::{Binary, Op, Reg, Unary};
use naga::{BinaryOperator, Expression, Handle, Literal, ScalarKind, TypeInner};

impl<'a> Lower<'a> {
    fn type_of(&self, frame: &Frame<'a>, handle: Handle<Expression>) -> &'a TypeInner {
        frame.info[handle].ty.inner_with(&self.module.types)
    }

    pub(super) fn is_pointer(&self, frame: &Frame<'a>, handle: Handle<Expression>) -> bool {
        matches!(self.type_of(frame, handle), TypeInner::Pointer { .. } | TypeInner::ValuePointer { .. })
    }

    /// Components of a type.
    pub(super) fn length(&self, inner: &TypeInner) -> Lowered<usize> {
        Ok(match inner {
            TypeInner::Scalar(_) => 1,
            TypeInner::Vector { size, .. } => *size as usize,
            TypeInner::Array { base, size: naga::ArraySize::Constant(n), .. } => {
                let length = self.length(&self.module.types[*base].inner)?.saturating_mul(n.get() as usize);
                if length > 1024 {
                    return Err(Failure::TooLong);
                }
                length
            }
            TypeInner::Struct { members, .. } => {
                members.iter().map(|m| self.length(&self.module.types[m.ty].inner)).sum::<Lowered<usize>>()?
            }
            other => return unknown(other),
        })
    }

    /// Components before part `index` of a type, and how many it has.
    fn part(&self, inner: &TypeInner, index: usize) -> Lowered<(usize, usize)> {
        Ok(match inner {
            TypeInner::Vector { .. } | TypeInner::ValuePointer { size: Some(_), .. } => (index, 1),
            TypeInner::Array { base, .. } => {
                let length = self.length(&self.module.types[*base].inner)?;
                (index * length, length)
            }
            TypeInner::Struct { members, .. } => {
                let length = |m: &naga::StructMember| self.length(&self.module.types[m.ty].inner);
                let Some(member) = members.get(index) else { return unknown("a member") };
                (members[..index].iter().map(length).sum::<Lowered<usize>>()?, length(member)?)
            }
            TypeInner::Pointer { base, .. } => self.part(&self.module.types[*base].inner, index)?,
            other => return unknown(other),
        })
    }

    pub(super) fn place(&mut self, frame: &mut Frame<'a>, handle: Handle<Expression>) -> Lowered<Place> {
        match &frame.function.expressions[handle] {
            Expression::LocalVariable(local) => {
                let variable = frame.locals[local];
                Ok(Place { variable, first: 0, length: self.variables[variable].len(), dynamic: None })
            }
            Expression::AccessIndex { base, index } => {
                let place = self.place(frame, *base)?;
                let (first, length) = self.part(self.type_of(frame, *base), *index as usize)?;
                Ok(Place { first: place.first + first, length, ..place })
            }
            Expression::Access { base, index } => {
                let place = self.place(frame, *base)?;
                let (_, length) = self.part(self.type_of(frame, *base), 0)?;
                let index = self.value(frame, *index)?[0];
                if place.dynamic.is_some() {
                    return unknown("an index inside an indexed element");
                }
                Ok(Place { length, dynamic: Some((index, place.length / length, length)), ..place })
            }
            other => unknown(other),
        }
    }

    /// Element `index` of `count` that lie side by side in `value`.
    fn element(&mut self, value: &[Reg], length: usize, index: Reg) -> Value {
        let count = value.len() / length;
        let table = self.copies(value);
        let result: Value = (0..length).map(|_| self.asm.registers(1)).collect();
        for (n, &to) in result.iter().enumerate() {
            let (step, count) = (length as Reg, count as Reg);
            self.asm.push(Op::Index { to, first: table[n], step, count, index });
        }
        result
    }

    pub(super) fn value(&mut self, frame: &mut Frame<'a>, handle: Handle<Expression>) -> Lowered<Value> {
        if let Some(value) = frame.values.get(&handle) {
            return Ok(value.clone());
        }
        let value = self.expression(frame, handle)?;
        frame.values.insert(handle, value.clone());
        Ok(value)
    }

    pub(super) fn expression(&mut self, frame: &mut Frame<'a>, handle: Handle<Expression>) -> Lowered<Value> {
        let function = frame.function;
        Ok(match &function.expressions[handle] {
            Expression::Load { pointer } => {
                let place = self.place(frame, *pointer)?;
                match place.dynamic {
                    Some((index, count, length)) => {
                        let all = self.variables[place.variable][place.first..].to_vec();
                        let parts = (0..count).flat_map(|n| all[n * length..][..place.length].to_vec());
                        self.element(&parts.collect::<Value>(), place.length, index)
                    }
                    None => {
                        let value = self.variables[place.variable][place.first..][..place.length].to_vec();
                        // With masks the variable may change while the value is in use.
                        if self.straight { value } else { self.copies(&value) }
                    }
                }
            }
            Expression::FunctionArgument(n) => frame.args[*n as usize].clone(),
            Expression::Access { base, index } => {
                let (_, length) = self.part(self.type_of(frame, *base), 0)?;
                let (value, index) = (self.value(frame, *base)?, self.value(frame, *index)?[0]);
                self.element(&value, length, index)
            }
            Expression::AccessIndex { base, index } => {
                let (first, length) = self.part(self.type_of(frame, *base), *index as usize)?;
                self.value(frame, *base)?[first..][..length].to_vec()
            }
            Expression::Splat { size, value } => vec![self.value(frame, *value)?[0]; *size as usize],
            Expression::Swizzle { size, vector, pattern } => {
                let value = self.value(frame, *vector)?;
                pattern[..*size as usize].iter().map(|c| value[*c as usize]).collect()
            }
            Expression::Compose { components, .. } => {
                let parts = components.iter().map(|c| self.value(frame, *c)).collect::<Lowered<Vec<_>>>()?;
                parts.concat()
            }
            Expression::Unary { op, expr } => {
                let kind = math::kind(self.type_of(frame, *expr));
                let value = self.value(frame, *expr)?;
                let op = match (op, kind) {
                    (naga::UnaryOperator::Negate, ScalarKind::Float) => Unary::NegF,
                    (naga::UnaryOperator::Negate, _) => Unary::NegI,
                    (naga::UnaryOperator::LogicalNot, _) => Unary::NotB,
                    (naga::UnaryOperator::BitwiseNot, _) => Unary::NotBits,
                };
                value.into_iter().map(|a| self.asm.unary(op, a)).collect()
            }
            Expression::Binary { op, left, right } => self.operator(frame, *op, *left, *right)?,
            Expression::Select { condition, accept, reject } => {
                let condition = self.value(frame, *condition)?;
                let (yes, no) = (self.value(frame, *accept)?, self.value(frame, *reject)?);
                let each = |n: usize| condition[if condition.len() == 1 { 0 } else { n }];
                (0..yes.len()).map(|n| self.asm.select(no[n], yes[n], each(n))).collect()
            }
            Expression::Relational { fun, argument } => {
                let value = self.value(frame, *argument)?;
                let op = if *fun == naga::RelationalFunction::All { Binary::And } else { Binary::Or };
                let joined = value.into_iter().reduce(|a, b| self.asm.binary(op, a, b));
                joined.into_iter().collect()
            }
            Expression::Math { fun, arg, arg1, arg2, arg3 } => {
                let kind = math::kind(self.type_of(frame, *arg));
                let mut args = vec![self.value(frame, *arg)?];
                for more in [arg1, arg2, arg3].into_iter().flatten() {
                    args.push(self.value(frame, *more)?);
                }
                match math::lower(&mut self.asm, *fun, kind, &args) {
                    Some(value) => value,
                    None => return unknown(fun),
                }
            }
            Expression::As { expr, kind, convert } => {
                let from = math::kind(self.type_of(frame, *expr));
                let value = self.value(frame, *expr)?;
                match math::conversion(from, *kind).filter(|_| convert.is_some()) {
                    Some(op) => value.into_iter().map(|a| self.asm.unary(op, a)).collect(),
                    // The same bits.
                    None => value,
                }
            }
            Expression::Literal(_) | Expression::Constant(_) | Expression::ZeroValue(_) => {
                self.constant(&function.expressions, handle)?
            }
            other => return unknown(other),
        })
    }

    /// Constant expressions, of the function or of the module.
    fn constant(&mut self, arena: &naga::Arena<Expression>, handle: Handle<Expression>) -> Lowered<Value> {
        Ok(match &arena[handle] {
            Expression::Literal(literal) => {
                let bits = match *literal {
                    Literal::F32(x) => x.to_bits(),
                    Literal::I32(x) => x as u32,
                    Literal::U32(x) => x,
                    Literal::Bool(x) => u32::from(x),
                    other => return unknown(other),
                };
                vec![self.asm.constant(bits)]
            }
            Expression::Constant(constant) => {
                let init = self.module.constants[*constant].init;
                self.constant(&self.module.global_expressions, init)?
            }
            Expression::ZeroValue(ty) => {
                let length = self.length(&self.module.types[*ty].inner)?;
                vec![self.asm.constant(0); length]
            }
            Expression::Compose { components, .. } => {
                let parts = components.iter().map(|c| self.constant(arena, *c)).collect::<Lowered<Vec<_>>>()?;
                parts.concat()
            }
            Expression::Splat { size, value } => vec![self.constant(arena, *value)?[0]; *size as usize],
            other => return unknown(other),
        })
    }

    fn operator(
        &mut self,
        frame: &mut Frame<'a>,
        op: BinaryOperator,
        left: Handle<Expression>,
        right: Handle<Expression>,
    ) -> Lowered<Value> {
        let kind = math::kind(self.type_of(frame, left));
        let (a, b) = (self.value(frame, left)?, self.value(frame, right)?);
        let Some((op, swap)) = math::binary(op, kind) else { return unknown(op) };
        // A scalar beside a vector stands for all its components.
        let of = |v: &Value, n: usize| v[if v.len() == 1 { 0 } else { n }];
        Ok((0..a.len().max(b.len()))
            .map(|n| {
                let (a, b) = (of(&a, n), of(&b, n));
                if swap { self.asm.binary(op, b, a) } else { self.asm.binary(op, a, b) }
            })
            .collect())
    }
}
