//! A device with what was enabled on it.

use super::adapters;
use crate::caps::{Caps, DeviceClass, Target, Tier};
use crate::error::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How a device is chosen and used.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Part of the adapter's name, driver or kind (`lavapipe`, `swiftshader`, `nvidia`), in any case; without it the best real GPU.
    pub adapter: Option<String>,
    /// Take a software adapter where there is no real GPU.
    pub allow_software: bool,
    /// Bounds checks, loop bounding and zeroed workgroup memory in every shader.
    pub checked: bool,
    /// Folder of the pipeline cache on disk; none without it. The data goes to the driver unseen: use a folder that only you can write.
    pub cache: Option<PathBuf>,
    /// Folder where the text of every kernel is written as `ENTRY-HASH.wgsl` before it is compiled. An edited text beside it, named
    /// `ENTRY-HASH.edited.wgsl`, is compiled in its place, with no more checks than our own: use a folder that only you can write. On the
    /// web, where there are no files, it is refused.
    pub kernels: Option<PathBuf>,
    /// Fills every fresh buffer with NaN: for tests.
    pub poison: bool,
    /// Leave cooperative matrices alone even where the device has them and they pass their self-test.
    pub no_matrix: bool,
    /// The highest tier that is used; without it all that the device has. See [`Caps::at_most`].
    pub tier: Option<Tier>,
    /// Work bound of one submit, in FLOPs; a default for the kind of device without it.
    pub submit_flops: Option<f64>,
}

/// A device, its queue and what they can do.
#[derive(Clone, Debug)]
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) info: wgpu::AdapterInfo,
    pub(crate) caps: Caps,
    pub(crate) submit_flops: f64,
    /// Set by our own device's callback; a caller's device has no callback of ours.
    pub(crate) lost: Arc<AtomicBool>,
}

impl Gpu {
    /// Opens a device by the options.
    pub(super) async fn open(options: &GpuOptions) -> Result<Self> {
        let adapter = adapters::choose(options).await?;
        let features = adapter.features()
            & (wgpu::Features::SHADER_F16
                | wgpu::Features::SUBGROUP
                | wgpu::Features::SUBGROUP_BARRIER
                | wgpu::Features::TIMESTAMP_QUERY
                | wgpu::Features::PIPELINE_CACHE);
        let allowed = !options.no_matrix && options.tier.is_none_or(|tier| tier == Tier::T2);
        let matrix = allowed && adapters::matrix_side(&adapter.cooperative_matrix_properties()).is_some();
        let coop = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        let coop = if matrix { adapter.features() & coop } else { wgpu::Features::empty() };
        // SAFETY: the one experimental feature asked for is used by kernels that pass a self-test on the device before anything else.
        let experimental = unsafe { wgpu::ExperimentalFeatures::enabled() };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("wgpu-attention"),
            experimental_features: if coop.is_empty() { wgpu::ExperimentalFeatures::disabled() } else { experimental },
            required_features: features | coop,
            required_limits: adapter.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|e| {
            Error::new(ErrorKind::NoAdapter, format!("the adapter {} gave no device", adapter.get_info().name))
                .caused_by(e)
        })?;
        let lost = Arc::new(AtomicBool::new(false));
        let flag = lost.clone();
        // The device is our own, so these slots are free.
        device.set_device_lost_callback(move |_, _| flag.store(true, Ordering::Relaxed));
        device.on_uncaptured_error(Arc::new(|_| {}));
        let mut gpu = Self::wrap(&device, &queue, Some(&adapter), options)?;
        gpu.lost = lost;
        Ok(gpu)
    }

    /// A caller's device. Nothing global is changed on it.
    pub(super) fn wrap(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        adapter: Option<&wgpu::Adapter>,
        options: &GpuOptions,
    ) -> Result<Self> {
        if cfg!(target_arch = "wasm32") && options.kernels.is_some() {
            return Err(Error::new(ErrorKind::Unsupported, "kernels: a web page has no folders"));
        }
        let info = device.adapter_info();
        let caps = caps(device, adapter, &info);
        let caps = options.tier.map_or(caps.clone(), |tier| caps.at_most(tier));
        if caps.max_workgroup_memory < 16 << 10 || caps.max_invocations < 128 || caps.max_storage_bindings < 8 {
            let message = format!(
                "{}: needs 16384 bytes of workgroup memory, 128 invocations and 8 storage bindings; the device has {}, {} and {}",
                info.name, caps.max_workgroup_memory, caps.max_invocations, caps.max_storage_bindings
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        // A driver's watchdog gives a submit about two seconds; these bounds take about a tenth of that.
        let submit_flops = options.submit_flops.unwrap_or(match info.device_type {
            wgpu::DeviceType::DiscreteGpu => 2e12,
            wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::VirtualGpu => 2e11,
            wgpu::DeviceType::Cpu | wgpu::DeviceType::Other => 4e9,
        });
        let (device, queue) = (device.clone(), queue.clone());
        Ok(Gpu { device, queue, info, caps, submit_flops, lost: Arc::default() })
    }

    /// The adapter's name, driver and backend.
    pub fn describe(&self) -> String {
        let kind = adapters::kind(&self.info);
        format!("{} ({kind}, {:?}, tier {})", self.info.name, self.info.backend, self.caps.tier.name())
    }

    /// What the device enabled.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    pub(crate) fn check_lost(&self) -> Result<()> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::DeviceLost, format!("the device {} was lost", self.info.name)));
        }
        Ok(())
    }
}

