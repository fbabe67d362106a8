//! Users' hooks in a build without naga: refused.

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Parameter, Program};
use crate::kernel::key::{Point, ScalarType};
use std::convert::Infallible;
use std::sync::Arc;

/// Turns that all loops of a function make in one call together.
pub const TURNS: u32 = 4096;

/// A user's text, checked. There is none in this build.
#[derive(Clone, Debug)]
pub struct Code(Infallible);

impl Code {
    /// Refuses.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`].
    pub fn new(_: Point, name: &str, _: &str) -> Result<Self> {
        let feature = if cfg!(target_arch = "wasm32") { "web-user-hooks" } else { "user-hooks" };
        let message =
            format!("hook `{name}`: this build has no hooks in WGSL; the crate's feature `{feature}` adds them");
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// The point it was written for.
    pub fn point(&self) -> Point {
        match self.0 {}
    }

    /// The function's name.
    pub fn name(&self) -> &str {
        match self.0 {}
    }

    /// The canonical text.
    pub fn source(&self) -> &Arc<str> {
        match self.0 {}
    }

    /// Names and types of the arguments after `at`.
    pub fn params(&self) -> &[(String, ScalarType)] {
        match self.0 {}
    }

    /// The register code.
    ///
    /// # Errors
    /// None: there is no code.
    pub fn program(&self, _: &[Parameter]) -> Result<Program> {
        match self.0 {}
    }
}
