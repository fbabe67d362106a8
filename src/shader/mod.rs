//! From a [`KernelKey`](crate::kernel::key::KernelKey) to WGSL text.

mod compose;
mod library;
mod unroll;
#[cfg_attr(
    not(any(
        all(feature = "user-hooks", not(target_arch = "wasm32")),
        all(feature = "web-user-hooks", target_arch = "wasm32")
    )),
    path = "user_off.rs"
)]
pub mod user;

pub use compose::compose;
pub use library::{FILES, source};
