//! The one error type. Every message names the variant (or the part), the argument, what was expected and what was found.

use std::fmt;

/// What went wrong, as a value to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A rank, a size or a stride does not fit, or head counts do not divide.
    Shape,
    /// A tensor has an element type that the argument does not take.
    DType,
    /// A parameter has a value (or a type) that it does not take.
    Parameter,
    /// No variant of this name.
    UnknownVariant,
    /// No parameter, input or output of this name.
    UnknownName,
    /// A required input is absent.
    MissingInput,
    /// A user's index list, plan or cumulative length points outside its range.
    Index,
    /// The combination is not offered; the message says what is.
    Unsupported,
    /// A limit of the device would be passed; the message says which.
    Limit,
    /// No adapter that fits was found.
    NoAdapter,
    /// The device had no memory left.
    OutOfMemory,
    /// The device was lost.
    DeviceLost,
    /// A user's hook is not what a hook may be; the message has line and column.
    Hook,
    /// A shader was rejected by the compiler or the driver.
    Shader,
    /// The device reported another failure.
    Device,
    /// A file could not be read or written, or is not what it should be.
    File,
}

/// An error of this crate: a [`kind`](Error::kind) and one sentence.
///
/// ```
/// use wgpu_attention::{variants::dense::DenseAttention, ErrorKind, HostTensor, Inputs, Runtime};
/// let q = HostTensor::zeros(&[1, 3, 4, 8]);
/// let k = HostTensor::zeros(&[1, 2, 4, 8]);
/// let inputs = Inputs::new().with("q", &q).with("k", &k).with("v", &k);
/// let error = Runtime::cpu().plan(&DenseAttention::default(), &inputs).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Shape);
/// assert!(error.to_string().contains("dense-attention: `k` has 2 heads"));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a finished sentence.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    /// `SUBJECT: PROBLEM; expected EXPECTED, found FOUND`.
    pub fn expected(
        kind: ErrorKind,
        subject: &str,
        argument: &str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self::new(kind, format!("{subject}: `{argument}`: expected {expected}, found {found}"))
    }

    /// The same error with the one that caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
}

// A cached failure is handed out again, so errors are cloned; the source cannot be and becomes part of the text.
impl Clone for Error {
    fn clone(&self) -> Self {
        let message = match &self.0.source {
            Some(source) => format!("{} ({source})", self.0.message),
            None => self.0.message.clone(),
        };
        Self::new(self.0.kind, message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as _)
    }
}
