//! From `--engine` and `--adapter` to a runtime.

use crate::failure::Failure;
use std::path::Path;
use wgpu_attention::Runtime;
use wgpu_attention::caps::Tier;
use wgpu_attention::gpu::{AdapterReport, GpuOptions, adapters};

/// What `--engine` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// The best real GPU, else the CPU; standard error says which.
    #[default]
    Auto,
    /// The CPU engine.
    Cpu,
    /// The best real GPU, or the adapter that `--adapter` names.
    Gpu,
}

/// What `--tier` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TierName {
    /// Portable WebGPU.
    T0,
    /// f16 arithmetic and subgroups.
    T1,
    /// Cooperative matrices.
    T2,
}

/// Opens what `--engine` and `--adapter` name.
pub fn open(engine: Engine, adapter: Option<&str>) -> Result<Runtime, Failure> {
    open_at(engine, adapter, &Limits::default())
}

/// How a GPU is used where it is not as usual.
#[derive(Default)]
pub struct Limits<'a> {
    /// No further than a tier.
    pub tier: Option<TierName>,
    /// A folder of kernel texts and the pipeline cache.
    pub kernels: Option<&'a Path>,
    /// Shaders with bounds checks, bounded loops and zeroed workgroup memory.
    pub checked: bool,
}

/// The same, with a GPU used so.
pub fn open_at(engine: Engine, adapter: Option<&str>, limits: &Limits) -> Result<Runtime, Failure> {
    let given =
        [(limits.tier.is_some(), "--tier"), (limits.kernels.is_some(), "--kernels"), (limits.checked, "--checked")];
    if let Some((_, option)) = given.into_iter().find(|(given, _)| *given) {
        if engine == Engine::Cpu {
            return Err(Failure::input(format!("{option} is of GPUs and --engine is cpu: give one of the two")));
        }
        let tier = limits.tier.map(|tier| [Tier::T0, Tier::T1, Tier::T2][tier as usize]);
        let folder = limits.kernels.map(Path::to_owned);
        let adapter = adapter.map(str::to_owned);
        let (cache, kernels, checked) = (folder.clone(), folder, limits.checked);
        return gpu(&GpuOptions { adapter, tier, cache, kernels, checked, ..Default::default() });
    }
    match (engine, adapter) {
        (Engine::Cpu, Some(_)) => {
            Err(Failure::input("--adapter names a GPU adapter and --engine is cpu: give one of the two"))
        }
        (Engine::Cpu, None) => Ok(Runtime::cpu()),
        (Engine::Auto, None) => {
            let runtime = Runtime::new_blocking();
            match runtime.notice() {
                Some(notice) => eprintln!("engine: {runtime} ({notice})"),
                None => eprintln!("engine: {runtime}"),
            }
            Ok(runtime)
        }
        (_, adapter) => gpu(&GpuOptions { adapter: adapter.map(str::to_owned), ..Default::default() }),
    }
}

/// Opens a GPU; every failure means that the engine is not available.
pub fn gpu(options: &GpuOptions) -> Result<Runtime, Failure> {
    Runtime::gpu_blocking(options).map_err(|e| Failure::engine(&e))
}

/// Every adapter, software ones too, each once.
pub fn all_adapters() -> Vec<AdapterReport> {
    let options = GpuOptions { allow_software: true, ..Default::default() };
    let mut list: Vec<AdapterReport> = Vec::new();
    for report in pollster::block_on(adapters(&options)) {
        // Two equal cards can not be told apart by name.
        if !list.iter().any(|r| r.info.name == report.info.name && r.info.driver == report.info.driver) {
            list.push(report);
        }
    }
    list
}

/// The name that a line of output has room for: `lavapipe`, `swiftshader`, else the adapter's own.
pub fn short_name(info: &wgpu_attention::wgpu::AdapterInfo) -> String {
    let text = format!("{} {} {}", info.name, info.driver, info.driver_info).to_lowercase();
    if text.contains("swiftshader") {
        "swiftshader".into()
    } else if text.contains("llvmpipe") || text.contains("lavapipe") {
        "lavapipe".into()
    } else {
        info.name.clone()
    }
}
