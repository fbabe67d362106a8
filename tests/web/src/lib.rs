//! The tests that run inside a browser. `cargo xtask web-test` builds this crate for wasm32, serves it with the page in
//! `page/`, and collects what the page reports. For any other target the crate is empty.

#[cfg(target_arch = "wasm32")]
mod bridge;
#[cfg(target_arch = "wasm32")]
mod cases;
#[cfg(target_arch = "wasm32")]
mod hooks;
#[cfg(target_arch = "wasm32")]
mod timing;
#[cfg(target_arch = "wasm32")]
mod webgpu;
