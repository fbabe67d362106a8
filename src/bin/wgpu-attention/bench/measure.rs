//! One workload from its sizes to a row.

use super::ceilings::Clock;
use super::check::{self, Checked, Reference};
use super::report::Row;
use super::timing::{self, Budget};
use super::workload::{self, Cut, Group, Job, Workload};
use wgpu_attention::caps::Tier;
use wgpu_attention::kernel::attend::Visits;
use wgpu_attention::plan::{Plan, SlotRole};
use wgpu_attention::{Engine, Error, ErrorKind, HostTensor, Inputs, Prepared, Problem, Result, Runtime, Spec};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A real GPU.
    Gpu,
    /// An adapter that computes on the CPU.
    Software,
    /// The CPU engine.
    Cpu,
}

impl Kind {
    /// The workloads measured when none is named.
    pub fn group(self) -> Group {
        match self {
            Kind::Gpu => Group::Gpu,
            Kind::Software => Group::Software,
            Kind::Cpu => Group::Cpu,
        }
    }
}

/// An engine to measure.
#[derive(Debug)]
pub struct Target {
    /// Engine and adapter in a line.
    pub name: String,
    /// The engine.
    pub runtime: Runtime,
    /// What it is.
    pub kind: Kind,
    /// Tells when a GPU runs at full speed.
    pub clock: Option<Clock>,
    /// Whether shaders have bounds checks.
    pub checked: bool,
    /// Whether the fastest kernel of each workload is found first.
    pub tune: bool,
    /// Seconds for a workload.
    pub seconds: f64,
}

/// Inputs below this many bytes could stay in a large GPU's cache, so that several sets take turns.
const CACHED: u64 = 180_000_000;
const MOST_SETS: u64 = 12;

/// Plans, checks and times a workload.
pub fn measure(target: &Target, workload: &Workload) -> Result<Row> {
    let job = &workload.job;
    let runtime = &target.runtime;
    let variant = job.make()?;
    let specs = job.inputs.iter().map(|i| (i.name, Spec { dtype: i.dtype, shape: i.shape.clone() }));
    let plan = runtime.plan_for(&*variant, &Problem::new(&*variant, specs)?)?;
    let outside = plan.slots.iter().filter(|s| matches!(s.role, SlotRole::Input | SlotRole::Output));
    let bytes: u64 = outside.map(|s| (s.layout.len() * s.dtype.size()) as u64).sum();
    check::fits_host(bytes)?;
    fits_device(target, &plan)?;
    let sets = match target.kind {
        Kind::Gpu if job.bytes() < CACHED => CACHED.div_ceil(job.bytes()).clamp(3, MOST_SETS) as usize,
        _ => 1,
    };
    let mut given: Vec<Inputs> = Vec::new();
    let mut first = Vec::new();
    for set in 0..sets {
        let tensors = job.tensors(set)?;
        let uploaded = tensors
            .iter()
            .try_fold(Inputs::new(), |all, (name, t)| Ok::<_, Error>(all.with(name, runtime.upload(t)?)))?;
        given.push(uploaded);
        if set == 0 {
            first = tensors;
        }
    }
    let tuned = if target.tune { runtime.tune_blocking(&*variant, &given)? } else { Vec::new() };
    let prepared = runtime.prepare_blocking(plan)?;
    let (kernel, matrix) = kernels(target, prepared.plan())?;
    let checked = checked(target, job, &prepared, &given[0], &first)?;
    let visits = visits(target, prepared.plan(), &first)?;
    drop(first);
    let timed = if checked.passed() {
        Some(timing::measure(runtime, &prepared, &given, Budget { seconds: target.seconds }, target.clock.as_ref())?)
    } else {
        None
    };
    Ok(Row {
        workload: workload.clone(),
        kernel,
        matrix,
        bytes: bytes as f64,
        checked,
        visits,
        over_ideal: None,
        tuned,
        timed,
    })
}

/// Refuses what the device can not bind before gigabytes of random numbers are made for it.
fn fits_device(target: &Target, plan: &Plan) -> Result<()> {
    if target.kind == Kind::Cpu {
        return Ok(());
    }
    let limit = target.runtime.caps().max_binding;
    for slot in &plan.slots {
        let bytes = (slot.layout.len() * slot.dtype.size()) as u64;
        if bytes > limit {
            let text = format!(
                "`{}` takes {bytes} bytes, over the device's max_storage_buffer_binding_size of {limit} bytes",
                slot.name
            );
            return Err(Error::new(ErrorKind::Limit, text));
        }
    }
    Ok(())
}

/// The kernels that a prepared plan runs, and whether one of them uses cooperative matrices.
fn kernels(target: &Target, plan: &Plan) -> Result<(String, bool)> {
    let mut list: Vec<String> = Vec::new();
    let mut matrix = false;
    for (n, stage) in plan.stages.iter().enumerate() {
        match target.runtime.engine() {
            Engine::Cpu(_) => list.push(format!("{} (CPU twin)", stage.op.kernel().name())),
            Engine::Gpu(engine) => {
                let key = engine.key(plan, n)?;
                matrix |= key.tier == Tier::T2;
                list.push(key.label());
            }
        }
    }
    list.dedup();
    Ok((list.join("; "), matrix))
}

/// The tiles that the plan's attention visits, where all of its stages can tell.
fn visits(target: &Target, plan: &Plan, tensors: &[(String, HostTensor)]) -> Result<Option<Visits>> {
    let stages = target.runtime.visits(plan, &workload::inputs(tensors))?;
    let all: Option<Vec<Visits>> = stages.into_iter().map(|(_, visits)| visits).collect();
    Ok(all.unwrap_or_default().into_iter().reduce(|a, b| Visits {
        visited: a.visited + b.visited,
        dense: a.dense + b.dense,
        ..a
    }))
}

fn checked(
    target: &Target,
    job: &Job,
    prepared: &Prepared,
    given: &Inputs,
    tensors: &[(String, HostTensor)],
) -> Result<Checked> {
    let runtime = &target.runtime;
    let shapes: Vec<Vec<usize>> = prepared.plan().outputs().map(|(_, slot)| slot.layout.shape.clone()).collect();
    if target.kind != Kind::Cpu {
        check::poison(runtime, &shapes)?;
    }
    let results = runtime.run(prepared, given)?;
    let mut outputs = Vec::new();
    for (name, tensor) in results.iter() {
        outputs.push((name.to_owned(), runtime.read_blocking(tensor)?));
    }
    // The CPU engine is no reference for itself.
    let reference = if job.cut == Cut::Heads && target.kind != Kind::Cpu { Reference::Cpu } else { Reference::Oracle };
    check::check(job, &*job.bare()?, tensors, &outputs, reference)
}
