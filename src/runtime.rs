//! `Runtime`: chooses an engine, plans, prepares, runs, reads.

use crate::caps::{Caps, Target};
use crate::cpu::CpuEngine;
use crate::error::{Error, ErrorKind, Result};
use crate::gpu::{GpuEngine, GpuOptions, GpuPlan, Timing, Tuned};
use crate::kernel::attend::{Visits, of_kernel, of_twin, tile_of};
use crate::plan::{Plan, PlanBuilder};
use crate::problem::{Problem, Spec};
use crate::state::State;
use crate::tensor::{HostTensor, Inputs, Storage, Tensor};
use crate::variant::Variant;
use std::fmt;

/// Pieces of a call that keep the cores of a CPU busy: more only cost their merges. Not the number of threads, so that results do not
/// depend on it.
const CPU_PIECES: usize = 16;

/// An engine and what surrounds it: the one thing a user makes.
///
/// ```
/// use wgpu_attention::{HostTensor, Inputs, Runtime, variants::dense::DenseAttention};
/// # fn main() -> wgpu_attention::Result<()> {
/// let runtime = Runtime::cpu(); // or `Runtime::new_blocking()` for the best GPU
/// let q = HostTensor::from_fn(&[1, 2, 3, 4], |i| i as f32 * 0.01);
/// let inputs = Inputs::new().with("q", &q).with("k", &q).with("v", &q);
/// let outputs = runtime.call_blocking(&DenseAttention::default(), &inputs)?;
/// assert_eq!(outputs.get("out")?.shape(), [1, 2, 3, 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Runtime {
    engine: Engine,
    notice: Option<String>,
}

/// What runs plans.
#[derive(Clone, Debug)]
pub enum Engine {
    /// Shaders on a device.
    Gpu(Box<GpuEngine>),
    /// Twins on the CPU.
    Cpu(CpuEngine),
}

/// A plan made ready for one runtime: kernels compiled, scratch memory allocated.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    gpu: Option<GpuPlan>,
}

impl Prepared {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

/// Named results in the order of the plan.
#[derive(Clone, Debug)]
pub struct Outputs<T = Tensor> {
    variant: &'static str,
    list: Vec<(String, T)>,
}

impl<T> Outputs<T> {
    /// The result called `name`.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownName`].
    pub fn get(&self, name: &str) -> Result<&T> {
        self.list.iter().find(|(n, _)| n == name).map(|(_, t)| t).ok_or_else(|| {
            let known: Vec<_> = self.list.iter().map(|(n, _)| n.as_str()).collect();
            let message = format!("{}: no output is called `{name}`; it has {}", self.variant, known.join(", "));
            Error::new(ErrorKind::UnknownName, message)
        })
    }

    /// Names and results.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.list.iter().map(|(n, t)| (n.as_str(), t))
    }
}

/// Bytes that a runtime holds on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryReport {
    /// All buffers made and not destroyed: tensors, scratch, and free ones.
    pub held: u64,
    /// Those that wait for reuse; [`Runtime::trim`] destroys them.
    pub free: u64,
    /// Compiled kernels.
    pub pipelines: usize,
}

impl Runtime {
    /// The best real GPU, else the CPU engine; [`describe`](Runtime::describe) tells which, [`notice`](Runtime::notice) why.
    pub async fn new() -> Self {
        match Self::gpu(&GpuOptions::default()).await {
            Ok(runtime) => runtime,
            Err(error) => {
                Runtime { engine: Engine::Cpu(CpuEngine), notice: Some(format!("running on the CPU: {error}")) }
            }
        }
    }

    /// The CPU engine.
    pub fn cpu() -> Self {
        Runtime { engine: Engine::Cpu(CpuEngine), notice: None }
    }

    /// A GPU by the options; no fallback.
    ///
    /// # Errors
    /// [`ErrorKind::NoAdapter`], [`ErrorKind::Limit`].
    pub async fn gpu(options: &GpuOptions) -> Result<Self> {
        let engine = GpuEngine::open(options).await?;
        let notice = engine.notice().map(str::to_owned);
        Ok(Runtime { engine: Engine::Gpu(Box::new(engine)), notice })
    }