fn caps(device: &wgpu::Device, adapter: Option<&wgpu::Adapter>, info: &wgpu::AdapterInfo) -> Caps {
    let (limits, features) = (device.limits(), device.features());
    let has = |f| features.contains(f);
    let browser = info.backend == wgpu::Backend::BrowserWebGpu;
    let subgroups = has(wgpu::Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size));
    let matrix = adapter
        .filter(|_| has(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) && has(wgpu::Features::SUBGROUP_BARRIER))
        .and_then(|a| adapters::matrix_side(&a.cooperative_matrix_properties()));
    let f16 = has(wgpu::Features::SHADER_F16);
    let tier = match (f16 && subgroups.is_some(), matrix) {
        (true, Some(_)) => Tier::T2,
        (true, None) => Tier::T1,
        (false, _) => Tier::T0,
    };
    Caps {
        target: if browser { Target::Browser } else { Target::Native },
        class: match info.device_type {
            // Browsers name their software adapter and give it no type.
            _ if adapters::is_software(info) => DeviceClass::Software,
            wgpu::DeviceType::DiscreteGpu => DeviceClass::Discrete,
            wgpu::DeviceType::IntegratedGpu => DeviceClass::Integrated,
            _ => DeviceClass::Unknown,
        },
        tier,
        max_binding: limits.max_storage_buffer_binding_size,
        max_buffer: limits.max_buffer_size,
        max_storage_bindings: limits.max_storage_buffers_per_shader_stage,
        max_workgroups: limits.max_compute_workgroups_per_dimension,
        max_workgroup_memory: limits.max_compute_workgroup_storage_size,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        storage_alignment: limits.min_storage_buffer_offset_alignment,
        uniform_alignment: limits.min_uniform_buffer_offset_alignment,
        f16,
        subgroups,
        matrix,
        timestamps: has(wgpu::Features::TIMESTAMP_QUERY),
    }
}

/// Runs a creating call and turns what wgpu reports into an error. Natively the report is there at once; in a browser it comes later,
/// and only [`scoped_later`] can wait for it.
pub(super) fn scoped<T>(device: &wgpu::Device, what: &str, call: impl FnOnce() -> T) -> Result<T> {
    #[cfg(not(target_arch = "wasm32"))]
    {
        pollster::block_on(scoped_later(device, what, call))
    }
    #[cfg(target_arch = "wasm32")]
    {
        let _ = (device, what);
        Ok(call())
    }
}

/// As [`scoped`], waiting for the report.
pub(super) async fn scoped_later<T>(device: &wgpu::Device, what: &str, call: impl FnOnce() -> T) -> Result<T> {
    // Pushed and popped in one synchronous stretch: scopes belong to a thread.
    let (value, memory, validation, internal) = {
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let value = call();
        (value, memory.pop(), validation.pop(), internal.pop())
    };
    match memory.await.or(validation.await).or(internal.await) {
        Some(report) => Err(error(what, report)),
        None => Ok(value),
    }
}

fn error(what: &str, report: wgpu::Error) -> Error {
    match report {
        wgpu::Error::OutOfMemory { .. } => {
            Error::new(ErrorKind::OutOfMemory, format!("{what}: the device is out of memory"))
                .caused_by(report.to_string())
        }
        other => Error::new(ErrorKind::Device, format!("{what}: {other}")),
    }
}
