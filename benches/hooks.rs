//! Hooks in WGSL against the same rules built in. What a document mask given as code skips is in the rows M1 to M4 of `wgpu-attention bench`.
//!
//! `cargo bench --bench hooks [ADAPTER]`: the CPU engine, and the adapter whose name has the word.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wgpu_attention::gpu::GpuOptions;
use wgpu_attention::hook::{ArgRow, Hook, Parameter, Row, Twin};
use wgpu_attention::hooks::{Axis, neighborhood, sigmoid, softcap};
use wgpu_attention::kernel::key::Point;
use wgpu_attention::shader::user::Code;
use wgpu_attention::variants::dense::DenseAttention;
use wgpu_attention::{Hooked, HostTensor, Inputs, Result, Runtime, UserHook, Variant};

/// The times of some runs, ascending.
fn times(runs: usize, mut run: impl FnMut()) -> Vec<Duration> {
    run();
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

fn main() -> Result<()> {
    twins()?;
    let mut runtimes = vec![Runtime::cpu()];
    if let Some(adapter) = std::env::args().skip(1).find(|a| !a.starts_with("--")) {
        runtimes.push(Runtime::gpu_blocking(&GpuOptions { adapter: Some(adapter), ..Default::default() })?);
    }
    for runtime in &runtimes {
        whole(runtime)?;
    }
    Ok(())
}

/// Nanoseconds a key, in rows of 256 keys as the CPU engine has them.
fn twins() -> Result<()> {
    println!("{:14} {:>12} {:>12} {:>12} {:>7}", "rule", "operations", "built in ns", "WGSL ns", "ratio");
    let keys: Vec<i32> = (0..256).map(|j| j + 1000).collect();
    let row = Row { batch: 0, head: 3, row: 1100, query: 1100, keys: &keys };
    let axis = Axis { pitch: 1, size: 4096, window: 128, stride: 1, dilation: 2, causal: false };
    let alibi = |s: &mut [f32], row: &Row, args: &[ArgRow]| {
        let slope = args[0].f32(0);
        s.iter_mut().zip(row.keys).for_each(|(s, &j)| *s -= slope * (row.query - j).abs() as f32);
    };
    let alibi_text = "fn alibi(s: f32, at: At, slope: f32) -> f32 { return s - slope * f32(abs(at.query - at.key)); }";
    let list: Vec<(Hook, Vec<ArgRow>)> = vec![
        (Hook::new(Point::Score, "alibi", alibi_text, Twin::Score(alibi)), vec![ArgRow::Number(0.125)]),
        (softcap(5.0), vec![ArgRow::Number(5.0)]),
        (sigmoid(), Vec::new()),
        (neighborhood(axis), [1, 4096, 128, 1, 2, 0].map(|n| ArgRow::Number(f64::from(n))).to_vec()),
    ];
    for (hook, args) in list {
        let code = Code::new(hook.point, &hook.name, &hook.source)?;
        let fixed = |(_, kind): &(String, _)| Parameter { kind: *kind, along_rows: false, along_keys: false };
        let program = code.program(&code.params().iter().map(fixed).collect::<Vec<_>>())?;
        let (once, each) = program.len();
        let coded = Twin::Program(Arc::new(program));
        let time = |twin: &Twin| {
            let mut scores: Vec<f32> = (0..256).map(|n| (n as f32 * 0.7).sin() * 4.0).collect();
            let mut allowed = vec![true; 256];
            let rounds = 2000;
            // The least: other work on the machine only adds.
            let time = times(25, || {
                for _ in 0..rounds {
                    match hook.point {
                        Point::Mask => twin.mask(black_box(&mut allowed), &row, &args),
                        _ => twin.score(black_box(&mut scores), &row, &args),
                    }
                }
            });
            time[0].as_secs_f64() * 1e9 / f64::from(rounds) / 256.0
        };
        let (built, text) = (time(&hook.twin), time(&coded));
        println!("{:14} {:>12} {built:12.3} {text:12.3} {:7.2}", hook.name, format!("{once} + {each}"), text / built);
    }
    println!();
    Ok(())
}

fn wave(shape: &[usize], step: f32) -> HostTensor {
    HostTensor::from_fn(shape, |n| (n as f32 * step).sin())
}

/// The median of some runs in milliseconds.
fn time(runtime: &Runtime, variant: &dyn Variant, inputs: &Inputs) -> Result<f64> {
    let prepared = runtime.prepare_blocking(runtime.plan(variant, inputs)?)?;
    let mut failure = None;
    let times = times(7, || {
        let done = runtime.run(&prepared, inputs).and_then(|out| runtime.read_blocking(out.get("lse")?));
        failure = done.err().or(failure.take());
    });
    failure.map_or(Ok(times[times.len() / 2].as_secs_f64() * 1e3), Err)
}

/// Dense attention without, with the built-in and with the coded rule of about ten operations.
fn whole(runtime: &Runtime) -> Result<()> {
    let (q, k, v) = (wave(&[1, 4, 1024, 64], 0.11), wave(&[1, 4, 1024, 64], 0.23), wave(&[1, 4, 1024, 64], 0.37));
    let inputs = Inputs::new().with("q", &q).with("k", &k).with("v", &v);
    let plain = time(runtime, &DenseAttention::default(), &inputs)?;
    let built = time(runtime, &DenseAttention { softcap: Some(5.0), ..Default::default() }, &inputs)?;
    let text = "fn score(s: f32, at: At, cap: f32) -> f32 {
        let e = exp(-2.0 * abs(s / cap));
        return sign(s) * cap * (1.0 - e) / (1.0 + e);
    }";
    let coded = Hooked::new(DenseAttention::default()).hook(UserHook::score(text)?.with("cap", 5.0_f32)?);
    let coded = time(runtime, &coded, &inputs)?;
    println!(
        "{runtime}: dense 4 heads x 1024 x 64: {plain:.2} ms; softcap built in {built:.2} ms, in WGSL {coded:.2} ms"
    );
    println!(
        "    the hook costs {:.2} ms and {:.2} ms: {:.2} times\n",
        built - plain,
        coded - plain,
        (coded - plain) / (built - plain)
    );
    Ok(())
}
