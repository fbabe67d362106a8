//! Workload V1: small attention in the browser, checked against the CPU engine, with the time of a call as the test's remark. What it is
//! compared with is in `benches/peers`.

use wgpu_attention::variants::{Pattern, dense::DenseAttention};
use wgpu_attention::{HostTensor, Inputs, Runtime, Variant};

use crate::cases::webgpu;

/// Names that [`run`] knows.
pub const TESTS: [&str; 3] = ["timing::V1-full", "timing::V1-causal", "timing::V1-decode"];

const TURNS: usize = 5;
/// Milliseconds of a turn, at least.
const TURN_MS: f64 = 50.0;

/// Runs one of [`TESTS`].
pub async fn run(name: &str) -> Result<String, String> {
    let gpu = webgpu().await?;
    let (pattern, sizes) = match name {
        "timing::V1-full" => (Pattern::NoncausalSelf, [8, 8, 256, 256]),
        "timing::V1-causal" => (Pattern::CausalSelf, [8, 8, 256, 256]),
        "timing::V1-decode" => (Pattern::NoncausalCross, [8, 2, 1, 512]),
        _ => return Err(format!("no test has the name {name}")),
    };
    let variant = DenseAttention { pattern, ..Default::default() };
    let inputs = inputs(sizes);
    let cpu = Runtime::cpu();
    let want = cpu.call(&variant, &host(&inputs)).await.map_err(|e| e.to_string())?;
    let (device, cpu) = (time(&gpu, &variant, &inputs).await?, time(&cpu, &variant, &inputs).await?);
    let got = gpu.call(&variant, &host(&inputs)).await.map_err(|e| e.to_string())?;
    let [want, got] = [want, got].map(|outputs| outputs.get("out").map(HostTensor::to_f64).map_err(|e| e.to_string()));
    let (want, got) = (want?, got?);
    let finite = got.iter().all(|x| x.is_finite());
    let worst = want.iter().zip(&got).fold(0.0_f64, |most, (w, g)| most.max((w - g).abs()));
    // NaN is no agreement, and `max` above drops it.
    if worst > 1e-4 || !finite {
        return Err(format!("WebGPU and the CPU engine differ by {worst:.1e}"));
    }
    Ok(format!("WebGPU {device:.1} ms, CPU engine as wasm {cpu:.1} ms, differ by {worst:.0e}"))
}

/// The least time of a call: run, and read the output.
async fn time(runtime: &Runtime, variant: &dyn Variant, inputs: &[(&'static str, HostTensor)]) -> Result<f64, String> {
    let mut uploaded = Inputs::new();
    for (name, tensor) in inputs {
        uploaded = uploaded.with(name, runtime.upload(tensor).map_err(|e| e.to_string())?);
    }
    let plan = runtime.plan(variant, &uploaded).map_err(|e| e.to_string())?;
    let prepared = runtime.prepare(plan).await.map_err(|e| e.to_string())?;
    let mut least = f64::INFINITY;
    let mut calls: u32 = 1;
    let mut turns = 0;
    while turns < TURNS {
        let start = js_sys::Date::now();
        for _ in 0..calls {
            let outputs = runtime.run(&prepared, &uploaded).map_err(|e| e.to_string())?;
            let out = outputs.get("out").map_err(|e| e.to_string())?;
            runtime.read(out).await.map_err(|e| e.to_string())?;
        }
        let took = js_sys::Date::now() - start;
        // The clock counts whole milliseconds; and the first call makes buffers and bind groups.
        if took < TURN_MS {
            calls *= 2;
            continue;
        }
        least = least.min(took / f64::from(calls));
        turns += 1;
    }
    Ok(least)
}

fn inputs([heads, kv_heads, queries, keys]: [usize; 4]) -> Vec<(&'static str, HostTensor)> {
    let tensor = |heads: usize, rows: usize, seed: usize| {
        HostTensor::from_fn(&[1, heads, rows, 64], |n| ((n * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0)
    };
    vec![("q", tensor(heads, queries, 1)), ("k", tensor(kv_heads, keys, 2)), ("v", tensor(kv_heads, keys, 3))]
}

fn host(inputs: &[(&'static str, HostTensor)]) -> Inputs {
    inputs.iter().fold(Inputs::new(), |all, (name, tensor)| all.with(name, tensor))
}
