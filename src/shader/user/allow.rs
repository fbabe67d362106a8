//! The allow-list: a hook is a pure function over scalars, vectors, arrays and structs, whose every index is inside and whose loops end.

use super::fault::{Text, word};
use super::math;
use crate::error::Result;
use crate::kernel::key::{Point, ScalarType};
use naga::{Block, Expression, Function, Handle, Module, ScalarKind, Span, Statement, TypeInner};

/// Checks everything of a module but its names.
pub(super) fn walk(text: Text, module: &Module, info: &naga::valid::ModuleInfo) -> Result<()> {
    if let Some(entry) = module.entry_points.first() {
        let head = format!("fn {}", entry.name);
        let span = text.text.find(&head).map(|at| at..at + head.len());
        return Err(text.fault(span, "a hook is a plain function: @compute, @vertex and @fragment are the kernel's"));
    }
    if let Some((handle, _)) = module.global_variables.iter().next() {
        let span = module.global_variables.get_span(handle);
        return Err(text.at(span, "a hook has no variables outside functions; give values as arguments after `at`"));
    }
    if let Some((handle, _)) = module.overrides.iter().next() {
        let span = module.overrides.get_span(handle);
        return Err(text.at(span, "a hook has no `override`; use `const`, or an argument after `at`"));
    }
    for (handle, function) in module.functions.iter() {
        for (n, arg) in function.arguments.iter().enumerate() {
            if arg.binding.is_some() {
                let name = arg.name.as_deref().unwrap_or_default();
                let sentence = format!("argument {} (`{name}`) has an attribute; a hook's arguments have none", n + 1);
                return Err(text.at(module.functions.get_span(handle), sentence));
            }
            let sentence = "a hook takes scalars, vectors, arrays and structs, no pointers";
            plain(text, module, arg.ty, module.functions.get_span(handle), sentence)?;
        }
        let walk = Walk { text, module, function, info: &info[handle] };
        walk.expressions()?;
        for (handle, variable) in function.local_variables.iter() {
            let span = function.local_variables.get_span(handle);
            plain(
                text,
                module,
                variable.ty,
                span,
                "a variable of a hook is a scalar, vector, array or struct of 32-bit types",
            )?;
        }
        walk.block(&function.body, false)?;
    }
    Ok(())
}

/// The hook's function, and the names and types of its arguments after `at`.
type Signature = (Handle<Function>, Vec<(String, ScalarType)>);

/// Checks the hook's function; gives the names and types of the arguments after `at`.
pub(super) fn signature(text: Text, module: &Module, name: &str) -> Result<Signature> {
    let Some((handle, function)) = module.functions.iter().find(|(_, f)| f.name.as_deref() == Some(name)) else {
        let names: Vec<_> = module.functions.iter().filter_map(|(_, f)| f.name.as_deref()).collect();
        let found =
            if names.is_empty() { "no function at all".to_owned() } else { format!("`{}`", names.join("`, `")) };
        let span = module.functions.iter().last().and_then(|(h, _)| module.functions.get_span(h).to_range());
        return Err(text.fault(span, format!("a {} hook defines `fn {name}`; the text has {found}", word(text.point))));
    };
    let span = module.functions.get_span(handle);
    let head = head(text.point, name);
    let wrong = |what: String| Err(text.at(span, format!("{what}; write {head}")));
    let value_first = text.point != Point::Mask;
    let has_at = text.point != Point::Feature;
    let mut args = function.arguments.iter();
    let scalar = |ty: Handle<naga::Type>| match module.types[ty].inner {
        TypeInner::Scalar(scalar) => match scalar.kind {
            ScalarKind::Float => Some(ScalarType::F32),
            ScalarKind::Sint => Some(ScalarType::I32),
            ScalarKind::Uint => Some(ScalarType::U32),
            ScalarKind::Bool => Some(ScalarType::Bool),
            _ => None,
        },
        _ => None,
    };
    if value_first && args.next().and_then(|a| scalar(a.ty)) != Some(ScalarType::F32) {
        let what = if text.point == Point::Feature { "x: f32" } else { "s: f32" };
        return wrong(format!("the first argument of `{name}` is not `{what}`"));
    }
    let is_at = |ty: Handle<naga::Type>| module.types[ty].name.as_deref() == Some("At");
    if has_at && !args.next().is_some_and(|a| is_at(a.ty)) {
        return wrong(format!("`{name}` does not take the pair, `at: At`"));
    }
    let mut params = Vec::new();
    for arg in args {
        let name = arg.name.clone().unwrap_or_default();
        let Some(kind) = scalar(arg.ty) else {
            let ty = if is_at(arg.ty) { "a second At" } else { "no scalar" };
            return wrong(format!("argument `{name}` is {ty}: arguments after `at` are f32, i32, u32 or bool"));
        };
        params.push((name, kind));
    }
    if params.len() > 32 {
        return wrong(format!("{} arguments after `at`; a hook has at most 32", params.len()));
    }
    let expected = if text.point == Point::Mask { ScalarType::Bool } else { ScalarType::F32 };
    let found = function.result.as_ref().and_then(|r| scalar(r.ty));
    if found != Some(expected) {
        let found = match (found, &function.result) {
            (Some(kind), _) => kind.wgsl(),
            (None, Some(_)) => "no scalar",
            (None, None) => "nothing",
        };
        return wrong(format!("`{name}` gives {found} and not {}", expected.wgsl()));
    }
    Ok((handle, params))
}

