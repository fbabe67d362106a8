//! Operators, conversions and builtin functions as instructions. What is not here is not offered in hooks.

use crate::hook::{Assembler, Binary, Op, Reg, Unary};
use naga::{BinaryOperator, MathFunction, ScalarKind, TypeInner};

/// The scalar kind of a scalar or a vector.
pub(super) fn kind(inner: &TypeInner) -> ScalarKind {
    match inner {
        TypeInner::Scalar(scalar) | TypeInner::Vector { scalar, .. } => scalar.kind,
        _ => ScalarKind::Uint,
    }
}

/// The instruction of an operator, and whether its operands change places.
pub(super) fn binary(op: BinaryOperator, kind: ScalarKind) -> Option<(Binary, bool)> {
    let by = |f, i, u| match kind {
        ScalarKind::Float => f,
        ScalarKind::Sint => i,
        _ => u,
    };
    Some(match op {
        BinaryOperator::Add => (by(Binary::AddF, Binary::AddI, Binary::AddI), false),
        BinaryOperator::Subtract => (by(Binary::SubF, Binary::SubI, Binary::SubI), false),
        BinaryOperator::Multiply => (by(Binary::MulF, Binary::MulI, Binary::MulI), false),
        BinaryOperator::Divide => (by(Binary::DivF, Binary::DivI, Binary::DivU), false),
        BinaryOperator::Modulo => (by(Binary::RemF, Binary::RemI, Binary::RemU), false),
        BinaryOperator::Equal => (by(Binary::EqualF, Binary::Equal, Binary::Equal), false),
        BinaryOperator::NotEqual => (by(Binary::NotEqualF, Binary::NotEqual, Binary::NotEqual), false),
        BinaryOperator::Less => (by(Binary::LessF, Binary::LessI, Binary::LessU), false),
        BinaryOperator::LessEqual => (by(Binary::LessEqualF, Binary::LessEqualI, Binary::LessEqualU), false),
        BinaryOperator::Greater => (by(Binary::LessF, Binary::LessI, Binary::LessU), true),
        BinaryOperator::GreaterEqual => (by(Binary::LessEqualF, Binary::LessEqualI, Binary::LessEqualU), true),
        BinaryOperator::And | BinaryOperator::LogicalAnd => (Binary::And, false),
        BinaryOperator::InclusiveOr | BinaryOperator::LogicalOr => (Binary::Or, false),
        BinaryOperator::ExclusiveOr => (Binary::Xor, false),
        BinaryOperator::ShiftLeft => (Binary::ShiftLeft, false),
        BinaryOperator::ShiftRight => (by(Binary::ShiftRightU, Binary::ShiftRightI, Binary::ShiftRightU), false),
    })
}

/// The instruction of a conversion; `None` when the bits stay.
pub(super) fn conversion(from: ScalarKind, to: ScalarKind) -> Option<Unary> {
    match (from, to) {
        (ScalarKind::Float, ScalarKind::Sint) => Some(Unary::FToI),
        (ScalarKind::Float, ScalarKind::Uint) => Some(Unary::FToU),
        (ScalarKind::Sint, ScalarKind::Float) => Some(Unary::IToF),
        (ScalarKind::Uint, ScalarKind::Float) => Some(Unary::UToF),
        (ScalarKind::Float, ScalarKind::Bool) => Some(Unary::FToB),
        (ScalarKind::Sint | ScalarKind::Uint, ScalarKind::Bool) => Some(Unary::IToB),
        (ScalarKind::Bool, ScalarKind::Float) => Some(Unary::BToF),
        _ => None,
    }
}

/// Whether a builtin function is offered.
pub(super) fn offered(fun: MathFunction) -> bool {
    use MathFunction as M;
    simple(fun, ScalarKind::Float).is_some()
        || simple(fun, ScalarKind::Sint).is_some()
        || matches!(
            fun,
            M::Min
                | M::Max
                | M::Clamp
                | M::Saturate
                | M::Atan2
                | M::Pow
                | M::Radians
                | M::Degrees
                | M::Fract
                | M::Dot
                | M::Length
                | M::Distance
                | M::Fma
                | M::Mix
                | M::Step
                | M::SmoothStep
        )
}

/// Builtins of one operand that are one instruction.
fn simple(fun: MathFunction, kind: ScalarKind) -> Option<Unary> {
    use MathFunction as M;
    let signed = kind == ScalarKind::Sint;
    if kind == ScalarKind::Float {
        return Some(match fun {
            M::Abs => Unary::AbsF,
            M::Sign => Unary::SignF,
            M::Floor => Unary::Floor,
            M::Ceil => Unary::Ceil,
            M::Trunc => Unary::Trunc,
            M::Round => Unary::Round,
            M::Exp => Unary::Exp,
            M::Exp2 => Unary::Exp2,
            M::Log => Unary::Log,
            M::Log2 => Unary::Log2,
            M::Sqrt => Unary::Sqrt,
            M::InverseSqrt => Unary::InverseSqrt,
            M::Sin => Unary::Sin,
            M::Cos => Unary::Cos,
            M::Tan => Unary::Tan,
            M::Sinh => Unary::Sinh,
            M::Cosh => Unary::Cosh,
            M::Tanh => Unary::Tanh,
            M::Asin => Unary::Asin,
            M::Acos => Unary::Acos,
            M::Atan => Unary::Atan,
            M::Asinh => Unary::Asinh,
            M::Acosh => Unary::Acosh,
            M::Atanh => Unary::Atanh,
            _ => return None,
        });
    }
    Some(match fun {
        M::Abs if signed => Unary::AbsI,
        M::Sign if signed => Unary::SignI,
        M::CountOneBits => Unary::CountOneBits,
        M::CountLeadingZeros => Unary::CountLeadingZeros,
        M::CountTrailingZeros => Unary::CountTrailingZeros,
        M::ReverseBits => Unary::ReverseBits,
        M::FirstLeadingBit if signed => Unary::FirstLeadingBitI,
        M::FirstLeadingBit => Unary::FirstLeadingBitU,
        M::FirstTrailingBit => Unary::FirstTrailingBit,
        _ => return None,
    })
}

