//! From a [`KernelKey`](crate::kernel::key::KernelKey) to WGSL text.

mod compose;
mod library;
mod unroll;

pub use compose::compose;
pub use library::{FILES, source};
