//! Laws: what must be equal whatever the numbers are, on every engine; and random problems, CPU against GPU.

mod common;

use common::{Budget, close, engines, random};
use proptest::prelude::*;
use wgpu_attention::variants::dense::{DenseAttention, MergeLse, SplitKvDecode, VarlenAttention};
use wgpu_attention::variants::linear::{DeltaNet, MesaLayer, Retention, RlsLayer, TitansMemory};
use wgpu_attention::variants::sparse::BlockSparseAttention;
use wgpu_attention::variants::{Pattern, hierarchical::TokenListAttention};
use wgpu_attention::{HostTensor, Inputs, Outputs, Runtime, Variant};

fn inputs(q: &HostTensor, k: &HostTensor, v: &HostTensor) -> Inputs {
    Inputs::new().with("q", q).with("k", k).with("v", v)
}

fn call(runtime: &Runtime, variant: &dyn Variant, inputs: &Inputs) -> Outputs<HostTensor> {
    runtime.call_blocking(variant, inputs).unwrap_or_else(|e| panic!("{runtime}: {e}"))
}

fn same(title: &str, want: &HostTensor, got: &HostTensor) {
    common::assert_close(title, want, got, Budget::F32);
}

#[test]
fn split_equals_whole() {
    let [q, k, v] = [random(&[2, 4, 3, 20], 1), random(&[2, 2, 70, 20], 2), random(&[2, 2, 70, 12], 3)];
    for (name, runtime) in engines() {
        let whole = call(&runtime, &DenseAttention::default(), &inputs(&q, &k, &v));
        for splits in [1, 2, 7, 70, 72] {
            let split = call(&runtime, &SplitKvDecode { splits, ..Default::default() }, &inputs(&q, &k, &v));
            for output in ["out", "lse"] {
                same(&format!("{name} {splits} {output}"), whole.get(output).unwrap(), split.get(output).unwrap());
            }
        }
    }
}

#[test]
fn parts_of_the_keys_merge_to_the_whole() {
    let [q, k, v] = [random(&[1, 2, 9, 8], 1), random(&[1, 2, 33, 8], 2), random(&[1, 2, 33, 8], 3)];
    for (name, runtime) in engines() {
        let dense = DenseAttention::default();
        let whole = call(&runtime, &dense, &inputs(&q, &k, &v));
        let part = |from, n| call(&runtime, &dense, &inputs(&q, &k.narrow(2, from, n), &v.narrow(2, from, n)));
        let (a, b) = (part(0, 10), part(10, 23));
        let stack = |output: &str| {
            let (a, b) = (a.get(output).unwrap(), b.get(output).unwrap());
            let shape = [&[2], a.shape()].concat();
            HostTensor::new(&shape, [a.to_f32(), b.to_f32()].concat()).unwrap()
        };
        let parts = Inputs::new().with("outs", stack("out")).with("lses", stack("lse"));
        let merged = call(&runtime, &MergeLse::default(), &parts);
        same(name, whole.get("out").unwrap(), merged.get("out").unwrap());
        same(name, whole.get("lse").unwrap(), merged.get("lse").unwrap());
    }
}

#[test]
fn packed_equals_separate() {
    let lengths = [5, 1, 17];
    let total: usize = lengths.iter().sum();
    let [q, k, v] = [1, 2, 3].map(|seed| random(&[2, total, 12], seed));
    let cu = lengths.iter().scan(0, |at, n| {
        *at += n;
        Some(*at as i32)
    });
    let cu: Vec<i32> = std::iter::once(0).chain(cu).collect();
    let cu = HostTensor::new(&[4], cu).unwrap();
    for (name, runtime) in engines() {
        let packed = inputs(&q, &k, &v).with("cu_q", &cu).with("cu_k", &cu);
        let packed = call(&runtime, &VarlenAttention { causal: true, ..Default::default() }, &packed);
        let mut start = 0;
        for n in lengths {
            let one = |t: &HostTensor| {
                let rows = t.narrow(1, start, n).contiguous();
                HostTensor::new(&[1, 2, n, 12], rows.to_f32()).unwrap()
            };
            let variant = DenseAttention { pattern: Pattern::CausalSelf, ..Default::default() };
            let alone = call(&runtime, &variant, &inputs(&one(&q), &one(&k), &one(&v)));
            let part = packed.get("out").unwrap().narrow(1, start, n).contiguous();
            let part = HostTensor::new(&[1, 2, n, 12], part.to_f32()).unwrap();
            same(&format!("{name} {n}"), alone.get("out").unwrap(), &part);
            start += n;
        }
    }
}

