//! A portable GPU attention runtime on WebGPU.

pub mod caps;
#[cfg(feature = "case-files")]
pub mod case;
pub mod cpu;
mod error;
pub mod gpu;
pub mod hook;
pub mod hooks;
pub mod kernel;
pub mod oracle;
#[doc(hidden)]
pub mod params;
pub mod plan;
mod problem;
pub mod runtime;
pub mod shader;
mod tensor;
pub mod variant;
pub mod variants;

pub use error::{Error, ErrorKind, Result};
pub use params::{ParamSet, ParamSpec, ParamType, Value};
pub use problem::{Problem, Spec};
pub use runtime::{Engine, MemoryReport, Outputs, Prepared, Runtime};
pub use tensor::{BufferView, DType, HostData, HostTensor, Inputs, Layout, Storage, Tensor};
pub use variant::{Card, Entry, Family, InputSpec, Named, OutputSpec, Variant};
pub use wgpu;
