//! From a [`KernelKey`](crate::kernel::key::KernelKey) to WGSL text.

mod compose;
mod library;

pub use compose::compose;
pub use library::{FILES, source};