#[test]
fn shared_heads_equal_repeated_heads() {
    let [q, k, v] = [random(&[1, 6, 11, 8], 1), random(&[1, 2, 20, 8], 2), random(&[1, 2, 20, 8], 3)];
    let repeat = |t: &HostTensor| {
        let layout = t.layout().clone();
        let (shape, row) = ([1, 6, 20, 8], layout.strides[1]);
        let data = t.to_f32();
        HostTensor::new(&shape, (0..6).flat_map(|h| data[h / 3 * row..][..row].to_vec()).collect::<Vec<_>>()).unwrap()
    };
    for (name, runtime) in engines() {
        let shared = call(&runtime, &DenseAttention::default(), &inputs(&q, &k, &v));
        let repeated = call(&runtime, &DenseAttention::default(), &inputs(&q, &repeat(&k), &repeat(&v)));
        same(name, repeated.get("out").unwrap(), shared.get("out").unwrap());
    }
}

#[test]
fn block_plan_equals_dense_mask_and_token_lists_equal_dense() {
    let (lq, lk) = (37, 50);
    let [q, k, v] = [random(&[1, 2, lq, 8], 1), random(&[1, 2, lk, 8], 2), random(&[1, 2, lk, 8], 3)];
    let (bq, bk) = (8, 16);
    let blocks = |i: usize, j: usize| (i / bq + j / bk) % 3 != 1;
    let block_mask = (0..5 * 4).map(|n| u8::from(blocks(n / 4 * bq, n % 4 * bk))).collect::<Vec<_>>();
    let mask = (0..lq * lk).map(|n| u8::from(blocks(n / lk, n % lk))).collect::<Vec<_>>();
    let lists = HostTensor::new(&[1, lq, lk], (0..lq).flat_map(|_| (0..lk as i32).rev()).collect::<Vec<_>>()).unwrap();
    for (name, runtime) in engines() {
        let variant = BlockSparseAttention { block_q: bq, block_k: bk, ..Default::default() };
        let block_mask = HostTensor::new(&[1, 5, 4], block_mask.clone()).unwrap();
        let sparse = call(&runtime, &variant, &inputs(&q, &k, &v).with("block_mask", &block_mask));
        let mask = HostTensor::new(&[lq, lk], mask.clone()).unwrap();
        let dense = call(&runtime, &DenseAttention::default(), &inputs(&q, &k, &v).with("mask", &mask));
        same(name, dense.get("out").unwrap(), sparse.get("out").unwrap());
        let all = call(&runtime, &DenseAttention::default(), &inputs(&q, &k, &v));
        let listed = call(&runtime, &TokenListAttention::default(), &inputs(&q, &k, &v).with("indices", &lists));
        same(name, all.get("out").unwrap(), listed.get("out").unwrap());
    }
}

#[test]
fn chunked_equals_recurrent_steps() {
    let (l, d) = (19, 8);
    let [q, k, v] = [1, 2, 3].map(|seed| random(&[1, 2, l, d], seed));
    for (name, runtime) in engines() {
        let whole = call(&runtime, &Retention::default(), &inputs(&q, &k, &v));
        let mut state = HostTensor::zeros(&[1, 2, d, d]);
        for t in 0..l {
            let row = |x: &HostTensor| x.narrow(2, t, 1).contiguous();
            let step = inputs(&row(&q), &row(&k), &row(&v)).with("state", &state);
            let step = call(&runtime, &Retention { offset: t, ..Default::default() }, &step);
            let want = whole.get("raw").unwrap().narrow(2, t, 1).contiguous();
            common::assert_close(&format!("{name} {t}"), &want, step.get("raw").unwrap(), Budget::SCAN);
            state = step.get("state").unwrap().clone();
        }
        common::assert_close(name, whole.get("state").unwrap(), &state, Budget::SCAN);
    }
}

#[test]
fn fully_masked_row_is_zero_and_nan_stays_in_its_row() {
    let (lq, lk) = (40, 37);
    let (mut q, mut k, mut v) = (random(&[1, 1, lq, 8], 1), random(&[1, 1, lk, 8], 2), random(&[1, 1, lk, 8], 3));
    let clean = [q.clone(), k.clone(), v.clone()];
    let poison = |t: &mut HostTensor, row: usize, x: f32| match t.data_mut() {
        wgpu_attention::HostData::F32(data) => data[row * 8..(row + 1) * 8].fill(x),
        _ => unreachable!(),
    };
    // Row 3 is masked, row 5 has a NaN query, key 7 is NaN with an infinite value and only row 9 sees it.
    poison(&mut q, 5, f32::NAN);
    poison(&mut k, 7, f32::NAN);
    poison(&mut v, 7, f32::INFINITY);
    let mask = (0..lq * lk).map(|n| u8::from(n / lk != 3 && (n % lk != 7 || n / lk == 9))).collect::<Vec<_>>();
    let mask = HostTensor::new(&[lq, lk], mask).unwrap();
    for (name, runtime) in engines() {
        let [cq, ck, cv] = &clean;
        let want = call(&runtime, &DenseAttention::default(), &inputs(cq, ck, cv).with("mask", &mask));
        let got = call(&runtime, &DenseAttention::default(), &inputs(&q, &k, &v).with("mask", &mask));
        let (want, got, lse) =
            (want.get("out").unwrap().to_f32(), got.get("out").unwrap().to_f32(), got.get("lse").unwrap().to_f32());
        for i in 0..lq {
            let row = &got[i * 8..(i + 1) * 8];
            match i {
                3 => {
                    assert!(row.iter().all(|&x| x == 0.0) && lse[3] == f32::NEG_INFINITY, "{name}: {row:?} {}", lse[3])
                }
                5 | 9 => assert!(row.iter().all(|x| x.is_nan()), "{name} row {i}: {row:?}"),
                _ => assert!(
                    row.iter().zip(&want[i * 8..]).all(|(a, b)| (a - b).abs() < 1e-5),
                    "{name} row {i}: {row:?}"
                ),
            }
        }
    }
}

