//! The cooperative-matrix path against the CPU engine: odd sizes, groups, windows, hooks, growth of the row maximum. Runs on adapters that
//! have such matrices; elsewhere it says so.

mod common;

use common::{Budget, close, matrix_engines, random};
use wgpu_attention::gpu::GpuOptions;
use wgpu_attention::variants::Pattern;
use wgpu_attention::variants::dense::{AlibiAttention, DenseAttention, SigmoidAttention, SoftcapAttention};
use wgpu_attention::variants::sparse::{BlockSparseAttention, StreamingAttention};
use wgpu_attention::{DType, Engine, HostTensor, Inputs, Runtime, Variant};

/// Weights are rounded to f16 on this path: 2^-11 of each.
const ROUNDED_WEIGHTS: Budget = Budget::MATRIX;

fn inputs([b, h, hk, lq, lk, d, dv]: [usize; 7]) -> Inputs {
    let half = |shape: &[usize], seed| random(shape, seed).to_f16();
    Inputs::new()
        .with("q", half(&[b, h, lq, d], 1))
        .with("k", half(&[b, hk, lk, d], 2))
        .with("v", half(&[b, hk, lk, dv], 3))
}

fn check(title: &str, variant: &dyn Variant, call: &Inputs) {
    let cpu = Runtime::cpu().call_blocking(variant, call).expect(title);
    for (name, runtime) in matrix_engines() {
        let plan = runtime.plan(variant, call).expect(title);
        let layouts: Vec<_> = plan.slots.iter().map(|s| s.layout.clone()).collect();
        let stage = plan.stages.len() - 1;
        let launch = plan.stages[stage].op.kernel().launch(&plan.io(stage, &layouts), &runtime.caps()).expect(title);
        assert_eq!(launch.key.entry, "attend/matrix", "{title} on {name} took another kernel");
        let outputs = runtime.call_blocking(variant, call).expect(title);
        let Engine::Gpu(engine) = runtime.engine() else { unreachable!() };
        let verdicts = engine.matrix_verdicts();
        assert!(!verdicts.is_empty() && verdicts.values().all(|right| *right), "{title} on {name}: {verdicts:?}");
        for (output, want) in cpu.iter() {
            if let Err(why) = close(want, outputs.get(output).expect(title), ROUNDED_WEIGHTS) {
                panic!("{title} on {name}: {output}: {why}");
            }
        }
    }
}

#[test]
fn odd_sizes_and_groups() {
    for size in [
        [1, 1, 1, 64, 64, 64, 64],
        [2, 4, 2, 63, 100, 64, 64],
        [1, 8, 1, 65, 7, 32, 40],
        [1, 2, 2, 130, 131, 80, 72],
        [1, 3, 1, 100, 257, 128, 128],
        [1, 2, 1, 70, 90, 192, 136],
    ] {
        for pattern in [Pattern::NoncausalCross, Pattern::CausalCross] {
            let variant = DenseAttention { pattern, ..Default::default() };
            check(&format!("{size:?} {pattern:?}"), &variant, &inputs(size));
        }
    }
}

#[test]
fn windows_masks_and_hooks() {
    let size = [2, 4, 2, 90, 150, 64, 64];
    let window = DenseAttention { window_left: Some(20), window_right: Some(3), ..Default::default() };
    check("window", &window, &inputs(size));
    let mask = (0..90 * 150).map(|n| u8::from((n / 150 + n % 150) % 3 != 0 && n / 150 != 5)).collect::<Vec<_>>();
    let mask = HostTensor::new(&[90, 150], mask).expect("a mask");
    let bias = random(&[1, 4, 90, 150], 9);
    check("mask and bias", &DenseAttention::default(), &inputs(size).with("mask", &mask).with("bias", &bias));
    check("softcap", &SoftcapAttention { cap: 2.0, causal: true, ..Default::default() }, &inputs(size));
    check("alibi", &AlibiAttention { causal: true, ..Default::default() }, &inputs(size));
    check("sigmoid", &SigmoidAttention::default(), &inputs(size));
    check("sink", &DenseAttention::default(), &inputs(size).with("sink", random(&[4, 2], 4)));
    // An always-visible prefix: whole steps of it and a part, below the window.
    let streaming = StreamingAttention { recent: 40, sink: 37, ..Default::default() };
    check("streaming", &streaming, &inputs([1, 2, 1, 150, 150, 64, 64]));
}

#[test]
fn block_lists() {
    let size = [1, 4, 2, 200, 200, 64, 64];
    let blocks = (0..4 * 2 * 7).map(|n| u8::from(n % 3 != 1)).collect::<Vec<_>>();
    let mask = HostTensor::new(&[4, 2, 7], blocks).expect("a mask");
    let variant = BlockSparseAttention { block_q: 100, block_k: 32, causal: true, ..Default::default() };
    check("block mask", &variant, &inputs(size).with("block_mask", &mask));
}

#[test]
fn rows_whose_maximum_grows_are_rescaled() {
    // Scores rise along the keys by far more than 2^8 between steps, so every step rescales.
    let (l, d) = (96, 32);
    let q = HostTensor::from_fn(&[1, 1, l, d], |n| if n % d == 0 { 4.0 } else { 0.1 }).to_f16();
    let k = HostTensor::from_fn(&[1, 1, l, d], |n| if n % d == 0 { (n / d) as f32 } else { 0.5 }).to_f16();
    let v = random(&[1, 1, l, d], 3).to_f16();
    let call = Inputs::new().with("q", &q).with("k", &k).with("v", &v);
    check("growth", &DenseAttention { scale: Some(1.0), ..Default::default() }, &call);
    check(
        "growth, causal",
        &DenseAttention { scale: Some(1.0), pattern: Pattern::CausalSelf, ..Default::default() },
        &call,
    );
}

