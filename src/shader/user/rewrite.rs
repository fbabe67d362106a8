//! What a checked module becomes before it joins kernels: bounded loops, initialised variables, names of its own, canonical text.

use super::TURNS;
use super::allow::has_real_loop;
use crate::error::{Error, ErrorKind, Result};
use crate::shader::compose::USER_PREFIX as PREFIX;
use naga::{
    BinaryOperator, Block, Expression, Function, Handle, Literal, LocalVariable, Module, Range, Scalar, Span,
    Statement, Type, TypeInner,
};

/// The hook's function while naga writes.
const ENTRY: &str = "userfn_entry";

/// Gives every name of the module a prefix, so that none meets a name of a kernel or of WGSL.
pub(super) fn rename(module: &mut Module, entry: Handle<Function>) {
    let own = |name: &Option<String>| Some(format!("{PREFIX}x_{}", name.as_deref().unwrap_or("unnamed")));
    let types: Vec<_> = module.types.iter().map(|(h, t)| (h, t.clone())).collect();
    for (handle, ty) in types {
        let known = ty.name.as_deref() == Some("At");
        if matches!(ty.inner, TypeInner::Struct { .. }) && !known {
            module.types.replace(handle, Type { name: own(&ty.name), inner: ty.inner });
        }
    }
    for (_, constant) in module.constants.iter_mut() {
        constant.name = own(&constant.name);
    }
    for (handle, function) in module.functions.iter_mut() {
        function.name = if handle == entry { Some(ENTRY.into()) } else { own(&function.name) };
        function.arguments.iter_mut().for_each(|arg| arg.name = Some(local("a", &arg.name)));
        function.local_variables.iter_mut().for_each(|(_, v)| v.name = Some(local("v", &v.name)));
        function.named_expressions.clear();
    }
}

fn local(kind: &str, name: &Option<String>) -> String {
    format!("{kind}_{}", name.as_deref().unwrap_or("unnamed"))
}

/// Bounds every loop of a function by a common count of turns, and initialises every variable: a compiler may hoist a declaration
/// without initialiser out of the kernel's loop.
pub(super) fn bound(module: &mut Module) {
    let unsigned = module.types.insert(Type { name: None, inner: TypeInner::Scalar(Scalar::U32) }, Span::default());
    for (_, function) in module.functions.iter_mut() {
        let bare: Vec<_> =
            function.local_variables.iter().filter(|(_, v)| v.init.is_none()).map(|(h, v)| (h, v.ty)).collect();
        for (handle, ty) in bare {
            let zero = function.expressions.append(Expression::ZeroValue(ty), Span::default());
            function.local_variables.get_mut(handle).init = Some(zero);
        }
        if !has_real_loop(&function.body) {
            continue;
        }
        let literal = |function: &mut Function, n| {
            function.expressions.append(Expression::Literal(Literal::U32(n)), Span::default())
        };
        let (one, most) = (literal(function, 1), literal(function, TURNS));
        let start = literal(function, 0);
        let turns = LocalVariable { name: Some("turns".into()), ty: unsigned, init: Some(start) };
        let turns = function.local_variables.append(turns, Span::default());
        let turns = function.expressions.append(Expression::LocalVariable(turns), Span::default());
        let mut body = std::mem::take(&mut function.body);
        fuel(&mut body, function, [turns, one, most]);
        function.body = body;
    }
}

fn fuel(block: &mut Block, function: &mut Function, [turns, one, most]: [Handle<Expression>; 3]) {
    let names = [turns, one, most];
    for (statement, _) in block.span_iter_mut() {
        match statement {
            Statement::Block(inner) => fuel(inner, function, names),
            Statement::If { accept, reject, .. } => {
                fuel(accept, function, names);
                fuel(reject, function, names);
            }
            Statement::Switch { cases, .. } => cases.iter_mut().for_each(|case| fuel(&mut case.body, function, names)),
            Statement::Loop { body, .. } => {
                fuel(body, function, names);
                // if (turns >= most) { break; } turns += 1;
                let mut add = |e| function.expressions.append(e, Span::default());
                let count = add(Expression::Load { pointer: turns });
                let spent = add(Expression::Binary { op: BinaryOperator::GreaterEqual, left: count, right: most });
                let next = add(Expression::Binary { op: BinaryOperator::Add, left: count, right: one });
                let mut head = Block::new();
                let span = Span::default();
                head.push(Statement::Emit(Range::new_from_bounds(count, next)), span);
                let accept = Block::from_vec(vec![Statement::Break]);
                head.push(Statement::If { condition: spent, accept, reject: Block::new() }, span);
                head.push(Statement::Store { pointer: turns, value: next }, span);
                head.append(body);
                *body = head;
            }
            _ => {}
        }
    }
}

/// The canonical text, in which the hook's function is called `name`; `At` is the kernel's.
pub(super) fn write(module: &Module, info: &naga::valid::ModuleInfo, name: &str) -> Result<String> {
    let failed = |why: String| Error::new(ErrorKind::Shader, format!("hook `{name}` cannot be written: {why}"));
    let text = naga::back::wgsl::write_string(module, info, naga::back::wgsl::WriterFlags::empty())
        .map_err(|e| failed(e.to_string()))?;
    let text = match text.split_once("struct At {") {
        Some((before, rest)) => {
            let (_, after) = rest.split_once("}\n").ok_or_else(|| failed("`At` has no end".into()))?;
            format!("{before}{}", after.trim_start_matches('\n'))
        }
        None => text,
    };
    let from = format!("fn {ENTRY}(");
    if !text.contains(&from) || text.contains("enable ") {
        return Err(failed("its text is not what was checked".into()));
    }
    Ok(text.replace(&from, &format!("fn {name}(")))
}