    /// A caller's device. The adapter is only asked for cooperative matrix shapes. No callback is installed on the device.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] when the device was requested with less than WebGPU's default limits.
    pub fn from_wgpu(device: &wgpu::Device, queue: &wgpu::Queue, adapter: Option<&wgpu::Adapter>) -> Result<Self> {
        let engine = GpuEngine::from_wgpu(device, queue, adapter, &GpuOptions::default())?;
        Ok(Runtime { engine: Engine::Gpu(Box::new(engine)), notice: None })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Engine and adapter in a line.
    pub fn describe(&self) -> String {
        match &self.engine {
            Engine::Gpu(engine) => format!("GPU engine, {}", engine.gpu().describe()),
            Engine::Cpu(engine) => engine.describe(),
        }
    }

    /// What the user should know of how the runtime was made: a fallback, an ignored cache file.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// Limits and abilities; the portable ones on the CPU.
    pub fn caps(&self) -> Caps {
        match &self.engine {
            Engine::Gpu(engine) => engine.gpu().caps().clone(),
            Engine::Cpu(_) => Caps::portable(Target::Native),
        }
    }

    /// The plan of a variant for these inputs.
    ///
    /// # Errors
    /// As [`Problem::new`] and the variant's own checks.
    pub fn plan(&self, variant: &dyn Variant, inputs: &Inputs) -> Result<Plan> {
        self.planned(variant, inputs).map(|(plan, _)| plan)
    }

    fn planned(&self, variant: &dyn Variant, inputs: &Inputs) -> Result<(Plan, Problem)> {
        let specs = inputs.iter().map(|(name, t)| (name, Spec { dtype: t.dtype(), shape: t.shape().to_vec() }));
        let problem = Problem::new(variant, specs)?;
        let mut plan = self.plan_for(variant, &problem)?;
        let portable = plan.portable.iter_mut().flat_map(|plan| plan.slots.iter_mut());
        for slot in plan.slots.iter_mut().chain(portable).filter(|s| s.role == crate::plan::SlotRole::Input) {
            if let Some(tensor) = inputs.get(&slot.name) {
                slot.layout = tensor.layout().clone();
            }
        }
        // Values are checked as early as they are known.
        plan.layouts(inputs)?;
        Ok((plan, problem))
    }

    /// The plan of a variant for these sizes, row-major, as this runtime would run it.
    ///
    /// # Errors
    /// The variant's own checks.
    pub fn plan_for(&self, variant: &dyn Variant, problem: &Problem) -> Result<Plan> {
        let write = |builder: PlanBuilder| {
            let mut builder = builder;
            variant.plan(problem, &mut builder)?;
            builder.finish()
        };
        let builder = PlanBuilder::new(problem);
        match &self.engine {
            Engine::Cpu(_) => write(builder.filled_by(CPU_PIECES)),
            Engine::Gpu(_) => {
                let mut plan = write(builder.on(&self.caps()))?;
                if plan.stages.iter().any(|stage| stage.op.needs_matrices()) {
                    plan.portable = Some(Box::new(write(PlanBuilder::new(problem))?));
                }
                Ok(plan)
            }
        }
    }

    /// Makes a plan ready: compiles its kernels, allocates its scratch memory.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`], [`ErrorKind::OutOfMemory`], [`ErrorKind::Shader`], [`ErrorKind::DeviceLost`].
    pub async fn prepare(&self, plan: Plan) -> Result<Prepared> {
        match &self.engine {
            Engine::Gpu(engine) => {
                let plan = engine.proven(plan).await?;
                let gpu = Some(engine.prepare(&plan).await?);
                Ok(Prepared { plan, gpu })
            }
            Engine::Cpu(_) => Ok(Prepared { plan, gpu: None }),
        }
    }

    /// Runs a prepared plan. On a GPU this submits and returns at once; the outputs stay on the device.
    ///
    /// # Errors
    /// When the inputs are not like those the plan was made for, or the device refuses.
    pub fn run(&self, prepared: &Prepared, inputs: &Inputs) -> Result<Outputs> {
        let list = match (&self.engine, &prepared.gpu) {
            (Engine::Gpu(engine), Some(gpu)) => engine.run(&prepared.plan, gpu, inputs)?,
            (Engine::Cpu(engine), _) => engine.run(&prepared.plan, inputs)?,
            (Engine::Gpu(_), None) => return Err(self.foreign(prepared)),
        };
        Ok(Outputs { variant: prepared.plan.variant, list })
    }

    /// Encodes a prepared plan into the caller's encoder; nothing is submitted.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] on the CPU engine, else as [`run`](Runtime::run).
    pub fn encode(&self, prepared: &Prepared, inputs: &Inputs, encoder: &mut wgpu::CommandEncoder) -> Result<Outputs> {
        match (&self.engine, &prepared.gpu) {
            (Engine::Gpu(engine), Some(gpu)) => {
                let list = engine.encode(&prepared.plan, gpu, inputs, encoder)?;
                Ok(Outputs { variant: prepared.plan.variant, list })
            }
            _ => Err(self.foreign(prepared)),
        }
    }

    /// Device time in milliseconds of each stage, the mean over `repeat` runs in one submit. With several sets of inputs each run takes
    /// the next one, so that small inputs are not found in a cache.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] on the CPU engine and without timestamp queries; [`ErrorKind::MissingInput`] without a set.
    pub async fn time(&self, prepared: &Prepared, sets: &[Inputs], repeat: usize) -> Result<Vec<Timing>> {
        match (&self.engine, &prepared.gpu) {
            (Engine::Gpu(engine), Some(gpu)) => engine.time(&prepared.plan, gpu, sets, repeat).await,
            _ => Err(self.foreign(prepared)),
        }
    }

    /// The tiles of queries and keys that the attention of this engine visits in a call, each with the number of its stage. Bounds, lists and
    /// masks are read from `inputs`, which lie on the host. `None` where a stage reads what an earlier one computes (but for key ranges of
    /// packed rows and block maps), and where the kernel has no loop of tiles (a decode step, keys listed for every row).
    ///
    /// # Errors
    /// As [`run`](Runtime::run), of masks.
    pub fn visits(&self, plan: &Plan, inputs: &Inputs) -> Result<Vec<(usize, Option<Visits>)>> {
        match &self.engine {
            Engine::Cpu(_) => crate::cpu::count(plan, inputs, &|_, op, io| of_twin(op, io).map(Some)),
            Engine::Gpu(engine) => crate::cpu::count(plan, inputs, &|n, op, io| match tile_of(&engine.key(plan, n)?) {
                Some(tile) => of_kernel(op, io, tile),
                None => Ok(None),
            }),
        }
    }

    /// Measures, on this device and with these inputs, every kernel and tile that the plan of a variant could use, and takes the fastest
    /// for this and later plans of the same kernels and sizes (a factor of two apart at most). With a folder in [`GpuOptions::cache`] the
    /// choices are kept there beside the pipelines and found by later runs. Nothing is measured without this call. It takes seconds: every
    /// candidate is compiled. Several sets of inputs are used in turn, so that small ones are not found in a cache.
    ///
    /// The CPU engine has one kernel for each operation: the list is empty.
    ///
    /// # Errors
    /// As [`plan`](Runtime::plan); [`ErrorKind::Unsupported`] without timestamp queries, [`ErrorKind::MissingInput`] without a set,
    /// [`ErrorKind::File`] when the choices can not be written.
    pub async fn tune(&self, variant: &dyn Variant, sets: &[Inputs]) -> Result<Vec<Tuned>> {
        let Some(first) = sets.first() else {
            return Err(Error::new(ErrorKind::MissingInput, "tune: no set of inputs"));
        };
        let plan = self.plan(variant, first)?;
        match &self.engine {
            Engine::Gpu(engine) => engine.tune(&engine.proven(plan).await?, sets).await,
            Engine::Cpu(_) => Ok(Vec::new()),
        }
    }

    /// The elements of a tensor in host memory, row-major.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceLost`], [`ErrorKind::OutOfMemory`].
    pub async fn read(&self, tensor: &Tensor) -> Result<HostTensor> {
        match (&self.engine, tensor.host()) {
            (_, Some(host)) => Ok(host.contiguous()),
            (Engine::Gpu(engine), None) => engine.read(tensor).await,
            (Engine::Cpu(_), None) => {
                Err(Error::new(ErrorKind::Unsupported, "read: the tensor is on a device and this runtime has none"))
            }
        }
    }

    /// A tensor where this runtime computes: a device copy on a GPU, the same memory on the CPU.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`], [`ErrorKind::Limit`], [`ErrorKind::DeviceLost`].
    pub fn upload(&self, host: &HostTensor) -> Result<Tensor> {
        match &self.engine {
            Engine::Gpu(engine) => engine.upload(host),
            Engine::Cpu(_) => Ok(host.into()),
        }
    }

    /// Overwrites `host.shape()[axis]` elements of `axis` from `start`: how a cache grows. Nothing is allocated on a GPU; on the CPU the
    /// memory is copied first when another tensor shares it.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] when sizes do not fit, [`ErrorKind::Unsupported`] when rows on a device are not whole words.
    pub fn write(&self, to: &mut Tensor, axis: usize, start: usize, host: &HostTensor) -> Result<()> {
        let rank = host.shape().len();
        if axis >= rank || rank != to.shape().len() || start + host.shape()[axis] > to.shape()[axis] {
            let expected = format!("a part of {:?} along axis {axis} from {start}", to.shape());
            return Err(Error::expected(ErrorKind::Shape, "write", "data", expected, format!("{:?}", host.shape())));
        }
        let layout = to.layout.narrow(axis, start, host.shape()[axis]);
        match (&self.engine, &mut to.storage) {
            (Engine::Gpu(engine), Storage::Device(_)) => engine.write(&Tensor { layout, ..to.clone() }, host),
            (_, Storage::Host(data)) => write_host(std::sync::Arc::make_mut(data), &layout, host),
            (Engine::Cpu(_), Storage::Device(_)) => {
                Err(Error::new(ErrorKind::Unsupported, "write: the tensor is on a device and this runtime has none"))
            }
        }
    }

    /// Plans, prepares, runs and reads: the short way for one call.
    ///
    /// # Errors
    /// As the four of them.
    pub async fn call(&self, variant: &dyn Variant, inputs: &Inputs) -> Result<Outputs<HostTensor>> {
        let prepared = self.prepare(self.plan(variant, inputs)?).await?;
        let outputs = self.run(&prepared, inputs)?;
        let mut list = Vec::new();
        for (name, tensor) in outputs.iter() {
            list.push((name.to_owned(), self.read(tensor).await?));
        }
        Ok(Outputs { variant: outputs.variant, list })
    }

    /// Runs the next tokens of a stream and moves its state on; outputs stay where this runtime computes. The tokens are planned and
    /// prepared for their number: a loop that allocates nothing prepares once, feeds its state ([`State::feed`]) and takes the new one
    /// ([`State::advance`]) itself.
    ///
    /// # Errors
    /// As [`plan`](Runtime::plan), [`prepare`](Runtime::prepare) and [`run`](Runtime::run); [`ErrorKind::Parameter`] as
    /// [`State::feed`] and [`State::advance`].
    pub async fn step(&self, variant: &dyn Variant, state: &mut State, inputs: &Inputs) -> Result<Outputs> {
        let inputs = state.feed(variant, inputs)?;
        let here = variant.after(state.position());
        let (plan, problem) = self.planned(here.as_deref().unwrap_or(variant), &inputs)?;
        let tokens = problem.size(crate::state::tokens(variant.card()));
        let outputs = self.run(&self.prepare(plan).await?, &inputs)?;
        state.advance(variant, &outputs, tokens)?;
        Ok(outputs)
    }

    /// Waits until all submitted work is done; a browser can not wait, and returns at once.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceLost`].
    pub fn wait(&self) -> Result<()> {
        match &self.engine {
            Engine::Gpu(engine) => engine.wait(),
            Engine::Cpu(_) => Ok(()),
        }
    }

    /// Bytes held on the device; zeros on the CPU, which holds nothing between runs.
    pub fn memory(&self) -> MemoryReport {
        match &self.engine {
            Engine::Gpu(engine) => {
                let (held, free) = engine.held();
                MemoryReport { held, free, pipelines: engine.pipelines() }
            }
            Engine::Cpu(_) => MemoryReport { held: 0, free: 0, pipelines: 0 },
        }
    }

    /// Destroys device buffers that wait for reuse.
    pub fn trim(&self) {
        if let Engine::Gpu(engine) = &self.engine {
            engine.trim();
        }
    }

    /// Writes the pipeline cache and what [`tune`](Runtime::tune) chose to the folder given in [`GpuOptions::cache`]; nothing without one.
    ///
    /// # Errors
    /// [`ErrorKind::File`].
    pub fn save_pipelines(&self) -> Result<()> {
        match &self.engine {
            Engine::Gpu(engine) => engine.save_pipelines(),
            Engine::Cpu(_) => Ok(()),
        }
    }

    fn foreign(&self, prepared: &Prepared) -> Error {
        let message = format!("{}: the plan was not prepared for a GPU ({})", prepared.plan.variant, self.describe());
        Error::new(ErrorKind::Unsupported, message)
    }
}

/// The blocking forms, where blocking is allowed.
#[cfg(not(target_arch = "wasm32"))]
impl Runtime {
    /// [`Runtime::new`], waiting.
    pub fn new_blocking() -> Self {
        pollster::block_on(Self::new())
    }

