//! The scan by cooperative matrices against the CPU engine: odd sizes, shared heads, states, divisors, masks, segments. Runs on adapters that
//! have such matrices; elsewhere it says so.

mod common;

use common::{Budget, close, matrix_engines, random};
use wgpu_attention::variants::FeatureMap;
use wgpu_attention::variants::linear::{
    DeltaNet, GatedLinearAttention, LightningAttention, LinearAttention, Retention,
};
use wgpu_attention::{Engine, HostTensor, Inputs, Runtime, Variant};

fn half(shape: &[usize], seed: u64) -> HostTensor {
    random(shape, seed).to_f16()
}

fn inputs([b, h, hk, l, d, dv]: [usize; 6]) -> Inputs {
    Inputs::new()
        .with("q", half(&[b, h, l, d], 1))
        .with("k", half(&[b, hk, l, d], 2))
        .with("v", half(&[b, hk, l, dv], 3))
}

fn check(title: &str, variant: &dyn Variant, call: &Inputs, entries: &[&str]) {
    let cpu = Runtime::cpu().call_blocking(variant, call).expect(title);
    for (name, runtime) in matrix_engines() {
        let plan = runtime.plan(variant, call).expect(title);
        let layouts: Vec<_> = plan.slots.iter().map(|s| s.layout.clone()).collect();
        let launch = |n: usize| plan.stages[n].op.kernel().launch(&plan.io(n, &layouts), &runtime.caps()).expect(title);
        let taken: Vec<&str> = (0..plan.stages.len()).map(|n| launch(n).key.entry).collect();
        assert!(entries.iter().all(|entry| taken.contains(entry)), "{title} on {name} took {taken:?}");
        let outputs = runtime.call_blocking(variant, call).expect(title);
        let Engine::Gpu(engine) = runtime.engine() else { unreachable!() };
        let verdicts = engine.matrix_verdicts();
        assert!(!verdicts.is_empty() && verdicts.values().all(|right| *right), "{title} on {name}: {verdicts:?}");
        for (output, want) in cpu.iter() {
            if let Err(why) = close(want, outputs.get(output).expect(title), Budget::MATRIX) {
                panic!("{title} on {name}: {output}: {why}");
            }
        }
    }
}

const AT_ONCE: &[&str] = &["scan/sums", "scan/carry", "scan/reads"];
const RECORDS: &[&str] = &["scan/chunks", "scan/matrix"];
const CHANNELS: &[&str] = &["scan/chunks_channel", "scan/matrix"];

#[test]
fn odd_sizes_and_shared_heads() {
    for size in [[1, 1, 1, 32, 32, 32], [2, 4, 2, 63, 20, 24]] {
        let title = format!("{size:?}");
        check(&title, &LightningAttention::default(), &inputs(size), AT_ONCE);
        let plain = LinearAttention { phi: FeatureMap::Identity, normalise: false, ..Default::default() };
        check(&title, &plain, &inputs(size), AT_ONCE);
        check(&title, &LinearAttention::default(), &inputs(size), AT_ONCE);
    }
}

#[test]
fn states_masks_and_positions() {
    let [b, h, l, d, dv] = [2, 2, 75, 24, 32];
    let call = inputs([b, h, h, l, d, dv]).with("state", random(&[b, h, d, dv], 7));
    check("state", &LightningAttention::default(), &call, AT_ONCE);
    check("retention", &Retention::default(), &call.clone().with("gate", random(&[b, h, l, dv], 8)), RECORDS);
    let flags = (0..b * l).map(|n| u8::from(n % 5 != 2)).collect::<Vec<_>>();
    let mask = HostTensor::new(&[b, l], flags).expect("a mask");
    let z = HostTensor::from_fn(&[b, h, d], |n| 1.0 + n as f32 % 3.0);
    check("mask", &LinearAttention::default(), &call.with("key_mask", mask).with("z", z), AT_ONCE);
}

#[test]
fn segments() {
    let size = [1, 2, 1, 2100, 32, 32];
    check("lightning", &LightningAttention::default(), &inputs(size), AT_ONCE);
    check("linear", &LinearAttention::default(), &inputs(size), AT_ONCE);
    let records = ["scan/chunks", "scan/carry", "scan/matrix"];
    check("retention", &Retention::default(), &inputs([1, 2, 2, 2100, 32, 32]), &records);
}

