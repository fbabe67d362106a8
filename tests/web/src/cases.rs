//! Every golden case on both engines: on WebGPU and on the CPU engine as wasm.

use std::cell::RefCell;

use wgpu_attention::caps::{Caps, Target};
use wgpu_attention::case::Case;
use wgpu_attention::gpu::GpuOptions;
use wgpu_attention::kernel::key::KernelKey;
use wgpu_attention::{Engine, HostTensor, Outputs, Runtime, shader};

use crate::bridge;

const WEBGPU: &str = "webgpu::";
const CPU: &str = "cpu::";
const EXTENSION: &str = ".safetensors";

/// Names that [`run`] knows: each case file on each engine, `cpu::dense/dense-attention/c1`.
pub fn names(paths: &[String]) -> impl Iterator<Item = String> {
    let stems = || paths.iter().filter_map(|path| path.strip_suffix(EXTENSION));
    [WEBGPU, CPU].into_iter().flat_map(move |engine| stems().map(move |stem| format!("{engine}{stem}")))
}

/// Runs one of [`names`].
pub async fn run(name: &str) -> Result<String, String> {
    if let Some(stem) = name.strip_prefix(WEBGPU) {
        let runtime = webgpu().await?;
        on_webgpu(&runtime, &case(stem).await?).await
    } else if let Some(stem) = name.strip_prefix(CPU) {
        let case = case(stem).await?;
        check(&case, &case.run(&Runtime::cpu()).await.map_err(|error| error.to_string())?)?;
        Ok(String::new())
    } else {
        Err(format!("no test has the name {name}"))
    }
}

async fn case(stem: &str) -> Result<Case, String> {
    let bytes = bridge::fetch(&format!("/cases/{stem}{EXTENSION}")).await?;
    Case::parse(&bytes, None).map_err(|error| error.to_string())
}

/// One runtime for all cases, so that they share its pipelines and buffers.
pub async fn webgpu() -> Result<Runtime, String> {
    thread_local!(static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) });
    if let Some(runtime) = RUNTIME.with_borrow(Clone::clone) {
        return Ok(runtime);
    }
    // The browser zeroes fresh buffers; with NaN in them a result that no kernel wrote is not mistaken for a zero.
    let options = GpuOptions { allow_software: true, poison: true, ..Default::default() };
    let runtime = Runtime::gpu(&options).await.map_err(|error| error.to_string())?;
    RUNTIME.set(Some(runtime.clone()));
    Ok(runtime)
}

async fn on_webgpu(runtime: &Runtime, case: &Case) -> Result<String, String> {
    let Engine::Gpu(engine) = runtime.engine() else {
        return Err(format!("not on a GPU: {runtime}"));
    };
    let (device, _) = engine.device();
    let compiled = compile(device, runtime, case).await?;

    // A browser reports what goes wrong in a dispatch or a copy after the call; nobody in the engine waits for that.
    let scopes = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation]
        .map(|filter| device.push_error_scope(filter));
    let outcome = case.run(runtime).await;
    let mut complaints = Vec::new();
    for scope in scopes.into_iter().rev() {
        complaints.extend(scope.pop().await.map(|error| error.to_string()));
    }
    match outcome {
        Err(error) => complaints.insert(0, error.to_string()),
        Ok(outputs) => complaints.extend(check(case, &outputs).err()),
    }
    if complaints.is_empty() {
        return Ok(compiled);
    }
    complaints.push(format!("on {runtime}, kernels:"));
    for key in keys(runtime, case, &runtime.caps()).map_err(|error| error.to_string())? {
        complaints.push(format!("    {}", key.label()));
    }
    Err(complaints.join("\n"))
}

/// Compiles the case's shaders for what the device can do and for what every device can, and fails on any message about
/// them, warnings included. Those of earlier cases are not compiled again.
async fn compile(device: &wgpu::Device, runtime: &Runtime, case: &Case) -> Result<String, String> {
    thread_local!(static COMPILED: RefCell<Vec<KernelKey>> = const { RefCell::new(Vec::new()) });
    let fresh: Vec<KernelKey> = COMPILED.with_borrow_mut(|compiled| {
        let before = compiled.len();
        for caps in [runtime.caps(), Caps::portable(Target::Browser)] {
            for key in keys(runtime, case, &caps).map_err(|error| error.to_string())? {
                if !compiled.contains(&key) {
                    compiled.push(key);
                }
            }
        }
        Ok::<_, String>(compiled[before..].to_vec())
    })?;

    let mut complaints = Vec::new();
    for key in &fresh {
        let text = shader::compose(key).map_err(|error| error.to_string())?;
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&key.label()),
            source: wgpu::ShaderSource::Wgsl(text.as_str().into()),
        });
        let rejected = scope.pop().await.is_some();
        let messages = module.get_compilation_info().await.messages;
        if rejected && messages.is_empty() {
            complaints.push(format!("{}: rejected without a message", key.label()));
        }
        for message in messages {
            let line = message.location.map_or(0, |location| location.line_number);
            let quote = text.lines().nth((line as usize).saturating_sub(1)).unwrap_or_default();
            complaints.push(format!(
                "{}: {:?} in line {line}: {}\n    {}",
                key.label(),
                message.message_type,
                message.message,
                quote.trim()
            ));
        }
    }
    if complaints.is_empty() {
        let tier = runtime.caps().tier.name();
        Ok(if fresh.is_empty() { String::new() } else { format!("compiled {} shaders, tier {tier}", fresh.len()) })
    } else {
        Err(complaints.join("\n"))
    }
}

/// The key of each stage of the case.
fn keys(runtime: &Runtime, case: &Case, caps: &Caps) -> wgpu_attention::Result<Vec<KernelKey>> {
    let plan = runtime.plan(&*case.make(&[])?, &case.call_inputs())?;
    let layouts: Vec<_> = plan.slots.iter().map(|slot| slot.layout.clone()).collect();
    let key = |n: usize| Ok(plan.stages[n].op.kernel().launch(&plan.io(n, &layouts), caps)?.key);
    (0..plan.stages.len()).map(key).collect()
}

fn check(case: &Case, outputs: &Outputs<HostTensor>) -> Result<(), String> {
    let comparisons = case.compare(outputs);
    if comparisons.is_empty() {
        return Err("the case expects nothing".into());
    }
    let failures: Vec<String> = comparisons
        .iter()
        .filter(|comparison| !comparison.passed())
        .map(|c| format!("{}: error {:.2e}, allowed {:.0e}", c.output, c.error, c.allowed))
        .collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}