    /// [`Runtime::gpu`], waiting.
    ///
    /// # Errors
    /// As [`Runtime::gpu`].
    pub fn gpu_blocking(options: &GpuOptions) -> Result<Self> {
        pollster::block_on(Self::gpu(options))
    }

    /// [`Runtime::prepare`], waiting.
    ///
    /// # Errors
    /// As [`Runtime::prepare`].
    pub fn prepare_blocking(&self, plan: Plan) -> Result<Prepared> {
        pollster::block_on(self.prepare(plan))
    }

    /// [`Runtime::read`], waiting.
    ///
    /// # Errors
    /// As [`Runtime::read`].
    pub fn read_blocking(&self, tensor: &Tensor) -> Result<HostTensor> {
        pollster::block_on(self.read(tensor))
    }

    /// [`Runtime::call`], waiting.
    ///
    /// # Errors
    /// As [`Runtime::call`].
    pub fn call_blocking(&self, variant: &dyn Variant, inputs: &Inputs) -> Result<Outputs<HostTensor>> {
        pollster::block_on(self.call(variant, inputs))
    }

    /// [`Runtime::step`], waiting.
    ///
    /// # Errors
    /// As [`Runtime::step`].
    pub fn step_blocking(&self, variant: &dyn Variant, state: &mut State, inputs: &Inputs) -> Result<Outputs> {
        pollster::block_on(self.step(variant, state, inputs))
    }