fn head(point: Point, name: &str) -> String {
    match point {
        Point::Score | Point::Weight => format!("`fn {name}(s: f32, at: At, ...) -> f32`"),
        Point::Mask => format!("`fn {name}(at: At, ...) -> bool`"),
        Point::Feature => format!("`fn {name}(x: f32, ...) -> f32`"),
    }
}

/// Whether a type is made of f32, i32, u32 and bool by vectors, arrays of fixed size and structs.
fn is_plain(module: &Module, inner: &TypeInner) -> bool {
    match inner {
        TypeInner::Scalar(scalar) | TypeInner::Vector { scalar, .. } => {
            scalar.width == if scalar.kind == ScalarKind::Bool { 1 } else { 4 }
        }
        TypeInner::Array { base, size: naga::ArraySize::Constant(_), .. } => {
            is_plain(module, &module.types[*base].inner)
        }
        TypeInner::Struct { members, .. } => members.iter().all(|m| is_plain(module, &module.types[m.ty].inner)),
        _ => false,
    }
}

fn plain(text: Text, module: &Module, ty: Handle<naga::Type>, span: Span, sentence: &str) -> Result<()> {
    if is_plain(module, &module.types[ty].inner) { Ok(()) } else { Err(text.at(span, sentence)) }
}

struct Walk<'a> {
    text: Text<'a>,
    module: &'a Module,
    function: &'a Function,
    info: &'a naga::valid::FunctionInfo,
}

