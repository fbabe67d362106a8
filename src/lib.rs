//! Dense, sparse, linear and hierarchical attention on WebGPU, with a CPU engine that runs the same plans.
//!
//! A [`Runtime`] runs a [`Variant`] over named tensors:
//!
//! ```
//! use wgpu_attention::variants::{Pattern, dense::DenseAttention};
//! use wgpu_attention::{HostTensor, Inputs, Runtime};
//!
//! # fn main() -> wgpu_attention::Result<()> {
//! let runtime = Runtime::cpu(); // `Runtime::new_blocking()` takes the best GPU
//! let q = HostTensor::from_fn(&[1, 4, 6, 8], |i| (i as f32).sin()); // (B, H, Lq, D)
//! let k = HostTensor::from_fn(&[1, 2, 6, 8], |i| (i as f32).cos()); // (B, Hk, Lk, D)
//! let inputs = Inputs::new().with("q", &q).with("k", &k).with("v", &k);
//! let causal = DenseAttention { pattern: Pattern::CausalSelf, ..Default::default() };
//! let outputs = runtime.call_blocking(&causal, &inputs)?;
//! assert_eq!(outputs.get("out")?.shape(), [1, 4, 6, 8]);
//! # Ok(())
//! # }
//! ```
//!
//! # Words
//!
//! A *variant* is a mechanism with its parameters; it says what it computes and writes a *plan*: *stages* over named *slots*. Each
//! stage is an operation of a *kernel* family with *hooks* (small functions) at its points. An *engine* runs plans: on a GPU by shaders,
//! each composed from one *kernel key*; on the CPU by the kernels' *twins*. The *oracle* is a variant's definition in f64, for tests.
//!
//! Letters: B batch, H query heads, Hk KV heads (H is a multiple), Lq and Lk lengths, D query and key width, Dv value width.
//! Arrays are (B, H, L, D) unless strides say otherwise. Scores, softmax and sums are f32 whatever the storage.
//!
//! # Features
//!
//! - `case-files`: reading and writing case files (safetensors).
//! - `cli`: the binary `wgpu-attention`.

pub mod caps;
#[cfg(feature = "case-files")]
pub mod case;
pub mod cpu;
mod error;
pub mod gpu;
pub mod hook;
mod hooked;
pub mod hooks;
pub mod kernel;
pub mod oracle;
#[doc(hidden)]
pub mod params;
pub mod plan;
mod problem;
pub mod runtime;
pub mod shader;
mod state;
mod tensor;
mod user_hook;
pub mod variant;
pub mod variants;

pub use error::{Error, ErrorKind, Result};
pub use hooked::Hooked;
pub use params::{ParamSet, ParamSpec, ParamType, Value};
pub use problem::{Problem, Spec};
pub use runtime::{Engine, MemoryReport, Outputs, Prepared, Runtime};
pub use state::State;
pub use tensor::{BufferView, DType, HostData, HostTensor, Inputs, Layout, Storage, Tensor};
pub use user_hook::{Along, Argument, UserHook};
pub use variant::{Card, Entry, Family, InputSpec, Named, OutputSpec, Variant};
pub use wgpu;

// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