    /// [`Runtime::tune`], waiting.
    ///
    /// # Errors
    /// As [`Runtime::tune`].
    pub fn tune_blocking(&self, variant: &dyn Variant, sets: &[Inputs]) -> Result<Vec<Tuned>> {
        pollster::block_on(self.tune(variant, sets))
    }

    /// [`Runtime::time`], waiting.
    ///
    /// # Errors
    /// As [`Runtime::time`].
    pub fn time_blocking(&self, prepared: &Prepared, sets: &[Inputs], repeat: usize) -> Result<Vec<Timing>> {
        pollster::block_on(self.time(prepared, sets, repeat))
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

/// The plan of a variant for a problem on a large device: what [`Runtime::plan_for`] makes for a GPU.
///
/// # Errors
/// The variant's own checks.
pub fn plan(variant: &dyn Variant, problem: &Problem) -> Result<Plan> {
    let mut builder = PlanBuilder::new(problem);
    variant.plan(problem, &mut builder)?;
    builder.finish()
}

fn write_host(data: &mut crate::tensor::HostData, layout: &crate::tensor::Layout, host: &HostTensor) -> Result<()> {
    use crate::tensor::HostData;
    if layout.shape != host.shape() {
        let (want, found) = (format!("{:?}", layout.shape), format!("{:?}", host.shape()));
        return Err(Error::expected(ErrorKind::Shape, "write", "data", want, found));
    }
    let from = host.layout().positions();
    match (data, host.data()) {
        (HostData::F32(to), HostData::F32(v)) => layout.positions().zip(from).for_each(|(t, f)| to[t] = v[f]),
        (HostData::F16(to), HostData::F16(v)) => layout.positions().zip(from).for_each(|(t, f)| to[t] = v[f]),
        (HostData::I32(to), HostData::I32(v)) => layout.positions().zip(from).for_each(|(t, f)| to[t] = v[f]),
        (HostData::U8(to), HostData::U8(v)) => layout.positions().zip(from).for_each(|(t, f)| to[t] = v[f]),
        (to, from) => {
            return Err(Error::expected(ErrorKind::DType, "write", "data", to.dtype().name(), from.dtype().name()));
        }
    }
    Ok(())
}