/// Devices of their own, where `attend/decode_matrix` is chosen: other tests take the first choice.
fn decoders() -> Vec<(&'static str, Runtime)> {
    let open = |name: &'static str| {
        let options = GpuOptions { adapter: Some(name.into()), poison: true, ..Default::default() };
        (name, Runtime::gpu_blocking(&options).expect(name))
    };
    matrix_engines().into_iter().filter(|(name, _)| *name != "gpu").map(|(name, _)| open(name)).collect()
}

/// A decode step of heads that share their keys, by matrices.
fn check_decode(on: &[(&str, Runtime)], title: &str, variant: &dyn Variant, call: &Inputs) {
    let cpu = Runtime::cpu().call_blocking(variant, call).expect(title);
    for (name, runtime) in on {
        let Engine::Gpu(engine) = runtime.engine() else { unreachable!() };
        let plan = runtime.plan(variant, call).expect(title);
        let stage = plan.stages.iter().position(|s| s.op.kernel().name() == "attend").expect(title);
        let labels = engine.kernels(&plan, stage).expect(title);
        let label = labels.iter().find(|l| l.starts_with("attend/decode_matrix"));
        engine.choose(&plan, stage, label.unwrap_or_else(|| panic!("{title} on {name}: {labels:?}"))).expect(title);
        let prepared = runtime.prepare_blocking(plan).expect(title);
        let key = engine.key(prepared.plan(), stage).expect(title);
        assert_eq!(key.entry, "attend/decode_matrix", "{title} on {name}: {:?}", engine.matrix_verdicts());
        let outputs = runtime.run(&prepared, call).expect(title);
        for (output, want) in cpu.iter() {
            let got = runtime.read_blocking(outputs.get(output).expect(title)).expect(title);
            if let Err(why) = close(want, &got, ROUNDED_WEIGHTS) {
                panic!("{title} on {name}: {output}: {why}");
            }
        }
    }
}

#[test]
fn decode_by_matrices() {
    let dense = DenseAttention::default();
    let on = decoders();
    for size in
        [[2, 8, 2, 1, 300, 32, 32], [1, 16, 1, 1, 1100, 32, 32], [1, 3, 1, 1, 17, 40, 24], [1, 2, 1, 1, 5, 24, 8]]
    {
        check_decode(&on, &format!("{size:?}"), &dense, &inputs(size));
    }
    let size = [2, 8, 2, 1, 300, 32, 32];
    let lengths = HostTensor::new(&[2], vec![77_i32, 0]).expect("lengths");
    check_decode(&on, "lengths, one of them 0", &dense, &inputs(size).with("lengths", &lengths));
    check_decode(&on, "sink", &dense, &inputs(size).with("sink", random(&[8, 2], 4)));
    check_decode(&on, "bias", &dense, &inputs(size).with("bias", random(&[1, 8, 1, 300], 9)));
    check_decode(&on, "window", &DenseAttention { window_left: Some(90), ..Default::default() }, &inputs(size));
    check_decode(&on, "softcap", &SoftcapAttention { cap: 2.0, causal: true, ..Default::default() }, &inputs(size));
    // Every step of a subgroup rescales, by more than its weights can hold.
    let (l, d) = (400, 32);
    let q = HostTensor::from_fn(&[1, 4, 1, d], |n| if n % d == 0 { (n / d) as f32 } else { 0.1 }).to_f16();
    let k = HostTensor::from_fn(&[1, 1, l, d], |n| if n % d == 0 { (n / d) as f32 } else { 0.5 }).to_f16();
    let v = random(&[1, 1, l, d], 3).to_f16();
    let call = Inputs::new().with("q", &q).with("k", &k).with("v", &v);
    check_decode(&on, "growth", &DenseAttention { scale: Some(1.0), ..Default::default() }, &call);
    let v = HostTensor::from_fn(&[1, 1, l, d], |n| if n / d < 150 { 0.5 } else { f32::NAN }).to_f16();
    let lengths = HostTensor::new(&[1], vec![150_i32]).expect("lengths");
    let call = Inputs::new().with("q", &q).with("k", &k).with("v", &v).with("lengths", &lengths);
    check_decode(&on, "NaN past the length", &dense, &call);
}

#[test]
fn the_switch_turns_it_off() {
    for (name, _) in matrix_engines().into_iter().filter(|(name, _)| *name != "gpu") {
        let options = GpuOptions { adapter: Some(name.into()), no_matrix: true, ..Default::default() };
        let runtime = Runtime::gpu_blocking(&options).expect(name);
        assert_eq!(runtime.caps().matrix, None, "{name}");
        let call = inputs([1, 2, 1, 70, 70, 64, 64]);
        assert_eq!(call.get("q").expect("q").dtype(), DType::F16);
        let got = runtime.call_blocking(&DenseAttention::default(), &call).expect(name);
        let want = Runtime::cpu().call_blocking(&DenseAttention::default(), &call).expect(name);
        close(want.get("out").expect("out"), got.get("out").expect("out"), Budget::F32).expect(name);
    }
}