/// A builtin function over the components of its arguments. `None` when it is not offered.
pub(super) fn lower(asm: &mut Assembler, fun: MathFunction, kind: ScalarKind, args: &[Vec<Reg>]) -> Option<Vec<Reg>> {
    use MathFunction as M;
    if let Some(op) = simple(fun, kind) {
        return Some(args[0].iter().map(|&a| asm.unary(op, a)).collect());
    }
    match fun {
        // abs of an unsigned number.
        M::Abs => return Some(args[0].clone()),
        M::Dot => return Some(vec![dot(asm, kind, &args[0], &args[1])]),
        M::Length => {
            let square = dot(asm, kind, &args[0], &args[0]);
            return Some(vec![asm.unary(Unary::Sqrt, square)]);
        }
        M::Distance => {
            let apart: Vec<Reg> = args[0].iter().zip(&args[1]).map(|(&a, &b)| asm.binary(Binary::SubF, a, b)).collect();
            let square = dot(asm, kind, &apart, &apart);
            return Some(vec![asm.unary(Unary::Sqrt, square)]);
        }
        _ => {}
    }
    let length = args.iter().map(Vec::len).max()?;
    let at = |n: usize, c: usize| args[n][if args[n].len() == 1 { 0 } else { c }];
    let mut result = Vec::with_capacity(length);
    for c in 0..length {
        result.push(component(asm, fun, kind, args.len(), |n| at(n, c))?);
    }
    Some(result)
}

fn dot(asm: &mut Assembler, kind: ScalarKind, a: &[Reg], b: &[Reg]) -> Reg {
    let float = kind == ScalarKind::Float;
    let (times, plus) = if float { (Binary::MulF, Binary::AddF) } else { (Binary::MulI, Binary::AddI) };
    let mut sum = asm.binary(times, a[0], b[0]);
    for (&a, &b) in a.iter().zip(b).skip(1) {
        let product = asm.binary(times, a, b);
        sum = asm.binary(plus, sum, product);
    }
    sum
}

fn component(
    asm: &mut Assembler,
    fun: MathFunction,
    kind: ScalarKind,
    count: usize,
    arg: impl Fn(usize) -> Reg,
) -> Option<Reg> {
    use MathFunction as M;
    let least = by(kind, Binary::MinF, Binary::MinI, Binary::MinU);
    let most = by(kind, Binary::MaxF, Binary::MaxI, Binary::MaxU);
    let one = asm.constant(1.0_f32.to_bits());
    let zero = asm.constant(0);
    Some(match (fun, count) {
        (M::Min, 2) => asm.binary(least, arg(0), arg(1)),
        (M::Max, 2) => asm.binary(most, arg(0), arg(1)),
        (M::Clamp, 3) => {
            let low = asm.binary(most, arg(0), arg(1));
            asm.binary(least, low, arg(2))
        }
        (M::Saturate, 1) => {
            let low = asm.binary(Binary::MaxF, arg(0), zero);
            asm.binary(Binary::MinF, low, one)
        }
        (M::Atan2, 2) => asm.binary(Binary::Atan2, arg(0), arg(1)),
        (M::Pow, 2) => asm.binary(Binary::Pow, arg(0), arg(1)),
        (M::Radians | M::Degrees, 1) => {
            let factor = if fun == M::Radians { 1.0_f32.to_radians() } else { 1.0_f32.to_degrees() };
            let factor = asm.constant(factor.to_bits());
            asm.binary(Binary::MulF, arg(0), factor)
        }
        (M::Fract, 1) => {
            let floor = asm.unary(Unary::Floor, arg(0));
            asm.binary(Binary::SubF, arg(0), floor)
        }
        (M::Fma, 3) => {
            let to = asm.registers(1);
            asm.push(Op::Fma { to, a: arg(0), b: arg(1), c: arg(2) });
            to
        }
        (M::Mix, 3) => {
            let rest = asm.binary(Binary::SubF, one, arg(2));
            let (a, b) = (asm.binary(Binary::MulF, arg(0), rest), asm.binary(Binary::MulF, arg(1), arg(2)));
            asm.binary(Binary::AddF, a, b)
        }
        (M::Step, 2) => {
            let reached = asm.binary(Binary::LessEqualF, arg(0), arg(1));
            asm.select(zero, one, reached)
        }
        (M::SmoothStep, 3) => {
            let (over, width) = (asm.binary(Binary::SubF, arg(2), arg(0)), asm.binary(Binary::SubF, arg(1), arg(0)));
            let t = asm.binary(Binary::DivF, over, width);
            let t = asm.binary(Binary::MaxF, t, zero);
            let t = asm.binary(Binary::MinF, t, one);
            let (two, three) = (asm.constant(2.0_f32.to_bits()), asm.constant(3.0_f32.to_bits()));
            let slope = asm.binary(Binary::MulF, two, t);
            let slope = asm.binary(Binary::SubF, three, slope);
            let square = asm.binary(Binary::MulF, t, t);
            asm.binary(Binary::MulF, square, slope)
        }
        _ => return None,
    })
}

fn by(kind: ScalarKind, f: Binary, i: Binary, u: Binary) -> Binary {
    match kind {
        ScalarKind::Float => f,
        ScalarKind::Sint => i,
        _ => u,
    }
}