impl Walk<'_> {
    fn expressions(&self) -> Result<()> {
        for (handle, expression) in self.function.expressions.iter() {
            let span = self.function.expressions.get_span(handle);
            let refuse = |sentence: String| Err(self.text.at(span, sentence));
            match expression {
                Expression::Literal(_)
                | Expression::Constant(_)
                | Expression::ZeroValue(_)
                | Expression::Compose { .. }
                | Expression::AccessIndex { .. }
                | Expression::Splat { .. }
                | Expression::Swizzle { .. }
                | Expression::FunctionArgument(_)
                | Expression::LocalVariable(_)
                | Expression::Load { .. }
                | Expression::Unary { .. }
                | Expression::Binary { .. }
                | Expression::Select { .. }
                | Expression::As { .. }
                | Expression::CallResult(_) => {}
                Expression::Access { base, index } => self.index(span, *base, *index)?,
                Expression::Relational {
                    fun: naga::RelationalFunction::All | naga::RelationalFunction::Any, ..
                } => {}
                Expression::Math { fun, .. } if math::offered(*fun) => {}
                Expression::Math { fun, .. } => {
                    return refuse(format!("the builtin function {fun:?} is not offered in hooks"));
                }
                Expression::Derivative { .. } => {
                    return refuse("derivatives are for fragment shaders".into());
                }
                other => {
                    let text = format!("{other:?}");
                    let what = text.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
                    return refuse(format!("{what} is not offered: a hook is pure and sees only its arguments"));
                }
            }
            let inner = self.info[handle].ty.inner_with(&self.module.types);
            let pointer = matches!(inner, TypeInner::Pointer { .. } | TypeInner::ValuePointer { .. });
            if !pointer && !is_plain(self.module, inner) {
                return refuse("hooks compute with f32, i32, u32 and bool, their vectors, arrays and structs".into());
            }
        }
        Ok(())
    }

    /// Kernels run without bounds checks, so that an index must be inside by its form.
    fn index(&self, span: Span, base: Handle<Expression>, index: Handle<Expression>) -> Result<()> {
        let count = self.elements(self.info[base].ty.inner_with(&self.module.types));
        if count.is_some_and(|n| self.below(index, n)) {
            return Ok(());
        }
        let last = count.map_or(String::new(), |n| format!(" ({} here)", n.saturating_sub(1)));
        let sentence = format!(
            "the index may be outside; bound it where it is used: `min(i, last)` for a u32, `clamp(i, 0, last)` for an i32{last}"
        );
        Err(self.text.at(span, sentence))
    }

    fn elements(&self, inner: &TypeInner) -> Option<u32> {
        match inner {
            TypeInner::Vector { size, .. } | TypeInner::ValuePointer { size: Some(size), .. } => Some(*size as u32),
            TypeInner::Array { size: naga::ArraySize::Constant(n), .. } => Some(n.get()),
            TypeInner::Pointer { base, .. } => self.elements(&self.module.types[*base].inner),
            _ => None,
        }
    }

    /// A constant number of at least 0.
    fn number(&self, handle: Handle<Expression>) -> Option<u32> {
        let literal = |e: &Expression| match e {
            Expression::Literal(naga::Literal::U32(n)) => Some(*n),
            Expression::Literal(naga::Literal::I32(n)) => u32::try_from(*n).ok(),
            _ => None,
        };
        match &self.function.expressions[handle] {
            Expression::Constant(constant) => {
                literal(&self.module.global_expressions[self.module.constants[*constant].init])
            }
            other => literal(other),
        }
    }

    fn below(&self, handle: Handle<Expression>, count: u32) -> bool {
        let kind = math::kind(self.info[handle].ty.inner_with(&self.module.types));
        let small = |h: &Handle<Expression>| self.number(*h).is_some_and(|n| n < count);
        match &self.function.expressions[handle] {
            Expression::Math { fun: naga::MathFunction::Min, arg, arg1: Some(other), .. } => {
                kind == ScalarKind::Uint && (small(arg) || small(other))
            }
            Expression::Math { fun: naga::MathFunction::Clamp, arg1: Some(low), arg2: Some(high), .. } => {
                self.number(*low).is_some() && small(high)
            }
            Expression::Binary { op: naga::BinaryOperator::Modulo, right, .. } => {
                kind == ScalarKind::Uint && self.number(*right).is_some_and(|n| n > 0 && n <= count)
            }
            Expression::Binary { op: naga::BinaryOperator::And, left, right } => small(left) || small(right),
            // A sign change keeps what is inside.
            Expression::As { expr, convert: Some(4), kind: ScalarKind::Sint | ScalarKind::Uint } => {
                let from = math::kind(self.info[*expr].ty.inner_with(&self.module.types));
                matches!(from, ScalarKind::Sint | ScalarKind::Uint) && self.below(*expr, count)
            }
            _ => small(&handle),
        }
    }

    fn block(&self, block: &Block, looped: bool) -> Result<()> {
        for (statement, span) in block.span_iter() {
            let refuse = |sentence: &str| Err(self.text.at(*span, sentence));
            match statement {
                Statement::Emit(_)
                | Statement::Break
                | Statement::Continue
                | Statement::Return { .. }
                | Statement::Store { .. } => {}
                Statement::Block(inner) => self.block(inner, looped)?,
                Statement::If { accept, reject, .. } => {
                    self.block(accept, looped)?;
                    self.block(reject, looped)?;
                }
                Statement::Switch { cases, .. } => {
                    cases.iter().try_for_each(|case| self.block(&case.body, looped))?;
                }
                Statement::Loop { body, continuing, .. } => {
                    self.block(body, true)?;
                    self.block(continuing, true)?;
                }
                Statement::Call { function, .. } => {
                    // Their turns would multiply beyond the bound.
                    if looped && has_real_loop(&self.module.functions[*function].body) {
                        return refuse("a function that loops is called in a loop; write the inner loop in its place");
                    }
                }
                Statement::Kill => return refuse("`discard` is for fragment shaders"),
                Statement::ControlBarrier(_) | Statement::MemoryBarrier(_) => {
                    return refuse("a hook has no barriers: it is called for each pair on its own");
                }
                Statement::Atomic { .. } | Statement::ImageAtomic { .. } => return refuse("a hook has no atomics"),
                Statement::SubgroupBallot { .. }
                | Statement::SubgroupGather { .. }
                | Statement::SubgroupCollectiveOperation { .. } => {
                    return refuse("a hook has no subgroup operations: it is called for each pair on its own");
                }
                Statement::ImageStore { .. } => return refuse("a hook has no textures"),
                _ => return refuse("this statement is not offered in hooks"),
            }
        }
        Ok(())
    }
}

/// Whether there is a loop, a switch not counted.
pub(super) fn has_real_loop(block: &Block) -> bool {
    block.iter().any(|statement| match statement {
        Statement::Loop { .. } => true,
        Statement::Block(inner) => has_real_loop(inner),
        Statement::If { accept, reject, .. } => has_real_loop(accept) || has_real_loop(reject),
        Statement::Switch { cases, .. } => cases.iter().any(|case| has_real_loop(&case.body)),
        _ => false,
    })
}
