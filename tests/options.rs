//! Every option of dense attention on every tier and engine: it is honoured, or refused with a typed error, and never dropped in silence.
//! `ATTN_TEST=sink` keeps the options whose name contains the word.

mod common;

use common::{Budget, close, engines, random, tensor_of};
use wgpu_attention::caps::{Caps, Target, Tier};
use wgpu_attention::case::oracle_inputs;
use wgpu_attention::oracle::Outputs;
use wgpu_attention::plan::Plan;
use wgpu_attention::{ErrorKind, HostTensor, Inputs, Problem, Spec, Value, Variant, runtime, variant};

type Tensors = Vec<(&'static str, HostTensor)>;

/// An option: a name, the variant, its parameters and inputs, and the inputs and parameters of the same call without it.
struct Choice {
    name: &'static str,
    variant: &'static str,
    with: Vec<(&'static str, &'static str)>,
    more: Tensors,
    without: Vec<(&'static str, &'static str)>,
    less: Tensors,
}

/// B, H, Hk, Lq, Lk, D, Dv: enough rows for the tile of cooperative matrices.
const SIZE: [usize; 7] = [2, 4, 2, 40, 70, 16, 24];

fn choices() -> Vec<Choice> {
    let [b, h, _, lq, lk, d, _] = SIZE;
    let ints = |n: usize, of: &dyn Fn(usize) -> i32| HostTensor::new(&[n], (0..n).map(of).collect::<Vec<_>>()).unwrap();
    let flags = |shape: &[usize], of: &dyn Fn(usize) -> bool| {
        HostTensor::new(shape, (0..shape.iter().product()).map(|n| u8::from(of(n))).collect::<Vec<_>>()).unwrap()
    };
    let fill = |shape: &[usize], x: f32| HostTensor::from_fn(shape, |_| x);
    let dense = |name, with: &[(&'static str, &'static str)], more: Tensors| Choice {
        name,
        variant: "dense-attention",
        with: with.to_vec(),
        more,
        without: vec![],
        less: vec![],
    };
    let of =
        |name, variant, with: &[(&'static str, &'static str)], more, without: &[(&'static str, &'static str)], less| {
            Choice { name, variant, with: with.to_vec(), more, without: without.to_vec(), less }
        };
    let uneven = |shape: &[usize]| HostTensor::from_fn(shape, |n| 0.5 + (n % 7) as f32 * 0.25);
    let mut list = vec![
        dense("causal", &[("pattern", "causal_cross")], vec![]),
        dense("window", &[("window_left", "9"), ("window_right", "4")], vec![]),
        dense("scale", &[("scale", "0.7")], vec![]),
        dense("softcap", &[("softcap", "0.8")], vec![]),
        dense("bias", &[], vec![("bias", random(&[b, h, lq, lk], 4))]),
        dense("bias of keys", &[], vec![("bias", random(&[h, 1, lk], 4))]),
        dense("mask", &[], vec![("mask", flags(&[b, 1, lq, lk], &|n| n % 3 != 0 && n / lk % lq != 5))]),
        dense("sink", &[], vec![("sink", random(&[h], 4))]),
        dense("sinks", &[], vec![("sink", random(&[h, 3], 4))]),
        dense(
            "row limits",
            &[],
            vec![("row_start", ints(lq, &|i| i as i32 % 9)), ("row_end", ints(lq, &|i| 30 + i as i32))],
        ),
        dense(
            "positions",
            &[],
            vec![("pos_q", ints(lq, &|i| 69 - i as i32)), ("pos_k", ints(lk, &|j| (j as i32 * 7) % 70))],
        ),
        dense("lengths", &[], vec![("lengths", ints(b, &|n| 33 + 20 * n as i32))]),
        dense(
            "softcap, bias, mask, sink and window",
            &[("softcap", "2"), ("window_left", "30"), ("pattern", "causal_cross")],
            vec![
                ("bias", random(&[1, h, lq, lk], 4)),
                ("mask", flags(&[lq, lk], &|n| n % 5 != 0)),
                ("sink", random(&[h], 5)),
            ],
        ),
    ];
    let top = of(
        "alignment",
        "dense-attention",
        &[("pattern", "causal_cross"), ("align", "top_left")],
        vec![],
        &[("pattern", "causal_cross")],
        vec![],
    );
    list.push(top);
    list.push(of("temperature", "temp-scale-attention", &[("tau", "0.5")], vec![], &[("tau", "1")], vec![]));
    list.push(of("alibi", "alibi-attention", &[], vec![], &[], vec![("slopes", fill(&[h], 0.0))]));
    let zeros = vec![("table", fill(&[8, h], 0.0))];
    list.push(of("t5 bias", "t5-bias-attention", &[], vec![("table", random(&[8, h], 4))], &[], zeros));
    let relative = |x: HostTensor| vec![("rel", x), ("u", fill(&[h, d], 0.0)), ("w", fill(&[h, d], 0.5))];
    let still = relative(fill(&[h, lq + lk - 1, d], 0.0));
    list.push(of(
        "transformer-xl",
        "transformer-xl-attention",
        &[],
        relative(random(&[h, lq + lk - 1, d], 4)),
        &[],
        still,
    ));
    let rope = |step: f32| {
        vec![
            ("pos_q", HostTensor::from_fn(&[lq], |i| i as f32 * step)),
            ("pos_k", HostTensor::from_fn(&[lk], |j| j as f32 * step)),
        ]
    };
    list.push(of("rotary", "rope-attention", &[], rope(1.5), &[], rope(0.0)));
    list.push(of(
        "column factor",
        "dara-attention",
        &[],
        vec![("factor", uneven(&[1, h, lk]))],
        &[],
        vec![("factor", fill(&[1, h, lk], 1.0))],
    ));
    let gates = |x: HostTensor| vec![("gates", x)];
    list.push(of("head gates", "moh-attention", &[], gates(uneven(&[b, lq, h])), &[], gates(fill(&[b, lq, h], 1.0))));
    let masked = |odd: bool| vec![("masked", flags(&[h], &|n| odd && n % 2 == 1))];
    for mode in ["zero", "uniform"] {
        list.push(of(
            "head mask",
            "head-mask-attention",
            &[("mode", mode)],
            masked(true),
            &[("mode", mode)],
            masked(false),
        ));
    }
    let affine = |beta: f32| vec![("alpha", fill(&[b, h, lq], 1.0)), ("beta", fill(&[b, h, lq], beta))];
    list.push(of("affine weights", "affine-scaled-attention", &[], affine(0.25), &[], affine(0.0)));
    list.push(of(
        "query temperature",
        "selective-self-attention",
        &[],
        vec![("tok_q", random(&[b, h, lq], 4))],
        &[],
        vec![],
    ));
    list.push(of(
        "value factor",
        "selective-self-attention",
        &[],
        vec![("tok_v", random(&[b, h, lk], 4))],
        &[],
        vec![],
    ));
    list.push(of("rms norm", "qk-norm-attention", &[("kind", "rms")], vec![], &[("kind", "l2")], vec![]));
    list.push(of("relu over keys", "relu-attention", &[], vec![], &[("divide_by_keys", "false")], vec![]));
    list.push(of(
        "sigmoid bias",
        "sigmoid-attention",
        &[("bias_rule", "value"), ("bias_value", "-2")],
        vec![],
        &[],
        vec![],
    ));
    list.push(of(
        "prefix",
        "prefix-lm",
        &[],
        vec![("prefix", ints(b, &|_| 70))],
        &[],
        vec![("prefix", ints(b, &|_| 0))],
    ));
    let filter = std::env::var("ATTN_TEST").unwrap_or_default();
    list.retain(|choice| choice.name.contains(&filter));
    list
}

fn make(name: &str, list: &[(&str, &str)]) -> Box<dyn Variant> {
    let params: Vec<_> = list.iter().map(|(n, v)| ((*n).to_owned(), Value::parse(v))).collect();
    variant::find(name).and_then(|entry| entry.make(&params)).expect("a variant")
}

fn tensors(more: &Tensors, half: bool) -> Tensors {
    let [b, h, hk, lq, lk, d, dv] = SIZE;
    let qkv = [("q", random(&[b, h, lq, d], 1)), ("k", random(&[b, hk, lk, d], 2)), ("v", random(&[b, hk, lk, dv], 3))];
    let stored = qkv.into_iter().map(|(name, t)| (name, if half { t.to_f16() } else { t }));
    stored.chain(more.iter().cloned()).collect()
}

fn oracle(variant: &dyn Variant, inputs: &Tensors) -> Outputs {
    variant.oracle(&oracle_inputs(inputs.iter().map(|(n, t)| (*n, t))))
}

fn plan(variant: &dyn Variant, inputs: &Tensors) -> Plan {
    let specs = inputs.iter().map(|(n, t)| (*n, Spec { dtype: t.dtype(), shape: t.shape().to_vec() }));
    runtime::plan(variant, &Problem::new(variant, specs).expect("a problem")).expect("a plan")
}

/// Devices of each tier, as far as the choice of kernels knows them.
fn tiers() -> Vec<(&'static str, Caps)> {
    let portable = Caps::portable(Target::Native);
    let t1 =
        Caps { tier: Tier::T1, f16: true, subgroups: Some((8, 8)), max_workgroup_memory: 32 << 10, ..portable.clone() };
    let t2 = |side, lanes| Caps {
        tier: Tier::T2,
        matrix: Some(side),
        subgroups: Some((lanes, lanes)),
        max_workgroup_memory: 48 << 10,
        max_invocations: 1024,
        ..t1.clone()
    };
    vec![("T0", portable.clone()), ("T1", t1.clone()), ("T2 16x16", t2(16, 32)), ("T2 8x8", t2(8, 8))]
}

#[test]
fn an_option_changes_what_the_oracle_says() {
    for choice in choices() {
        let with = oracle(&*make(choice.variant, &choice.with), &tensors(&choice.more, false));
        let without = oracle(&*make(choice.variant, &choice.without), &tensors(&choice.less, false));
        let out = |results: &Outputs| results.iter().find(|(name, _)| *name == "out").expect("out").1.data.clone();
        let most = out(&with).iter().zip(out(&without)).fold(0.0_f64, |most, (x, y)| most.max((x - y).abs()));
        assert!(most > 1e-3, "{}: the case does not show whether it is honoured", choice.name);
    }
}

/// Each hook and table of a stage is in the key of the kernel that the tier takes, or the tier refuses the stage.
#[test]
fn no_tier_drops_a_hook_or_a_table() {
    let mut entries = std::collections::BTreeSet::new();
    for (choice, half) in choices().iter().flat_map(|choice| [(choice, false), (choice, true)]) {
        let plan = plan(&*make(choice.variant, &choice.with), &tensors(&choice.more, half));
        let layouts: Vec<_> = plan.slots.iter().map(|s| s.layout.clone()).collect();
        for ((tier, caps), n) in tiers().iter().flat_map(|tier| (0..plan.stages.len()).map(move |n| (tier, n))) {
            let (io, stage) = (plan.io(n, &layouts), &plan.stages[n]);
            let id = format!("{}, f16 {half}, {tier}, {}", choice.name, stage.label);
            match stage.op.kernel().launch(&io, caps) {
                Err(error) => assert!(
                    matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Limit),
                    "{id}: refused as {:?}: {error}",
                    error.kind()
                ),
                Ok(launch) => {
                    let hooks: Vec<&str> = launch.key.hooks.iter().map(|h| h.name.as_str()).collect();
                    let want: Vec<&str> = stage.hooks.iter().map(|h| &*h.name).collect();
                    assert_eq!(hooks, want, "{id}: hooks");
                    for table in &io.tables {
                        let found = launch.key.tables.iter().find(|t| t.name == table.name);
                        let place = found.map(|t| t.place);
                        assert_eq!(place, Some(table.place), "{id}: the table `{}`", table.name);
                    }
                    wgpu_attention::shader::compose(&launch.key).unwrap_or_else(|e| panic!("{id}: {e}"));
                    entries.insert(launch.key.entry);
                }
            }
        }
    }
    if std::env::var("ATTN_TEST").is_err() {
        assert!(entries.contains("attend/tile") && entries.contains("attend/matrix"), "{entries:?}");
    }
}

