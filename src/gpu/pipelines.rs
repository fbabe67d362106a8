//! Pipelines by key. A key that failed stays failed: the error is cached too.

use super::context::{Gpu, scoped_later};
use super::disk::DiskCache;
use super::kernel_folder::{EDITED, KernelFolder};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Access, KernelKey};
use crate::shader;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A compiled kernel.
#[derive(Debug)]
pub struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    pub(super) label: String,
}

/// All pipelines of one device.
#[derive(Debug)]
pub struct Pipelines {
    ready: Mutex<HashMap<KernelKey, Result<Arc<Pipeline>>>>,
    disk: Option<DiskCache>,
    kernels: Option<KernelFolder>,
    checked: bool,
}

impl Pipelines {
    pub(super) fn new(gpu: &Gpu, options: &super::GpuOptions) -> Self {
        let disk = options.cache.as_deref().and_then(|folder| DiskCache::open(gpu, folder));
        let kernels = options.kernels.as_deref().map(KernelFolder::new);
        Pipelines { ready: Mutex::default(), disk, kernels, checked: options.checked }
    }

    /// The pipeline of a key if it was asked for before.
    pub(super) fn get(&self, key: &KernelKey) -> Option<Result<Arc<Pipeline>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// The pipeline of a key, compiled now if it was not yet.
    pub(super) async fn prepare(&self, gpu: &Gpu, key: &KernelKey) -> Result<Arc<Pipeline>> {
        if let Some(known) = self.get(key) {
            return known;
        }
        let made = self.compile(gpu, key).await.map(Arc::new);
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), made.clone());
        made
    }

    /// Distinct keys asked for so far.
    pub(super) fn len(&self) -> usize {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Writes what was compiled to the cache on disk, if there is one.
    pub(super) fn save(&self) -> Result<()> {
        self.disk.as_ref().map_or(Ok(()), DiskCache::save)
    }

    /// What the cache on disk found when it was opened.
    pub(super) fn notice(&self) -> Option<&str> {
        self.disk.as_ref().and_then(|disk| disk.notice.as_deref())
    }

    async fn compile(&self, gpu: &Gpu, key: &KernelKey) -> Result<Pipeline> {
        let bindings = key.bindings();
        if bindings.len() > gpu.caps.max_storage_bindings as usize {
            let message = format!(
                "{}: binds {} storage buffers; the device allows {} in one kernel",
                key.entry,
                bindings.len(),
                gpu.caps.max_storage_bindings
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let mut text = shader::compose(key)?;
        let mut label = key.label();
        if let Some(folder) = &self.kernels
            && let Some(edited) = folder.exchange(key.entry, &text)?
        {
            text = edited;
            label += EDITED;
        }
        scoped_later(&gpu.device, &label, || self.create(gpu, key, &bindings, &text, &label))
            .await
            .map_err(|e| if e.kind() == ErrorKind::Device { Error::new(ErrorKind::Shader, e.to_string()) } else { e })
    }

    fn create(&self, gpu: &Gpu, key: &KernelKey, bindings: &[(String, Access)], text: &str, label: &str) -> Pipeline {
        let buffer = |binding: usize, ty| wgpu::BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let mut entries = vec![buffer(0, wgpu::BufferBindingType::Uniform)];
        entries.extend(bindings.iter().enumerate().map(|(n, (_, access))| {
            buffer(n + 1, wgpu::BufferBindingType::Storage { read_only: *access == Access::Read })
        }));
        let device = &gpu.device;
        let layout =
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries: &entries });
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(text.into()) };
        let module = if self.checked {
            device.create_shader_module(descriptor)
        } else {
            let mut checks = wgpu::ShaderRuntimeChecks::unchecked();
            // WGSL defines x / 0; drivers do not. A user's hook may come to it.
            checks.int_div_checks = key.hooks.iter().any(|h| h.user && h.source.contains(['/', '%']));
            // SAFETY: kernels of ours index inside what the plan bound (list entries are compared with the lengths) and their loops end:
            // every bound is an argument or a length read once. A user's hook has no memory of its own, bounded indices and bounded loops.
            // Where the device has robust buffer access it holds besides.
            unsafe { device.create_shader_module_trusted(descriptor, checks) }
        };
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(label),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            })),
            module: &module,
            entry_point: Some("main"),
            // No kernel reads workgroup memory that it did not write.
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: self.checked,
                ..Default::default()
            },
            cache: self.disk.as_ref().map(|disk| &disk.cache),
        });
        Pipeline { pipeline, layout, label: label.to_owned() }
    }
}
