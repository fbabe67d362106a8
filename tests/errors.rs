//! Every kind of error, as its text: variant, argument, expected, found. The snapshot is what a user reads.

mod common;

use common::random;
use std::fmt::Write;
use wgpu_attention::gpu::GpuOptions;
use wgpu_attention::params::Value;
use wgpu_attention::{ErrorKind, HostTensor, Inputs, Layout, Result, Runtime, Tensor, variant};

fn plan(name: &str, params: &[(&str, &str)], inputs: &[(&str, HostTensor)]) -> Result<()> {
    let params: Vec<(String, Value)> = params.iter().map(|(n, v)| ((*n).to_owned(), Value::parse(v))).collect();
    let variant = variant::find(name)?.make(&params)?;
    let inputs = inputs.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
    Runtime::cpu().plan(&*variant, &inputs).map(|_| ())
}

fn t(shape: &[usize]) -> HostTensor {
    random(shape, 7)
}

fn i(shape: &[usize], values: &[i32]) -> HostTensor {
    HostTensor::new(shape, values.to_vec()).expect("as many values as the shape says")
}

fn qkv() -> Vec<(&'static str, HostTensor)> {
    vec![("q", t(&[1, 4, 6, 8])), ("k", t(&[1, 2, 5, 8])), ("v", t(&[1, 2, 5, 8]))]
}

fn with(name: &'static str, tensor: HostTensor) -> Vec<(&'static str, HostTensor)> {
    let mut list = qkv();
    list.retain(|(n, _)| *n != name);
    list.push((name, tensor));
    list
}

/// What a user does wrong: a title, and the call.
fn mistakes() -> Vec<(&'static str, Result<()>)> {
    let dense = "dense-attention";
    let without_v: Vec<_> = qkv().into_iter().filter(|(n, _)| *n != "v").collect();
    let wide: Vec<_> = with("k", t(&[1, 2, 5, 8]).to_f16());
    let mut list = vec![
        ("unknown variant", plan("dense-atention", &[], &qkv())),
        ("unknown parameter", plan(dense, &[("causal", "true")], &qkv())),
        ("parameter of a wrong type", plan(dense, &[("scale", "wide")], &qkv())),
        ("parameter that is not a word of it", plan(dense, &[("pattern", "causal")], &qkv())),
        ("negative count", plan(dense, &[("window_left", "-1")], &qkv())),
        ("NaN as a parameter", plan(dense, &[("scale", "NaN")], &qkv())),
        ("cap of zero", plan("softcap-attention", &[("cap", "0")], &qkv())),
        ("unknown input", plan(dense, &[], &with("query", t(&[1])))),
        ("missing input", plan(dense, &[], &without_v)),
        ("wrong rank", plan(dense, &[], &with("q", t(&[4, 6, 8])))),
        ("heads that do not divide", plan(dense, &[], &with("q", t(&[1, 3, 6, 8])))),
        ("lengths that differ", plan(dense, &[], &with("v", t(&[1, 2, 4, 8])))),
        ("widths that differ", plan(dense, &[], &with("k", t(&[1, 2, 5, 4])))),
        ("zero size", plan(dense, &[], &with("q", t(&[1, 4, 0, 8])))),
        ("element types that differ", plan(dense, &[], &wide)),
        ("element type that is not taken", plan(dense, &[], &with("q", i(&[1, 1, 1, 1], &[1])))),
        (
            "mask that does not broadcast",
            plan(dense, &[], &with("mask", HostTensor::zeros_of(wgpu_attention::DType::U8, &[3, 5]))),
        ),
        ("lengths beyond the keys", plan(dense, &[], &with("lengths", i(&[1], &[6])))),
        ("innermost stride", plan(dense, &[], &with("q", t(&[1, 4, 8, 6]).permute(&[0, 1, 3, 2])))),
        ("no block pattern", plan("block-sparse-attention", &[], &qkv())),
        ("block of zero", plan("block-sparse-attention", &[("block_q", "0")], &qkv())),
        (
            "grid that is not L",
            plan(
                "neighborhood-attention",
                &[("shape", "3,3")],
                &[("q", t(&[1, 1, 8, 4])), ("k", t(&[1, 1, 8, 4])), ("v", t(&[1, 1, 8, 4]))],
            ),
        ),
        (
            "window over the grid",
            plan(
                "neighborhood-attention",
                &[("window", "9")],
                &[("q", t(&[1, 1, 8, 4])), ("k", t(&[1, 1, 8, 4])), ("v", t(&[1, 1, 8, 4]))],
            ),
        ),
    ];
    let mut csr = qkv();
    csr.push(("indptr", i(&[4, 2], &[0, 1, 0, 1, 0, 1, 0, 1])));
    csr.push(("indices", i(&[4, 1], &[0, 0, 7, 0])));
    list.push(("index out of range", plan("block-sparse-attention", &[], &csr)));
    csr[3] = ("indptr", i(&[4, 2], &[0, 1, 1, 0, 0, 1, 0, 1]));
    list.push(("list pointers that fall", plan("block-sparse-attention", &[], &csr)));
    let packed = |cu: &[i32]| {
        vec![
            ("q", t(&[2, 6, 8])),
            ("k", t(&[2, 6, 8])),
            ("v", t(&[2, 6, 8])),
            ("cu_q", i(&[3], cu)),
            ("cu_k", i(&[3], &[0, 3, 6])),
        ]
    };
    list.push(("cumulative lengths beyond the rows", plan("varlen-attention", &[], &packed(&[0, 3, 7]))));
    list.push(("splits of zero", plan("split-kv-decode", &[("splits", "0")], &qkv())));
    list.extend(linear_mistakes());
    list
}

