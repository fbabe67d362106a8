//! What the tests share: the engines of this machine, the golden cases, one error measure.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use wgpu_attention::gpu::GpuOptions;
use wgpu_attention::oracle::Array;
use wgpu_attention::{HostTensor, Runtime};

/// Adapters that a complete run covers: a part of the name, and what is missing where it is not found.
pub const ADAPTERS: [(&str, &str); 2] = [
    ("lavapipe", "Mesa's software Vulkan (Debian: mesa-vulkan-drivers)"),
    ("swiftshader", "SwiftShader as a Vulkan driver (Debian: chromium, and VK_DRIVER_FILES naming an ICD file for it)"),
];

/// The CPU engine and every adapter found, each by its name. Adapters that are not found are printed; those that the variable
/// `WGPU_ATTENTION_REQUIRE` lists fail the test.
pub fn engines() -> Vec<(&'static str, Runtime)> {
    static ENGINES: OnceLock<Vec<(&'static str, Runtime)>> = OnceLock::new();
    ENGINES.get_or_init(find).clone()
}

fn find() -> Vec<(&'static str, Runtime)> {
    let required = std::env::var("WGPU_ATTENTION_REQUIRE").unwrap_or_default();
    let mut list = vec![("cpu", Runtime::cpu())];
    for (adapter, what) in ADAPTERS {
        let options = GpuOptions { adapter: Some(adapter.into()), poison: true, ..Default::default() };
        match Runtime::gpu_blocking(&options) {
            Ok(runtime) => list.push((adapter, runtime)),
            Err(error) if required.split(',').any(|r| r.trim() == adapter) => {
                panic!("{adapter} is required and was not found: {error}")
            }
            Err(_) => println!("not covered: {adapter}; it needs {what}"),
        }
    }
    if let Ok(runtime) = Runtime::gpu_blocking(&GpuOptions { poison: true, ..Default::default() }) {
        list.push(("gpu", runtime));
    } else {
        println!("not covered: a real GPU; none was found");
    }
    for (name, runtime) in &list {
        println!("covered: {name}: {runtime}");
    }
    list
}

/// The golden cases: path and bytes. `ATTN_TEST=nsa` keeps those whose path contains the word.
pub fn golden() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let filter = std::env::var("ATTN_TEST").unwrap_or_default();
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|p| (p.strip_prefix(&root).unwrap_or(&p).display().to_string(), p))
        .filter(|(name, _)| name.contains(&filter))
        .map(|(name, p)| (name, std::fs::read(p).expect("a readable case")))
        .collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder of golden cases").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|e| e == "safetensors") {
            paths.push(path);
        }
    }
}

/// An oracle's result as an f32 tensor.
pub fn tensor_of(array: &Array) -> HostTensor {
    HostTensor::new(&array.shape, array.data.iter().map(|&x| x as f32).collect::<Vec<_>>())
        .expect("as many elements as the shape says")
}
