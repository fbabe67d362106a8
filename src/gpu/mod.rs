//! The GPU engine: runs plans through wgpu. It knows plans, kernels and shaders, and no variant.

mod adapters;
mod choices;
mod context;
mod disk;
mod engine;
mod kernel_folder;
mod pipelines;
mod pool;
mod profile;
mod readback;
mod resolve;
mod self_test;
mod self_test_chunks;
mod self_test_scan;
mod tune;

pub use adapters::{AdapterReport, adapters};
pub use context::{Gpu, GpuOptions};
pub use engine::{GpuEngine, GpuPlan};
pub use pool::Lease;
pub use profile::Timing;
pub use self_test::{Shape, Verdicts};
pub use tune::Tuned;