fn linear_mistakes() -> Vec<(&'static str, Result<()>)> {
    let flags = |blocks: usize| HostTensor::zeros_of(wgpu_attention::DType::U8, &[1, 2, blocks]);
    let nats = |flags: HostTensor, more: Vec<(&'static str, HostTensor)>| {
        let mut list = vec![("q", t(&[1, 2, 20, 8])), ("k", t(&[1, 2, 20, 8])), ("v", t(&[1, 2, 20, 8]))];
        list.extend([("beta", t(&[1, 2, 20])), ("log_decay", t(&[1, 2, 20])), ("is_softmax", flags)]);
        list.extend(more);
        list
    };
    let scores = [("x", t(&[1, 20, 4])), ("w_score", t(&[4, 2, 2]))];
    let tokens = [("q", t(&[1, 2, 5, 8])), ("k", t(&[1, 2, 5, 8])), ("v", t(&[1, 2, 5, 8]))];
    let image = |name: &'static str, shape: &[usize]| vec![("z", t(&[1, 6, 5, 7])), (name, t(shape))];
    let gates = |shape: &[usize]| vec![("x", t(&[1, 6, 5, 7])), ("conv_weight", t(shape))];
    let (ela, six) = ("efficient-local-attention", ("norm_groups", "6"));
    vec![
        ("types of too few blocks", plan("nats-l", &[("block", "8")], &nats(flags(2), vec![]))),
        ("block of no tokens", plan("nats-l", &[("block", "0")], &nats(flags(2), vec![]))),
        ("keys of another width", plan("nats-l", &[], &nats(flags(1), vec![("q_attn", t(&[1, 2, 20, 4]))]))),
        ("no complete block", plan("nats-l-block-types", &[], &scores)),
        ("clamp of zero", plan("flow-attention-causal", &[("clamp", "0")], &tokens)),
        ("eps below zero", plan("flow-attention-causal", &[("eps", "-1")], &tokens)),
        ("matrix that does not fit the rows", plan("hyper-zzw", &[], &image("w", &[1, 6, 1, 1]))),
        ("score that does not broadcast", plan("hyper-zzw", &[("mode", "elementwise")], &image("w", &[6, 5, 5]))),
        ("kernel without a middle", plan("hyper-zzw-local", &[], &image("kernel", &[1, 6, 4, 4]))),
        ("groups that do not divide", plan(ela, &[], &gates(&[6, 1, 3]))),
        ("weight of other groups", plan(ela, &[six], &gates(&[6, 2, 3]))),
        ("even number of taps", plan(ela, &[six], &gates(&[6, 1, 4]))),
    ]
}

#[test]
fn messages_name_variant_argument_expected_and_found() {
    let mut text = String::new();
    for (title, result) in mistakes() {
        let error = result.expect_err(title);
        let _ = writeln!(text, "{title}\n  {:?}: {error}", error.kind());
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_plan_refuses_inputs_it_was_not_made_for() {
    let runtime = Runtime::cpu();
    let variant = variant::find("dense-attention").expect("a variant").make(&[]).expect("defaults");
    let inputs = |list: Vec<(&str, HostTensor)>| list.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
    let prepared = runtime.prepare_blocking(runtime.plan(&*variant, &inputs(qkv())).expect("a plan")).expect("ready");
    let kind = |list| runtime.run(&prepared, &inputs(list)).unwrap_err().kind();
    assert_eq!(kind(with("q", t(&[1, 4, 7, 8]))), ErrorKind::Shape);
    assert_eq!(kind(with("q", t(&[1, 4, 6, 8]).to_f16())), ErrorKind::DType);
    assert_eq!(kind(with("sink", t(&[4]))), ErrorKind::UnknownName);
    assert_eq!(kind(qkv().into_iter().take(2).collect()), ErrorKind::MissingInput);
    let outputs = runtime.run(&prepared, &inputs(qkv())).expect("a run");
    assert_eq!(outputs.get("weights").unwrap_err().kind(), ErrorKind::UnknownName);
}

#[test]
fn tensors_check_their_memory() {
    assert_eq!(HostTensor::new(&[2, 3], vec![0.0_f32; 5]).unwrap_err().kind(), ErrorKind::Shape);
    let far = Layout { shape: vec![2], strides: vec![10], offset: 0 };
    assert_eq!(HostTensor::strided(far, vec![0.0_f32; 5]).unwrap_err().kind(), ErrorKind::Shape);
}

#[test]
fn an_adapter_that_is_not_there_is_a_typed_error() {
    let options = GpuOptions { adapter: Some("no such adapter".into()), ..Default::default() };
    let error = Runtime::gpu_blocking(&options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoAdapter, "{error}");
}

#[test]
fn a_destroyed_device_is_a_typed_error() {
    for (name, _) in common::engines() {
        let options = GpuOptions { adapter: Some(name.into()), ..Default::default() };
        if name == "cpu" || name == "gpu" {
            continue;
        }
        let runtime = Runtime::gpu_blocking(&options).expect(name);
        let wgpu_attention::Engine::Gpu(engine) = runtime.engine() else { unreachable!() };
        let tensor: Tensor = runtime.upload(&t(&[4])).expect(name);
        engine.device().0.destroy();
        let _ = runtime.wait();
        let error = runtime.read_blocking(&tensor).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceLost, "{name}: {error}");
    }
}