/// A problem of odd sizes, with scores from tiny to huge and a mask that may empty rows.
fn problem() -> impl Strategy<Value = ([usize; 6], f32, u64, bool)> {
    let sizes = (1..3_usize, 1..3_usize, 1..3_usize, 1..50_usize, 1..70_usize, 1..40_usize);
    (sizes, prop_oneof![Just(1e-3_f32), Just(1.0), Just(30.0), Just(1e4)], any::<u64>(), any::<bool>())
        .prop_map(|((b, hk, g, lq, lk, d), size, seed, causal)| ([b, hk, g, lq, lk, d], size, seed, causal))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_problems_agree_on_cpu_and_gpu(([b, hk, g, lq, lk, d], size, seed, causal) in problem()) {
        let scaled = |t: HostTensor| HostTensor::new(t.shape(), t.to_f32().iter().map(|x| x * size).collect::<Vec<_>>()).unwrap();
        let q = scaled(random(&[b, hk * g, lq, d], seed));
        let (k, v) = (random(&[b, hk, lk, d], seed ^ 1), random(&[b, hk, lk, d], seed ^ 2));
        let mask = (0..lq * lk).map(|n| u8::from((n as u64).wrapping_mul(seed | 1) >> 61 > 1 && (n / lk) % 7 != 3)).collect::<Vec<_>>();
        let mask = HostTensor::new(&[lq, lk], mask).unwrap();
        let pattern = if causal { Pattern::CausalCross } else { Pattern::NoncausalCross };
        let variant = DenseAttention { pattern, ..Default::default() };
        let list = engines();
        let want = call(&list[0].1, &variant, &inputs(&q, &k, &v).with("mask", &mask));
        for (name, runtime) in &list[1..] {
            let got = call(runtime, &variant, &inputs(&q, &k, &v).with("mask", &mask));
            // Scores of 1e4 have an absolute rounding error near 1e-3, which the exponential turns into a relative one.
            let budget = if size > 100.0 { Budget::LARGE_SCORES } else { Budget::F32 };
            if let Err(why) = close(want.get("out").unwrap(), got.get("out").unwrap(), budget) {
                return Err(TestCaseError::fail(format!("{name}: {why}")));
            }
        }
    }
}

#[test]
fn a_linear_memory_without_momentum_is_the_delta_rule() {
    let (shape, rows) = ([2, 3, 30], [2, 3, 30, 8]);
    let [q, k, v] = [1, 2, 3].map(|seed| random(&rows, seed));
    let beta = HostTensor::from_fn(&shape, |n| 0.1 * (n % 7) as f32 / 7.0);
    let theta = HostTensor::from_fn(&shape, |n| 0.05 * (n % 7) as f32 / 7.0);
    let zero = HostTensor::zeros(&shape);
    let start = random(&[2, 3, 8, 8], 4);
    for (name, runtime) in engines() {
        let delta = DeltaNet { scale: Some(1.0), qk_l2norm: false };
        let want = call(&runtime, &delta, &inputs(&q, &k, &v).with("beta", &beta).with("state", &start));
        let rates = inputs(&q, &k, &v).with("theta", &theta).with("alpha", &zero).with("eta", &zero);
        let got = call(&runtime, &TitansMemory::default(), &rates.with("weight0", &start));
        for (want_name, got_name) in [("out", "out"), ("state", "weight0")] {
            let (want, got) = (want.get(want_name).unwrap(), got.get(got_name).unwrap());
            common::assert_close(&format!("{name} {got_name}"), want, got, Budget::SCAN);
        }
    }
}

#[test]
fn recursive_least_squares_is_the_mesa_layer_without_decay() {
    let [q, k, v] = [1, 2, 3].map(|seed| random(&[1, 2, 40, 6], seed));
    for (name, runtime) in engines() {
        let rls = call(&runtime, &RlsLayer { ridge: 2.0 }, &inputs(&q, &k, &v));
        for iterations in [None, Some(6)] {
            let mesa = call(&runtime, &MesaLayer { ridge: 2.0, iterations }, &inputs(&q, &k, &v));
            common::assert_close(name, mesa.get("out").unwrap(), rls.get("out").unwrap(), Budget::F16);
        }
    }
}
