//! Running a plan: resolve bindings, launch each stage, encode, submit.

use super::choices::Choices;
use super::context::{Gpu, scoped};
use super::pipelines::{Pipeline, Pipelines};
use super::pool::Pool;
use super::resolve::{Dispatch, Work};
use super::self_test::Verdicts;
use super::{GpuOptions, readback};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::KernelKey;
use crate::plan::{Memory, Plan, SlotRole};
use crate::tensor::{BufferView, HostTensor, Inputs, Layout, Storage, Tensor};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Runs plans on one device.
#[derive(Clone, Debug)]
pub struct GpuEngine {
    pub(crate) gpu: Gpu,
    pub(super) pipelines: Arc<Pipelines>,
    pub(super) pool: Arc<Pool>,
    pub(super) verdicts: Arc<Mutex<Verdicts>>,
    pub(super) choices: Arc<Choices>,
}

/// A plan with its scratch memory, constants and bind groups on the device.
#[derive(Debug)]
pub struct GpuPlan {
    pub(super) scratch: Vec<BufferView>,
    pub(super) constants: HashMap<usize, BufferView>,
    pub(super) memory: Memory,
    groups: Mutex<Groups>,
}

/// What a dispatch binds: buffer, offset and size in bytes.
pub(super) type Bound = (wgpu::Buffer, u64, u64);

/// Bind groups by what they bind, and the argument buffer of `run`.
#[derive(Debug, Default)]
struct Groups {
    cache: HashMap<(usize, Vec<Bound>), wgpu::BindGroup>,
    args: Option<wgpu::Buffer>,
}

/// Cached bind groups keep their buffers alive, so there is a bound.
const MOST_GROUPS: usize = 256;

impl GpuPlan {
    /// For a plan without scratch memory and constants.
    pub(super) fn bare(plan: &Plan) -> Self {
        GpuPlan { scratch: Vec::new(), constants: HashMap::new(), memory: plan.memory(), groups: Mutex::default() }
    }
}

impl GpuEngine {
    /// Opens a device.
    ///
    /// # Errors
    /// [`ErrorKind::NoAdapter`], [`ErrorKind::Limit`].
    pub async fn open(options: &GpuOptions) -> Result<Self> {
        Ok(Self::with(Gpu::open(options).await?, options))
    }

    /// Uses a caller's device.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] when the device was requested with less than WebGPU's default limits.
    pub fn from_wgpu(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        adapter: Option<&wgpu::Adapter>,
        options: &GpuOptions,
    ) -> Result<Self> {
        Ok(Self::with(Gpu::wrap(device, queue, adapter, options)?, options))
    }

