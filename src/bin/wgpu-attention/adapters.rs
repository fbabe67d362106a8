//! `adapters`: what was found, what it offers, and why it is used or not.

use crate::failure::{Failure, Outcome};
use crate::out;
use crate::table::bytes;
use serde_json::{Value, json};
use wgpu_attention::caps::Caps;
use wgpu_attention::gpu::{AdapterReport, GpuOptions, adapters};
use wgpu_attention::{Runtime, wgpu};

/// Arguments of `adapters`.
#[derive(clap::Args)]
pub struct Args {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// An adapter, and what its device enabled when it was opened.
struct Found {
    report: AdapterReport,
    caps: Result<Caps, String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    let found: Vec<Found> = pollster::block_on(adapters(&GpuOptions::default()))
        .into_iter()
        .map(|report| {
            let options = GpuOptions { adapter: Some(report.info.name.clone()), ..Default::default() };
            let caps = Runtime::gpu_blocking(&options).map(|r| r.caps()).map_err(|e| e.to_string());
            Found { report, caps }
        })
        .collect();
    let cpu = Runtime::cpu().describe();
    let used = found.iter().find(|f| f.report.refusal.is_none()).map(|f| f.report.info.name.clone());
    if args.json {
        let list: Vec<Value> = found.iter().map(to_json).collect();
        out::json(&json!({ "adapters": list, "cpu": cpu, "auto": used.unwrap_or(cpu) }));
        return Ok(Outcome::Done);
    }
    for one in &found {
        print(one);
    }
    if found.is_empty() {
        out::line("No GPU adapter was found: a driver for Vulkan, Metal or Direct3D 12 is missing.");
    }
    out::line(&cpu);
    out::line(format!("--engine auto uses: {}", used.unwrap_or(cpu)));
    Ok(Outcome::Done)
}

fn kind(info: &wgpu::AdapterInfo) -> &'static str {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete GPU",
        wgpu::DeviceType::IntegratedGpu => "integrated GPU",
        wgpu::DeviceType::VirtualGpu => "virtual GPU",
        wgpu::DeviceType::Cpu => "software on the CPU",
        wgpu::DeviceType::Other => "of unknown kind",
    }
}

/// The features that kernels make use of.
fn features(report: &AdapterReport) -> Vec<&'static str> {
    [
        (wgpu::Features::SHADER_F16, "f16 arithmetic"),
        (wgpu::Features::SUBGROUP, "subgroups"),
        (wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative matrices"),
        (wgpu::Features::TIMESTAMP_QUERY, "timestamps"),
        (wgpu::Features::PIPELINE_CACHE, "pipeline cache"),
    ]
    .into_iter()
    .filter(|(feature, _)| report.features.contains(*feature))
    .map(|(_, name)| name)
    .collect()
}

fn driver(info: &wgpu::AdapterInfo) -> String {
    format!("{} {}", info.driver, info.driver_info).trim().to_owned()
}

fn matrices(report: &AdapterReport) -> Vec<String> {
    report.matrices.iter().map(|(m, n, k, ab, cr)| format!("{m}x{n}x{k} {ab} -> {cr}")).collect()
}

fn print(found: &Found) {
    let Found { report, caps } = found;
    let (info, limits) = (&report.info, &report.limits);
    let or_none = |list: String| if list.is_empty() { "none".to_owned() } else { list };
    out::line(&info.name);
    let field = |name: &str, text: String| out::line(format!("    {name:21} {text}"));
    match &report.refusal {
        None => field("used", "yes".into()),
        Some(reason) => field("used", format!("no: {reason}")),
    }
    field("kind", format!("{}, {:?}", kind(info), info.backend));
    field("driver", or_none(driver(info)));
    match caps {
        Ok(caps) => field("tier", caps.tier.name().into()),
        Err(reason) => field("tier", format!("none, it gave no device: {reason}")),
    }
    field(
        "subgroup size",
        match (info.subgroup_min_size, info.subgroup_max_size) {
            (least, most) if least == most => format!("{least} invocations"),
            (least, most) => format!("{least} to {most} invocations"),
        },
    );
    field("cooperative matrices", or_none(matrices(report).join(", ")));
    field("features", or_none(features(report).join(", ")));
    field(
        "storage binding",
        format!(
            "up to {}, {} in a kernel",
            bytes(limits.max_storage_buffer_binding_size),
            limits.max_storage_buffers_per_shader_stage
        ),
    );
    field("buffer", format!("up to {}", bytes(limits.max_buffer_size)));
    field(
        "workgroup",
        format!(
            "up to {} invocations, {} of memory; {} in a dimension",
            limits.max_compute_invocations_per_workgroup,
            bytes(limits.max_compute_workgroup_storage_size.into()),
            limits.max_compute_workgroups_per_dimension
        ),
    );
    out::line("");
}

fn to_json(found: &Found) -> Value {
    let Found { report, caps } = found;
    let (info, limits) = (&report.info, &report.limits);
    json!({
        "name": info.name,
        "kind": kind(info),
        "backend": format!("{:?}", info.backend).to_lowercase(),
        "driver": driver(info),
        "used": report.refusal.is_none(),
        "why_not": report.refusal,
        "tier": caps.as_ref().ok().map(|c| c.tier.name()),
        "error": caps.as_ref().err(),
        "subgroup_size": { "min": info.subgroup_min_size, "max": info.subgroup_max_size },
        "cooperative_matrices": matrices(report),
        "features": features(report),
        "limits": {
            "storage_binding_bytes": limits.max_storage_buffer_binding_size,
            "storage_bindings": limits.max_storage_buffers_per_shader_stage,
            "buffer_bytes": limits.max_buffer_size,
            "workgroup_memory_bytes": limits.max_compute_workgroup_storage_size,
            "workgroup_invocations": limits.max_compute_invocations_per_workgroup,
            "workgroups_in_a_dimension": limits.max_compute_workgroups_per_dimension,
            "storage_alignment_bytes": limits.min_storage_buffer_offset_alignment,
        },
    })
}
