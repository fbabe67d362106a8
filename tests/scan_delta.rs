//! The delta rule in chunks against the CPU engine, which goes token by token: odd sizes, shared heads, states, strong decay, repeated keys.
//! The matrix form runs on adapters that have such matrices.

mod common;

use common::{Budget, close, engines, random};
use wgpu_attention::variants::linear::{DeltaNet, GatedDeltaNet};
use wgpu_attention::{Engine, HostTensor, Inputs, Runtime, Variant};

/// Numbers from 0 to 1.
fn unit(shape: &[usize], seed: u64) -> HostTensor {
    let x = random(shape, seed).to_f32();
    HostTensor::from_fn(shape, |n| 1.0 / (1.0 + (-x[n]).exp()))
}

fn decay(shape: &[usize], seed: u64, by: f32) -> HostTensor {
    let x = unit(shape, seed).to_f32();
    HostTensor::from_fn(shape, |n| -by * x[n])
}

/// B, H, Hk, L, D, Dv.
fn inputs([b, h, hk, l, d, dv]: [usize; 6], half: bool) -> Inputs {
    let real = |shape: &[usize], seed| if half { random(shape, seed).to_f16() } else { random(shape, seed) };
    Inputs::new()
        .with("q", real(&[b, hk, l, d], 1))
        .with("k", real(&[b, hk, l, d], 2))
        .with("v", real(&[b, h, l, dv], 3))
        .with("beta", unit(&[b, h, l], 4))
}

/// The engines agree, with matrices for f16 and without for f32.
fn check(title: &str, variant: &dyn Variant, call: &Inputs, matrix: bool) {
    check_within(title, variant, call, matrix, Budget::MATRIX);
}

fn check_within(title: &str, variant: &dyn Variant, call: &Inputs, matrix: bool, allowed: Budget) {
    let cpu = Runtime::cpu().call_blocking(variant, call).expect(title);
    for (name, runtime) in engines() {
        let caps = runtime.caps();
        let outputs = runtime.call_blocking(variant, call).expect(title);
        let Engine::Gpu(engine) = runtime.engine() else { continue };
        let verdicts = engine.matrix_verdicts();
        assert!(verdicts.values().all(|right| *right), "{title} on {name}: {verdicts:?}");
        let covered = matrix && caps.matrix.is_some();
        assert!(!covered || !verdicts.is_empty(), "{title} on {name}: no kernel by matrices was tried");
        let budget = if covered { allowed } else { Budget::F32 };
        for (output, want) in cpu.iter() {
            if let Err(why) = close(want, outputs.get(output).expect(title), budget) {
                panic!("{title} on {name}: {output}: {why}");
            }
        }
    }
}

#[test]
fn odd_sizes_and_shared_heads() {
    for size in [[1, 1, 1, 32, 32, 32], [2, 4, 2, 67, 20, 24], [1, 2, 1, 100, 128, 40]] {
        for half in [true, false] {
            // The deeper ones by 8 x 8 matrices are more text than LLVM compiles in minutes; the bench rows check them on a GPU.
            let mut size = size;
            size[4] = if half { size[4].min(32) } else { size[4] };
            let title = format!("{size:?} half {half}");
            let call = inputs(size, half);
            check(&title, &GatedDeltaNet::default(), &call, half);
            let call = call.with("log_decay", decay(&[size[0], size[1], size[3]], 5, 0.2));
            check(&title, &GatedDeltaNet::default(), &call, half);
            let call = call.with("log_decay", decay(&[size[0], size[1], size[3], size[4]], 6, 0.2));
            check(&format!("{title}, a channel"), &GatedDeltaNet::default(), &call, half);
        }
    }
    check("delta-net", &DeltaNet::default(), &inputs([1, 2, 2, 70, 24, 16], true), true);
}

#[test]
fn states_go_in_and_out() {
    let size @ [b, h, _, l, d, dv] = [2, 2, 2, 75, 24, 32];
    for half in [true, false] {
        let call =
            inputs(size, half).with("state", random(&[b, h, d, dv], 7)).with("log_decay", decay(&[b, h, l], 5, 0.1));
        check("state", &GatedDeltaNet::default(), &call, half);
        let first = HostTensor::from_fn(&[b, h, d, dv], |n| 1e5 * (1.0 + (n % 3) as f32));
        check("large state", &GatedDeltaNet::default(), &call.with("state", first), half);
    }
}

#[test]
fn strong_decay_stays_finite() {
    let size @ [b, h, _, l, ..] = [1, 2, 2, 133, 32, 16];
    for by in [5.0, 80.0, 400.0] {
        for half in [true, false] {
            let call = inputs(size, half).with("log_decay", decay(&[b, h, l], 5, by));
            check(&format!("decay to {by}"), &GatedDeltaNet::default(), &call, half);
        }
    }
}

#[test]
fn repeated_keys_are_replaced() {
    let [b, h, l, d, dv] = [1, 1, 96, 32, 16];
    let key = random(&[d], 2).to_f32();
    for half in [true, false] {
        let keys = HostTensor::from_fn(&[b, h, l, d], |n| key[n % d] * if n / d % 3 == 0 { 1.0 } else { 1.5 });
        let call = inputs([b, h, h, l, d, dv], half)
            .with("k", if half { keys.to_f16() } else { keys })
            .with("beta", HostTensor::from_fn(&[b, h, l], |_| 1.0));
        let allowed = Budget::REPLACED;
        check_within("one key", &GatedDeltaNet::default(), &call, half, allowed);
        let call = call.with("beta", HostTensor::from_fn(&[b, h, l], |n| 1.0 + (n % 2) as f32));
        check_within("weights up to 2", &GatedDeltaNet::default(), &call, half, allowed);
    }
}

#[test]
fn small_values_keep_their_digits() {
    let [b, h, l, d, dv] = [1, 1, 70, 32, 16];
    let small = |shape: &[usize], seed, by: f32| {
        let x = random(shape, seed).to_f32();
        HostTensor::from_fn(shape, |n| by * x[n]).to_f16()
    };
    let call = inputs([b, h, h, l, d, dv], true)
        .with("k", small(&[b, h, l, d], 2, 1e-2))
        .with("v", small(&[b, h, l, dv], 3, 1e-3));
    check("small", &GatedDeltaNet { qk_l2norm: false, ..Default::default() }, &call, true);
}
