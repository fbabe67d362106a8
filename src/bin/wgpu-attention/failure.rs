//! How a command ends: the exit status and the sentence on standard error.

use std::error::Error as _;
use std::fmt;
use wgpu_attention::{Error, ErrorKind};

/// How a command ended that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Status 0.
    Done,
    /// Status 1: a check failed.
    Failed,
}

/// Why a command could not do its work.
#[derive(Clone, Debug)]
pub struct Failure {
    kind: ErrorKind,
    message: String,
}

impl Failure {
    /// Bad input that the command line itself found.
    pub fn input(message: impl Into<String>) -> Self {
        Failure { kind: ErrorKind::File, message: message.into() }
    }

    /// A file that can not be read or written.
    pub fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::input(format!("{}: {error}", path.display()))
    }

    /// The engine asked for is not there.
    pub fn engine(error: &Error) -> Self {
        Failure { kind: ErrorKind::NoAdapter, ..Failure::from(error.clone()) }
    }

    /// The exit status.
    pub fn code(&self) -> u8 {
        match self.kind {
            ErrorKind::UnknownVariant => 3,
            // The engine is missing, or gave up on a call that was in order.
            ErrorKind::NoAdapter
            | ErrorKind::DeviceLost
            | ErrorKind::OutOfMemory
            | ErrorKind::Shader
            | ErrorKind::Device => 4,
            _ => 2,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message += &format!(": {cause}");
            source = cause.source();
        }
        Failure { kind: error.kind(), message }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// clap shows what a value parser returns.
impl std::error::Error for Failure {}