#[test]
fn every_engine_honours_every_option() {
    let mut failures = Vec::new();
    for (choice, half) in choices().iter().flat_map(|choice| [(choice, false), (choice, true)]) {
        let (variant, inputs) = (make(choice.variant, &choice.with), tensors(&choice.more, half));
        let want = oracle(&*variant, &inputs);
        let call = inputs.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
        // The portable kernels read f16 through the same accessors with every option; `conformance` runs those on adapters.
        let own = |engine: &str, matrix: bool| !half || engine == "cpu" || matrix;
        for (engine, runtime) in engines().into_iter().filter(|(e, r)| own(e, r.caps().matrix.is_some())) {
            let budget = match half {
                false => Budget::F32,
                true if runtime.caps().matrix.is_some() => Budget::MATRIX,
                true => Budget::F16,
            };
            let id = format!("{}, f16 {half}, {engine}", choice.name);
            match runtime.call_blocking(&*variant, &call) {
                Err(error) => failures.push(format!("{id}: {error}")),
                Ok(outputs) => {
                    for (output, want) in &want {
                        let result = outputs.get(output).map_err(|e| e.to_string());
                        if let Err(why) = result.and_then(|got| close(&tensor_of(want), got, budget)) {
                            failures.push(format!("{id}: {output}: {why}"));
                        }
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}
