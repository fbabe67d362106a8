//! Users' hooks: WGSL text that naga parses, a walk checks against an allow-list, and that becomes canonical text for kernels and
//! register code for the CPU engine.

mod allow;
mod expression;
mod fault;
mod lower;
mod math;
mod rewrite;

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Parameter, Program};
use crate::kernel::key::{Point, ScalarType};
use fault::Text;
use std::fmt;
use std::sync::Arc;

/// Turns that all loops of a function make in one call together; more are cut, on every engine alike.
pub const TURNS: u32 = 4096;

/// What a hook sees of a pair, as `shaders/lib/at.wgsl` declares it. It follows the user's text, whose lines keep their numbers.
const PRELUDE: &str = "\nstruct At { batch: u32, head: u32, row: u32, query: i32, key: i32, }\n";

/// A user's text, checked.
#[derive(Clone)]
pub struct Code {
    point: Point,
    name: String,
    source: Arc<str>,
    params: Vec<(String, ScalarType)>,
    module: Arc<(naga::Module, naga::valid::ModuleInfo, naga::Handle<naga::Function>)>,
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name, self.params)
    }
}

impl Code {
    /// Parses and checks `text`, whose function `name` is the hook.
    ///
    /// # Errors
    /// [`ErrorKind::Hook`], with line and column of the text.
    pub fn new(point: Point, name: &str, text: &str) -> Result<Self> {
        let own = Text { point, text };
        let directive =
            text.lines().find(|l| ["enable ", "requires ", "diagnostic"].iter().any(|d| l.trim_start().starts_with(d)));
        if let Some(line) = directive {
            let at = line.as_ptr() as usize - text.as_ptr() as usize;
            let sentence = "a hook has no directives: what is enabled is the kernel's choice";
            return Err(own.fault(Some(at..at + line.len()), sentence));
        }
        let mut module = naga::front::wgsl::parse_str(&format!("{text}{PRELUDE}")).map_err(|e| own.parse(&e))?;
        // Before the validator, whose words for these are less plain.
        let info = validate(&module).map_err(|e| match early(own, &module) {
            Some(plain) => plain,
            None => own.invalid(&e),
        })?;
        allow::walk(own, &module, &info)?;
        let (entry, params) = allow::signature(own, &module, name)?;
        rewrite::bound(&mut module);
        rewrite::rename(&mut module, entry);
        let info = validate(&module).map_err(|e| own.invalid(&e))?;
        let source = rewrite::write(&module, &info, name)?;
        let code = Code {
            point,
            name: name.to_owned(),
            source: source.into(),
            params,
            module: Arc::new((module, info, entry)),
        };
        // Whatever it is that cannot be compiled is known now.
        let params = code.params.iter().map(|(_, kind)| Parameter { kind: *kind, along_rows: true, along_keys: true });
        code.program(&params.collect::<Vec<_>>())?;
        Ok(code)
    }

    /// The point it was written for.
    pub fn point(&self) -> Point {
        self.point
    }

    /// The function's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The canonical text.
    pub fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// Names and types of the arguments after `at`.
    pub fn params(&self) -> &[(String, ScalarType)] {
        &self.params
    }

    /// The register code, given what the arguments change with.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] when it is too long.
    pub fn program(&self, params: &[Parameter]) -> Result<Program> {
        let (module, info, entry) = &*self.module;
        lower::program(module, info, *entry, self.point, params).map_err(|failure| match failure {
            lower::Failure::TooLong => {
                let message = format!("hook `{}`: its code is too long once every call is written out", self.name);
                Error::new(ErrorKind::Limit, message)
            }
            lower::Failure::Unknown(what) => {
                Error::new(ErrorKind::Unsupported, format!("hook `{}`: the CPU engine has no {what}", self.name))
            }
        })
    }
}

type Invalid = Box<naga::WithSpan<naga::valid::ValidationError>>;

fn validate(module: &naga::Module) -> Result<naga::valid::ModuleInfo, Invalid> {
    naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty())
        .validate(module)
        .map_err(Box::new)
}

/// What makes a module invalid because a hook must not have it at all.
fn early(text: Text, module: &naga::Module) -> Option<Error> {
    let (handle, _) = module.global_variables.iter().next()?;
    let span = module.global_variables.get_span(handle);
    Some(text.at(span, "a hook has no variables outside functions; give values as arguments after `at`"))
}
