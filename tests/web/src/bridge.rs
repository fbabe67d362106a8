//! What the page's `runner.js` calls, and what it offers in return.

use std::panic;

use wasm_bindgen::prelude::*;

use crate::webgpu;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = wgpuAttentionPanicked)]
    fn panicked(message: &str);
}

#[wasm_bindgen(start)]
fn start() {
    panic::set_hook(Box::new(|info| panicked(&info.to_string())));
}

/// Names of all tests, in the order in which they run. `cases` are the paths of the case files that the server has.
#[wasm_bindgen]
pub fn list(cases: Vec<String>) -> Vec<String> {
    let _ = cases;
    webgpu::TESTS.iter().map(|name| (*name).to_owned()).collect()
}

/// Runs one test; the text of a success is a remark for the report, often empty.
#[wasm_bindgen]
pub async fn run(name: String) -> Result<String, String> {
    webgpu::run(&name).await
}
