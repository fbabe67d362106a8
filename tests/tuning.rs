//! `Runtime::tune`: what is tried, what is taken afterwards, and what is found again by a later run.

mod common;

use common::{ADAPTERS, Budget, assert_close, engines, random, tensor_of};
use wgpu_attention::case::oracle_inputs;
use wgpu_attention::gpu::GpuOptions;
use wgpu_attention::runtime::Engine;
use wgpu_attention::{ErrorKind, HostTensor, Inputs, Runtime, Variant, variants::dense::DenseAttention};

fn tensors(rows: usize) -> Vec<(&'static str, HostTensor)> {
    vec![("q", random(&[1, 2, rows, 24], 1)), ("k", random(&[1, 2, 70, 24], 2)), ("v", random(&[1, 2, 70, 20], 3))]
}

fn call(tensors: &[(&'static str, HostTensor)]) -> Inputs {
    tensors.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t))
}

/// The label of the kernel that the first stage runs.
fn kernel(runtime: &Runtime, inputs: &Inputs) -> String {
    let plan = runtime.plan(&DenseAttention::default(), inputs).expect("a plan");
    let prepared = runtime.prepare_blocking(plan).expect("prepared");
    let times = runtime.time_blocking(&prepared, std::slice::from_ref(inputs), 1).expect("times");
    times[0].kernel.clone()
}

#[test]
fn the_fastest_is_taken_and_kept() {
    let folder = std::env::temp_dir().join(format!("wgpu-attention-tuning-{}", std::process::id()));
    for (name, _) in ADAPTERS {
        let options = GpuOptions { adapter: Some(name.into()), cache: Some(folder.clone()), ..Default::default() };
        let required = std::env::var("WGPU_ATTENTION_REQUIRE").unwrap_or_default();
        let Ok(runtime) = Runtime::gpu_blocking(&options) else {
            assert!(!required.contains(name), "{name} is required and was not found");
            println!("not covered: {name}");
            continue;
        };
        // A prefill has two tiles, a decode step three numbers of loads and two tiles.
        for (rows, least) in [(40, 2), (1, 4)] {
            let inputs = tensors(rows);
            let tuned = runtime.tune_blocking(&DenseAttention::default(), &[call(&inputs)]).expect("tuned");
            assert_eq!(tuned.len(), 1, "{name}");
            let tuned = &tuned[0];
            assert!(tuned.tried.len() >= least, "{name}: {:?}", tuned.tried);
            let times: Vec<f64> =
                tuned.tried.iter().map(|(label, ms)| *ms.as_ref().unwrap_or_else(|e| panic!("{label}: {e}"))).collect();
            let best = tuned.tried.iter().position(|(label, _)| *label == tuned.kernel).expect("one of them");
            let least = times.iter().copied().fold(f64::INFINITY, f64::min);
            assert!(times[best] * 0.97 <= least, "{name}: took {} of {times:?}", times[best]);
            assert_eq!(kernel(&runtime, &call(&inputs)), tuned.kernel, "{name}: what is taken afterwards");
            let later = Runtime::gpu_blocking(&options).expect("the same adapter");
            assert_eq!(kernel(&later, &call(&inputs)), tuned.kernel, "{name}: what a later run takes");
        }
    }
    std::fs::remove_dir_all(&folder).expect("the folder of the cache");
}

/// Every kernel that is offered, not the first alone, gives the oracle's result.
#[test]
fn all_that_is_offered_is_right() {
    let variant = DenseAttention::default();
    for (name, runtime) in engines().into_iter().filter(|(name, _)| *name != "cpu") {
        for (rows, half) in [(1, false), (70, false), (70, true)] {
            let inputs: Vec<_> =
                tensors(rows).into_iter().map(|(name, t)| (name, if half { t.to_f16() } else { t })).collect();
            let want = variant.oracle(&oracle_inputs(inputs.iter().map(|(n, t)| (*n, t))));
            let plan = runtime.plan(&variant, &call(&inputs)).expect("a plan");
            let Engine::Gpu(engine) = runtime.engine() else { panic!("{name} is no GPU") };
            let labels = engine.kernels(&plan, 0).expect("kernels");
            let matrix = half && runtime.caps().matrix.is_some();
            assert!(labels.len() >= if matrix { 4 } else { 2 }, "{name}, {rows} rows: {labels:?}");
            for label in labels {
                engine.choose(&plan, 0, &label).expect("a choice");
                let got = runtime.call_blocking(&variant, &call(&inputs)).expect("outputs");
                assert_eq!(kernel(&runtime, &call(&inputs)), label, "{name}");
                let id = format!("{name}, {rows} rows, {label}");
                let budget = match (half, label.starts_with("attend/matrix")) {
                    (_, true) => Budget::MATRIX,
                    (true, false) => Budget::F16,
                    (false, false) => Budget::F32,
                };
                assert_close(&id, &tensor_of(&want[0].1), got.get("out").expect("out"), budget);
            }
            let unknown = engine.choose(&plan, 0, "attend/none").expect_err("no such kernel");
            assert_eq!(unknown.kind(), ErrorKind::UnknownName);
            assert!(unknown.to_string().contains("attend/tile"), "{unknown}");
        }
    }
}

#[test]
fn mistakes_are_refused_and_the_cpu_has_no_choice() {
    let cpu = Runtime::cpu();
    let none = cpu.tune_blocking(&DenseAttention::default(), &[]).expect_err("no inputs");
    assert_eq!(none.kind(), ErrorKind::MissingInput);
    let tuned = cpu.tune_blocking(&DenseAttention::default(), &[call(&tensors(3))]).expect("nothing to do");
    assert!(tuned.is_empty());
}
