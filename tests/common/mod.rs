//! What the tests share: the engines of this machine, the golden cases, one error measure.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod tensors;

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

/// For case `n` of many: all but one of the two software adapters, which take turns. They compile for seconds what they run for milliseconds, and
/// tests/golden.rs has every variant on both. With `WGPU_ATTENTION_ENGINES=all` every case runs on every engine.
pub fn engines_in_turn(n: usize) -> Vec<(&'static str, Runtime)> {
    let all = engines();
    let software = all.iter().filter(|(name, _)| ADAPTERS.iter().any(|(adapter, _)| adapter == name)).count();
    if software < ADAPTERS.len() || std::env::var("WGPU_ATTENTION_ENGINES").is_ok_and(|v| v == "all") {
        return all;
    }
    let resting = ADAPTERS[(n + 1) % ADAPTERS.len()].0;
    all.into_iter().filter(|(name, _)| *name != resting).collect()
}

/// Those with cooperative matrices; without one the test says so, or fails where `WGPU_ATTENTION_REQUIRE` lists `matrix`.
pub fn matrix_engines() -> Vec<(&'static str, Runtime)> {
    let list: Vec<_> = engines().into_iter().filter(|(_, r)| r.caps().matrix.is_some()).collect();
    if list.is_empty() {
        let required = std::env::var("WGPU_ATTENTION_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|r| r.trim() == "matrix"),
            "cooperative matrices are required; no adapter here has them"
        );
        println!("not covered: cooperative matrices; no adapter here has them (cargo xtask coop-test)");
    }
    list
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

/// Standard normal numbers from a seed, the same on every machine.
pub fn random(shape: &[usize], seed: u64) -> HostTensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 + 0.5) / (1 << 24) as f32
    };
    HostTensor::from_fn(shape, |_| (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos())
}

/// How far two results may be apart: root mean square of the difference over that of the wanted values, and the largest difference over
/// the largest wanted value.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    rms: f64,
    max: f64,
}

impl Budget {
    /// f32 in and out, f32 accumulation.
    pub const F32: Budget = Budget { rms: 4e-6, max: 2e-5 };
    /// f16 in, compared with the rounded inputs.
    pub const F16: Budget = Budget { rms: 4e-5, max: 2e-4 };
    /// The matrix path: weights are rounded to f16 before they meet the values.
    pub const MATRIX: Budget = Budget { rms: 1e-3, max: 3e-3 };
    /// Scores of 1e4 and more: an f32 score has few digits behind the point.
    pub const LARGE_SCORES: Budget = Budget { rms: 1e-2, max: 5e-2 };
    /// Every token takes back what the one before wrote: 32 sums of halves leave their errors behind.
    pub const REPLACED: Budget = Budget { rms: 4e-3, max: 6e-3 };
    /// Flags and indices.
    pub const EXACT: Budget = Budget { rms: 0.0, max: 0.0 };
    /// Recurrences: errors of many steps add up.
    pub const SCAN: Budget = Budget { rms: 1e-5, max: 5e-5 };
}

/// Panics with the name and both errors when `got` is further from `want` than the budget.
pub fn assert_close(name: &str, want: &HostTensor, got: &HostTensor, budget: Budget) {
    if let Err(why) = close(want, got, budget) {
        panic!("{name}: {why}");
    }
}

/// `Err` says how far apart two results are. −∞ agrees with anything up to −1e30; NaN agrees with nothing.
pub fn close(want: &HostTensor, got: &HostTensor, budget: Budget) -> Result<(), String> {
    if want.shape() != got.shape() {
        return Err(format!("shape {:?}, wanted {:?}", got.shape(), want.shape()));
    }
    let (mut difference, mut wanted, mut worst, mut largest) = (0.0, 0.0, 0.0_f64, 0.0_f64);
    for (at, (w, g)) in want.to_f64().into_iter().zip(got.to_f64()).enumerate() {
        if w <= -1e30 && g <= -1e30 {
            continue;
        }
        if !g.is_finite() || !w.is_finite() {
            return Err(format!("{g} at {at}, wanted {w}"));
        }
        difference += (w - g) * (w - g);
        wanted += w * w;
        worst = worst.max((w - g).abs());
        largest = largest.max(w.abs());
    }
    let scale = |x: f64| if x == 0.0 { 1.0 } else { x };
    let (rms, max) = ((difference / scale(wanted)).sqrt(), worst / scale(largest));
    if rms <= budget.rms && max <= budget.max {
        return Ok(());
    }
    Err(format!("rms {rms:.1e} (allowed {:.0e}), max {max:.1e} (allowed {:.0e})", budget.rms, budget.max))
}
