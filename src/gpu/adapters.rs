//! The adapters of this machine, which one is used, and why the others are not.

use super::GpuOptions;
use crate::error::{Error, ErrorKind, Result};

/// What is known of one adapter.
#[derive(Clone, Debug)]
pub struct AdapterReport {
    /// Name, driver, backend, kind, subgroup sizes.
    pub info: wgpu::AdapterInfo,
    /// Limits offered.
    pub limits: wgpu::Limits,
    /// Features offered.
    pub features: wgpu::Features,
    /// Side of the square cooperative matrix with f16 factors and f32 sum.
    pub matrix: Option<u32>,
    /// All cooperative matrix shapes: M, N, K, factor type, sum type.
    pub matrices: Vec<(u32, u32, u32, String, String)>,
    /// `None` when it would be used, else why not.
    pub refusal: Option<String>,
}

/// OpenGL is left out: its drivers lack f16 and subgroups, and zeroing workgroup memory there can hang.
const BACKENDS: wgpu::Backends = wgpu::Backends::VULKAN
    .union(wgpu::Backends::METAL)
    .union(wgpu::Backends::DX12)
    .union(wgpu::Backends::BROWSER_WEBGPU);

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = BACKENDS;
    // No indirect dispatch is made here, so its validation only costs.
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor)
}

/// `lavapipe`, `swiftshader`, or the kind of GPU.
pub(super) fn kind(info: &wgpu::AdapterInfo) -> &'static str {
    let text = format!("{} {} {}", info.name, info.driver, info.driver_info).to_lowercase();
    if text.contains("swiftshader") {
        "swiftshader"
    } else if text.contains("llvmpipe") || text.contains("lavapipe") {
        "lavapipe"
    } else {
        match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "GPU",
        }
    }
}

/// The largest square side with f16 factors and an f32 sum: only squares of 8 and 16 can be written in WGSL.
pub(super) fn matrix_side(shapes: &[wgpu::CooperativeMatrixProperties]) -> Option<u32> {
    shapes
        .iter()
        .filter(|p| p.m_size == p.n_size && p.n_size == p.k_size && matches!(p.m_size, 8 | 16))
        .filter(|p| p.ab_type == wgpu::CooperativeScalarType::F16 && p.cr_type == wgpu::CooperativeScalarType::F32)
        .map(|p| p.m_size)
        .max()
}

pub(super) fn is_software(info: &wgpu::AdapterInfo) -> bool {
    matches!(kind(info), "lavapipe" | "swiftshader" | "software")
}

fn rank(info: &wgpu::AdapterInfo) -> u32 {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => 2,
        wgpu::DeviceType::Cpu => 3,
    }
}

/// Why an adapter does not fit the options, or `None`.
fn refusal(adapter: &wgpu::Adapter, options: &GpuOptions) -> Option<String> {
    let info = adapter.get_info();
    let flags = adapter.get_downlevel_capabilities().flags;
    if !flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS) {
        return Some("it has no compute shaders".into());
    }
    if let Some(part) = &options.adapter {
        let text = format!("{} {} {} {}", info.name, info.driver, info.driver_info, kind(&info)).to_lowercase();
        let part = part.to_lowercase();
        return (!text.contains(&part)).then(|| format!("its name does not contain `{part}`"));
    }
    if is_software(&info) && !options.allow_software {
        return Some("it is a software adapter; the CPU engine is faster (name it to use it)".into());
    }
    None
}

async fn list() -> Vec<wgpu::Adapter> {
    let instance = instance();
    // In a browser there is nothing to enumerate: the browser chooses.
    #[cfg(target_arch = "wasm32")]
    let mut all: Vec<_> = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await.into_iter().collect();
    #[cfg(not(target_arch = "wasm32"))]
    let mut all = instance.enumerate_adapters(BACKENDS).await;
    all.sort_by_key(|a| rank(&a.get_info()));
    all
}

pub(super) async fn choose(options: &GpuOptions) -> Result<wgpu::Adapter> {
    let all = list().await;
    let mut reasons = Vec::new();
    for adapter in all {
        match refusal(&adapter, options) {
            None => return Ok(adapter),
            Some(reason) => reasons.push(format!("{}: {reason}", adapter.get_info().name)),
        }
    }
    let found = if reasons.is_empty() { "none was found".to_owned() } else { reasons.join("; ") };
    Err(Error::new(ErrorKind::NoAdapter, format!("no GPU adapter fits: {found}")))
}

/// All adapters, the one that would be used first.
pub async fn adapters(options: &GpuOptions) -> Vec<AdapterReport> {
    let mut taken = false;
    let report = |adapter: wgpu::Adapter| {
        let mut refusal = refusal(&adapter, options);
        if refusal.is_none() && std::mem::replace(&mut taken, true) {
            refusal = Some("another adapter comes first".into());
        }
        let shapes = adapter.cooperative_matrix_properties();
        let name = |t: wgpu::CooperativeScalarType| format!("{t:?}").to_lowercase();
        AdapterReport {
            info: adapter.get_info(),
            limits: adapter.limits(),
            features: adapter.features(),
            matrix: matrix_side(&shapes),
            matrices: shapes.iter().map(|p| (p.m_size, p.n_size, p.k_size, name(p.ab_type), name(p.cr_type))).collect(),
            refusal,
        }
    };
    list().await.into_iter().map(report).collect()
}
