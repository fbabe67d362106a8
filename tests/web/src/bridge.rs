//! What the page's `runner.js` calls, and what it offers in return.

use std::panic;

use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;

use crate::{cases, hooks, timing, webgpu};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = wgpuAttentionPanicked)]
    fn panicked(message: &str);

    #[wasm_bindgen(js_name = wgpuAttentionFetch, catch)]
    async fn fetch_array(path: &str) -> Result<Uint8Array, JsValue>;
}

/// The bytes that the server has at `path`.
pub async fn fetch(path: &str) -> Result<Vec<u8>, String> {
    match fetch_array(path).await {
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(error) => Err(format!("{error:?}")),
    }
}

#[wasm_bindgen(start)]
fn start() {
    panic::set_hook(Box::new(|info| panicked(&info.to_string())));
}

/// Names of all tests, in the order in which they run. `cases` are the paths of the case files that the server has.
#[wasm_bindgen]
pub fn list(cases: Vec<String>) -> Vec<String> {
    webgpu::TESTS
        .iter()
        .chain(&hooks::TESTS)
        .chain(&timing::TESTS)
        .map(|name| (*name).to_owned())
        .chain(cases::names(&cases))
        .collect()
}

/// Runs one test; the text of a success is a remark for the report, often empty.
#[wasm_bindgen]
pub async fn run(name: String) -> Result<String, String> {
    match name.as_str() {
        name if webgpu::TESTS.contains(&name) => webgpu::run(name).await,
        name if hooks::TESTS.contains(&name) => hooks::run(name).await,
        name if timing::TESTS.contains(&name) => timing::run(name).await,
        name => cases::run(name).await,
    }
}