#[test]
fn large_and_small_states() {
    let [l, d, dv] = [200, 32, 32];
    for (k, v) in [(60.0, 900.0), (1e-3, 1e-3)] {
        let call = Inputs::new()
            .with("q", random(&[1, 1, l, d], 1).to_f16())
            .with("k", HostTensor::from_fn(&[1, 1, l, d], |n| k * (1.0 + (n % 7) as f32 * 0.1)).to_f16())
            .with("v", HostTensor::from_fn(&[1, 1, l, dv], |n| v * (1.0 + (n % 5) as f32 * 0.1)).to_f16());
        let plain = LinearAttention { phi: FeatureMap::Identity, normalise: false, ..Default::default() };
        check(&format!("keys {k}, values {v}"), &plain, &call, AT_ONCE);
    }
}

/// Log decays from -`by` to 0.
fn decay(shape: &[usize], by: f32) -> HostTensor {
    let x = random(shape, 9).to_f32();
    HostTensor::from_fn(shape, |n| -by * (0.5 + 0.5 * x[n].clamp(-1.0, 1.0)))
}

#[test]
fn decay_a_channel() {
    for size @ [b, h, _, l, d, dv] in [[1, 1, 1, 32, 32, 32], [2, 4, 2, 63, 20, 24], [1, 2, 2, 130, 128, 40]] {
        for by in [0.1, 3.0, 90.0] {
            let call =
                inputs(size).with("log_decay", decay(&[b, h, l, d], by)).with("state", random(&[b, h, d, dv], 7));
            check(&format!("{size:?}, decay to {by}"), &GatedLinearAttention::default(), &call, CHANNELS);
        }
    }
    let call = inputs([1, 2, 1, 2100, 32, 32]).with("log_decay", decay(&[1, 2, 2100, 32], 0.1));
    check("segments", &GatedLinearAttention::default(), &call, &["scan/chunks_channel", "scan/carry", "scan/matrix"]);
}

/// Stages of the plan for a device with matrices.
fn stages(variant: &dyn Variant, call: &Inputs) -> Option<Vec<&'static str>> {
    let (_, runtime) = matrix_engines().into_iter().next()?;
    let plan = runtime.plan(variant, call).expect("a plan");
    Some(plan.stages.iter().map(|stage| stage.op.kernel().name()).collect())
}

#[test]
fn rows_are_made_where_the_records_are() {
    let size @ [b, h, _, l, d, dv] = [1, 4, 2, 70, 24, 16];
    let call = inputs(size);
    let Some(found) = stages(&LinearAttention::default(), &call) else { return };
    assert_eq!(found, ["scan.sums", "scan.carry", "scan.reads"]);
    // A table of cosines and sines is made of one row a position.
    let found = stages(&Retention::default(), &inputs([b, h, h, l, d, dv]));
    assert_eq!(found.expect("a plan")[..3], ["transform.rotary", "scan.chunks", "scan.chunked"]);
    let delta = call.with("beta", random(&[b, h, l], 4)).with("v", half(&[b, h, l, dv], 3));
    assert_eq!(stages(&DeltaNet::default(), &delta).expect("a plan"), ["scan.chunks", "scan.chunked"]);
    for phi in [FeatureMap::Relu, FeatureMap::Silu, FeatureMap::Exp] {
        let variant = LinearAttention { phi, normalise: false, ..Default::default() };
        check(&format!("{phi:?}"), &variant, &inputs(size), AT_ONCE);
    }
    check("turned", &Retention { offset: 1000, ..Default::default() }, &inputs([b, h, h, l, d, dv]), RECORDS);
}

#[test]
fn scratch_of_stretches() {
    stretches([1, 2, 150, 24, 16], 40 << 10, "scan.chunks");
    // Six segments a stretch: a pair of records is what has to fit.
    stretches([1, 1, 3100, 24, 16], 12 << 10, "scan.sums");
}