    fn with(gpu: Gpu, options: &GpuOptions) -> Self {
        let pool = Pool::new(&gpu.device, options.poison);
        let choices = Arc::new(Choices::open(&gpu, options.cache.as_deref()));
        GpuEngine { pipelines: Arc::new(Pipelines::new(&gpu, options)), gpu, pool, verdicts: Arc::default(), choices }
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The wgpu device and queue, to share with other code.
    pub fn device(&self) -> (&wgpu::Device, &wgpu::Queue) {
        (&self.gpu.device, &self.gpu.queue)
    }

    /// Bytes of buffers made, and of those that are free for reuse.
    pub fn held(&self) -> (u64, u64) {
        self.pool.held()
    }

    /// Pipelines compiled (or failed) so far.
    pub fn pipelines(&self) -> usize {
        self.pipelines.len()
    }

    /// Destroys free buffers.
    pub fn trim(&self) {
        self.pool.trim();
    }

    /// Writes the pipeline cache on disk, and what [`tune`](GpuEngine::tune) chose.
    ///
    /// # Errors
    /// [`ErrorKind::File`].
    pub fn save_pipelines(&self) -> Result<()> {
        self.pipelines.save()?;
        self.choices.save()
    }

    /// Why the pipeline cache on disk was not used, if it was not.
    pub fn notice(&self) -> Option<&str> {
        self.pipelines.notice()
    }

    /// A device copy of a host tensor.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`], [`ErrorKind::Limit`], [`ErrorKind::DeviceLost`].
    pub fn upload(&self, host: &HostTensor) -> Result<Tensor> {
        let host = host.contiguous();
        let view = self.upload_bytes(host.data().bytes(), "upload", true)?;
        Ok(Tensor { dtype: host.dtype(), layout: host.layout().clone(), storage: Storage::Device(view) })
    }

    /// Overwrites a device tensor that is contiguous.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`], [`ErrorKind::DType`] and [`ErrorKind::Unsupported`] when it can not be written so.
    pub fn write(&self, to: &Tensor, host: &HostTensor) -> Result<()> {
        self.gpu.check_lost()?;
        let Storage::Device(view) = &to.storage else {
            return Err(Error::new(ErrorKind::Unsupported, "write: the tensor is not on a device"));
        };
        if to.dtype != host.dtype() || to.shape() != host.shape() {
            let expected = format!("{} {:?}", to.dtype.name(), to.shape());
            let found = format!("{} {:?}", host.dtype().name(), host.shape());
            return Err(Error::expected(ErrorKind::Shape, "write", "data", expected, found));
        }
        let host = host.contiguous();
        let size = to.dtype.size();
        // Rows of the longest contiguous tail.
        let mut run = 1;
        let mut axis = to.shape().len();
        while axis > 0 && (to.layout.shape[axis - 1] == 1 || to.layout.strides[axis - 1] == run) {
            axis -= 1;
            run *= to.layout.shape[axis];
        }
        let outer = Layout {
            shape: to.layout.shape[..axis].to_vec(),
            strides: to.layout.strides[..axis].to_vec(),
            offset: to.layout.offset,
        };
        for (at, row) in outer.positions().zip(host.data().bytes().chunks(run * size)) {
            let offset = view.offset + (at * size) as u64;
            if !offset.is_multiple_of(4) || row.len() % 4 != 0 {
                let found = format!("{} bytes at byte {offset}", row.len());
                return Err(Error::expected(ErrorKind::Unsupported, "write", "row", "multiples of four bytes", found));
            }
            self.gpu.queue.write_buffer(&view.buffer, offset, row);
        }
        Ok(())
    }

    /// The elements of a tensor in host memory.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceLost`], [`ErrorKind::OutOfMemory`].
    pub async fn read(&self, tensor: &Tensor) -> Result<HostTensor> {
        match &tensor.storage {
            Storage::Host(data) => HostTensor::strided(tensor.layout.clone(), (**data).clone()),
            Storage::Device(view) => readback::read(&self.gpu, tensor, view).await,
        }
    }

    /// Waits until all submitted work is done (natively).
    ///
    /// # Errors
    /// [`ErrorKind::DeviceLost`].
    pub fn wait(&self) -> Result<()> {
        // Writes wait for the next submit: an empty one sends them off.
        self.gpu.queue.submit([]);
        readback::wait(&self.gpu)
    }

    /// A buffer from the pool, or one that never was in it.
    pub(super) fn buffer(&self, bytes: u64, what: &str, pooled: bool) -> Result<BufferView> {
        if pooled {
            return self.pool.take(&self.gpu.queue, bytes, what);
        }
        let size = bytes.next_multiple_of(16);
        Ok(BufferView { buffer: super::pool::create(&self.gpu.device, size, what)?, offset: 0, size, _lease: None })
    }

    pub(super) fn upload_bytes(&self, bytes: &[u8], what: &str, pooled: bool) -> Result<BufferView> {
        self.gpu.check_lost()?;
        let view = self.buffer(bytes.len() as u64, what, pooled)?;
        let whole = bytes.len() & !3;
        self.gpu.queue.write_buffer(&view.buffer, 0, &bytes[..whole]);
        if whole < bytes.len() {
            let mut word = [0; 4];
            word[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            self.gpu.queue.write_buffer(&view.buffer, whole as u64, &word);
        }
        Ok(view)
    }

    /// The plan, or its portable form where the device does not serve a stage that only matrices serve, or fails its self-test.
    ///
    /// # Errors
    /// As [`GpuEngine::prepare`].
    pub async fn proven(&self, mut plan: Plan) -> Result<Plan> {
        let Some(portable) = plan.portable.take() else { return Ok(plan) };
        let layouts: Vec<Layout> = plan.slots.iter().map(|s| s.layout.clone()).collect();
        for (n, stage) in plan.stages.iter().enumerate().filter(|(_, stage)| stage.op.needs_matrices()) {
            let (kernel, io) = (stage.op.kernel(), plan.io(n, &layouts));
            if self.test_matrix(kernel, &io).await.is_err() || self.launch(kernel, &io).is_err() {
                return Ok(*portable);
            }
        }
        Ok(plan)
    }

    /// Allocates a plan's scratch memory and compiles its kernels.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`], [`ErrorKind::OutOfMemory`], [`ErrorKind::Shader`], [`ErrorKind::DeviceLost`].
    pub async fn prepare(&self, plan: &Plan) -> Result<GpuPlan> {
        self.gpu.check_lost()?;
        let GpuPlan { scratch, mut constants, memory, .. } = self.scratch(plan)?;
        for (n, slot) in plan.slots.iter().enumerate() {
            if let SlotRole::Constant(data) = &slot.role {
                constants.insert(n, self.upload_bytes(data.data().bytes(), &slot.name, true)?);
            }
        }
        let layouts: Vec<Layout> = plan.slots.iter().map(|s| s.layout.clone()).collect();
        for n in 0..plan.stages.len() {
            // Only offsets differ between this and a run: they come from how the caller's buffers are aligned.
            let (kernel, io) = (plan.stages[n].op.kernel(), plan.io(n, &layouts));
            self.test_matrix(kernel, &io).await?;
            let launch = self.launch(kernel, &io)?;
            self.pipelines.prepare(&self.gpu, &launch.key).await?;
        }
        Ok(GpuPlan { scratch, constants, memory, groups: Mutex::default() })
    }

    /// A plan with its scratch memory only.
    pub(super) fn scratch(&self, plan: &Plan) -> Result<GpuPlan> {
        let memory = plan.memory();
        let take = |&bytes: &u64| self.pool.take(&self.gpu.queue, bytes, "scratch");
        let scratch = memory.blocks.iter().map(take).collect::<Result<_>>()?;
        Ok(GpuPlan { scratch, constants: HashMap::new(), memory, groups: Mutex::default() })
    }

    /// Runs a prepared plan; outputs in the order of the plan, on the device.
    ///
    /// # Errors
    /// As [`Plan::layouts`]; [`ErrorKind::Limit`], [`ErrorKind::OutOfMemory`], [`ErrorKind::DeviceLost`].
    pub fn run(&self, plan: &Plan, prepared: &GpuPlan, inputs: &Inputs) -> Result<Vec<(String, Tensor)>> {
        let Work { dispatches, outputs, held } = self.dispatches(plan, prepared, inputs, true)?;
        let mut groups = prepared.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let args = self.args_of_run(&dispatches, &mut groups)?;
        let binds = self.bind(&dispatches, &args, Some(&mut groups.cache))?;
        let mut start = 0;
        while start < dispatches.len() {
            // As many dispatches as the work bound of one submit allows, one at least.
            let mut work = dispatches[start].flops;
            let mut end = start + 1;
            while end < dispatches.len() && work + dispatches[end].flops <= self.gpu.submit_flops {
                work += dispatches[end].flops;
                end += 1;
            }
            let mut encoder =
                self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(plan.variant) });
            pass(&mut encoder, plan.variant, &dispatches[start..end], &binds[start..end]);
            self.gpu.queue.submit([encoder.finish()]);
            start = end;
        }
        // Only now may another call take what this one used.
        drop(held);
        Ok(outputs)
    }

    /// Encodes a prepared plan into the caller's encoder; nothing is submitted.
    ///
    /// # Errors
    /// As [`run`](GpuEngine::run).
    pub fn encode(
        &self,
        plan: &Plan,
        prepared: &GpuPlan,
        inputs: &Inputs,
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<Vec<(String, Tensor)>> {
        let Work { dispatches, outputs, .. } = self.dispatches(plan, prepared, inputs, false)?;
        // The caller submits at a time of his own, so these arguments are shared with no other call.
        let args = self.new_args(&dispatches, true)?;
        let binds = self.bind(&dispatches, &args, None)?;
        pass(encoder, plan.variant, &dispatches, &binds);
        Ok(outputs)
    }

    pub(super) fn compile_now(&self, key: &KernelKey) -> Result<Arc<Pipeline>> {
        #[cfg(not(target_arch = "wasm32"))]
        {
            pollster::block_on(self.pipelines.prepare(&self.gpu, key))
        }
        #[cfg(target_arch = "wasm32")]
        {
            let message = format!(
                "{}: these buffers are aligned unlike those the plan was prepared with; prepare it with them",
                key.label()
            );
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }

    fn args_of_run(&self, dispatches: &[Dispatch], groups: &mut Groups) -> Result<wgpu::Buffer> {
        let bytes = self.args_bytes(dispatches);
        let buffer = match groups.args.take().filter(|b| b.size() >= bytes.len() as u64) {
            Some(buffer) => buffer,
            None => self.new_args(dispatches, false)?,
        };
        // Takes effect in order with the submits, so that an earlier run still reads its own.
        self.gpu.queue.write_buffer(&buffer, 0, &bytes);
        groups.args = Some(buffer.clone());
        Ok(buffer)
    }

    fn args_stride(&self, dispatches: &[Dispatch]) -> usize {
        let longest = dispatches.iter().map(|d| d.args.len() * 4).max().unwrap_or(4);
        longest.next_multiple_of(self.gpu.caps.uniform_alignment.max(16) as usize)
    }

    fn args_bytes(&self, dispatches: &[Dispatch]) -> Vec<u8> {
        let stride = self.args_stride(dispatches);
        let mut bytes = vec![0; stride * dispatches.len().max(1)];
        for (dispatch, to) in dispatches.iter().zip(bytes.chunks_exact_mut(stride)) {
            let words: &[u8] = bytemuck::cast_slice(&dispatch.args);
            to[..words.len()].copy_from_slice(words);
        }
        bytes
    }

    pub(super) fn new_args(&self, dispatches: &[Dispatch], fill: bool) -> Result<wgpu::Buffer> {
        let bytes = self.args_bytes(dispatches);
        let buffer = scoped(&self.gpu.device, "arguments", || {
            self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("arguments"),
                size: bytes.len() as u64,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        if fill {
            self.gpu.queue.write_buffer(&buffer, 0, &bytes);
        }
        Ok(buffer)
    }

    pub(super) fn bind(
        &self,
        dispatches: &[Dispatch],
        args: &wgpu::Buffer,
        mut cache: Option<&mut HashMap<(usize, Vec<Bound>), wgpu::BindGroup>>,
    ) -> Result<Vec<wgpu::BindGroup>> {
        let stride = self.args_stride(dispatches) as u64;
        let mut list = Vec::with_capacity(dispatches.len());
        for (n, dispatch) in dispatches.iter().enumerate() {
            let size = (dispatch.args.len() * 4).next_multiple_of(16) as u64;
            let mut key = vec![(args.clone(), n as u64 * stride, size)];
            key.extend(dispatch.bound.iter().cloned());
            if let Some(group) = cache.as_ref().and_then(|c| c.get(&(n, key.clone()))) {
                list.push(group.clone());
                continue;
            }
            let entries: Vec<_> = key
                .iter()
                .enumerate()
                .map(|(binding, (buffer, offset, size))| wgpu::BindGroupEntry {
                    binding: binding as u32,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset: *offset,
                        size: std::num::NonZeroU64::new(*size),
                    }),
                })
                .collect();
            let group = scoped(&self.gpu.device, &dispatch.pipeline.label, || {
                self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(&dispatch.pipeline.label),
                    layout: &dispatch.pipeline.layout,
                    entries: &entries,
                })
            })?;
            if let Some(cache) = cache.as_deref_mut() {
                if cache.len() >= MOST_GROUPS {
                    cache.clear();
                }
                cache.insert((n, key), group.clone());
            }
            list.push(group);
        }
        Ok(list)
    }
}

fn pass(encoder: &mut wgpu::CommandEncoder, label: &str, dispatches: &[Dispatch], binds: &[wgpu::BindGroup]) {
    let mut start = 0;
    while start < dispatches.len() {
        let first = start;
        copy(encoder, &dispatches[first]);
        // A pass ends where the next dispatch has tables to gather: what it gathers may just have been computed.
        let mut pass =
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes: None });
        for (n, (dispatch, group)) in dispatches.iter().zip(binds).enumerate().skip(first) {
            if n > first && !dispatch.copies.is_empty() {
                break;
            }
            pass.set_pipeline(&dispatch.pipeline.pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(dispatch.grid.0, dispatch.grid.1, 1);
            start = n + 1;
        }
    }
}

/// Gathers the tables of a dispatch.
pub(super) fn copy(encoder: &mut wgpu::CommandEncoder, dispatch: &Dispatch) {
    for (buffer, offset, to, at, size) in &dispatch.copies {
        encoder.copy_buffer_to_buffer(buffer, *offset, to, *at, *size);
    }
}