/// Three stretches, where scratch of 64 tokens' records or of six segments' states fits `binding`.
fn stretches([b, h, l, d, dv]: [usize; 5], binding: u64, first: &str) {
    use wgpu_attention::caps::Caps;
    use wgpu_attention::plan::PlanBuilder;
    use wgpu_attention::{Problem, Spec};
    let state = random(&[b, h, d, dv], 7);
    let flags = (0..b * l).map(|n| u8::from(n % 5 != 2)).collect::<Vec<_>>();
    let mask = HostTensor::new(&[b, l], flags).expect("a mask");
    let z = HostTensor::from_fn(&[b, h, d], |n| 1.0 + n as f32 % 3.0);
    let linear = inputs([b, h, h, l, d, dv]).with("key_mask", mask).with("z", z).with("state", &state);
    let turned = inputs([b, h, h, l, d, dv]).with("state", &state);
    let channels = turned.clone().with("log_decay", decay(&[b, h, l, d], 3.0));
    let delta = turned.clone().with("beta", HostTensor::from_fn(&[b, h, l], |n| 0.2 * (n % 5) as f32));
    let cases: [(&dyn Variant, &Inputs); 4] = [
        (&LinearAttention::default(), &linear),
        (&Retention::default(), &turned),
        (&GatedLinearAttention::default(), &channels),
        (&DeltaNet::default(), &delta),
    ];
    for (variant, call) in if first == "scan.sums" { &cases[..1] } else { &cases[1..] } {
        let cpu = Runtime::cpu().call_blocking(*variant, call).expect("a result");
        for (name, runtime) in matrix_engines() {
            let specs = call.iter().map(|(n, t)| (n, Spec { dtype: t.dtype(), shape: t.shape().to_vec() }));
            let problem = Problem::new(*variant, specs).expect("a problem");
            let caps = Caps { max_binding: binding, ..runtime.caps() };
            let mut builder = PlanBuilder::new(&problem).on(&caps);
            variant.plan(&problem, &mut builder).expect("a plan");
            let plan = builder.finish().expect("a plan");
            let made = plan.stages.iter().filter(|s| s.op.kernel().name() == first).count();
            assert_eq!(made, 3, "{variant:?}");
            let prepared = pollster::block_on(runtime.prepare(plan)).expect("a prepared plan");
            let outputs = runtime.run(&prepared, call).expect("a run");
            for (output, want) in cpu.iter() {
                let got = pollster::block_on(runtime.read(outputs.get(output).expect("a result"))).expect("a result");
                if let Err(why) = close(want, &got, Budget::MATRIX) {
                    panic!("{variant:?} on {name}: {output}: {why}");
                }
            }
        }
    }
}

#[test]
fn one_value_that_is_not_finite() {
    let [b, h, l, d, dv] = [1, 1, 100, 24, 40];
    let values = random(&[b, h, l, dv], 3).to_f32();
    let key = HostTensor::from_fn(&[b, h, l], |n| 0.2 * (n % 5) as f32);
    for x in [f32::NAN, f32::INFINITY] {
        // Column 5 of token 40.
        let v = HostTensor::from_fn(&[b, h, l, dv], |n| if n == 40 * dv + 5 { x } else { values[n] }).to_f16();
        let call = inputs([b, h, h, l, d, dv]).with("v", v).with("beta", key.clone());
        let plain = inputs([b, h, h, l, d, dv]).with("beta", key.clone());
        let variants: [&dyn Variant; 2] = [&LightningAttention::default(), &DeltaNet::default()];
        for variant in variants {
            let takes = |call: &Inputs| {
                let known = |name: &str| variant.card().inputs.iter().any(|i| i.name == name);
                call.iter().filter(|(n, _)| known(n)).fold(Inputs::new(), |all, (n, t)| all.with(n, t))
            };
            for (name, runtime) in matrix_engines() {
                let found = runtime.call_blocking(variant, &takes(&call)).expect("a result");
                let want = runtime.call_blocking(variant, &takes(&plain)).expect("a result");
                let (found, want) = (found.get("out").expect("out").to_f32(), want.get("out").expect("out").to_f32());
                for (n, (x, y)) in found.iter().zip(&want).enumerate() {
                    // Earlier tokens of its chunk of 32 may have it too: the product of a weight of 0.
                    if n % dv == 5 && (32..40).contains(&(n / dv)) {
                        continue;
                    }
                    if n % dv == 5 && n / dv >= 40 {
                        assert!(!x.is_finite(), "{variant:?} on {name}: row {} is {x}", n / dv);
                    } else {
                        assert!((x - y).abs() <= 2e-3, "{variant:?} on {name}: {n}: {x}, {y}");
                    }
                }
            }
        }
    }
}
