//! The dense catalogue: options and masks at odd sizes against the oracles, and laws between variants. All failures are collected.
//! `ATTN_TEST=rope` keeps the cases whose id contains the word.

mod common;

use common::{Budget, assert_close, close, engines, random, tensor_of};
use wgpu_attention::case::oracle_inputs;
use wgpu_attention::{DType, HostTensor, Inputs, Value, variant};

type Params = Vec<(String, Value)>;
type Tensors = Vec<(&'static str, HostTensor)>;
/// A variant, parameters and inputs.
type Call<'a> = (&'a str, Vec<(&'a str, &'a str)>, Tensors);

fn params(list: &[(&str, &str)]) -> Params {
    list.iter().map(|(n, v)| ((*n).to_owned(), Value::parse(v))).collect()
}

fn qkv([b, h, hk, lq, lk, d, dv]: [usize; 7]) -> Tensors {
    vec![("q", random(&[b, h, lq, d], 1)), ("k", random(&[b, hk, lk, d], 2)), ("v", random(&[b, hk, lk, dv], 3))]
}

fn half(mut inputs: Tensors) -> Tensors {
    inputs.iter_mut().filter(|(n, _)| ["q", "k", "v"].contains(n)).for_each(|(_, t)| *t = t.to_f16());
    inputs
}

fn ints(shape: &[usize], one: impl Fn(usize) -> i32) -> HostTensor {
    HostTensor::new(shape, (0..shape.iter().product()).map(one).collect::<Vec<_>>()).expect("a shape")
}

fn flags(shape: &[usize], one: impl Fn(usize) -> bool) -> HostTensor {
    HostTensor::new(shape, (0..shape.iter().product()).map(|n| u8::from(one(n))).collect::<Vec<_>>()).expect("a shape")
}

/// Whether a case is run on adapters too: where rows are vectors. One flavour of each kernel compiles for each rule; other widths run on
/// the CPU engine here, and on adapters with dense attention in `conformance`.
fn on_adapters(inputs: &Tensors) -> bool {
    let wide = |t: &HostTensor| t.shape().last().is_some_and(|n| n.is_multiple_of(4));
    inputs.iter().filter(|(n, _)| ["q", "k", "v"].contains(n)).all(|(_, t)| wide(t) && t.dtype() == DType::F32)
}

/// One case through the oracle and every engine; what failed is added to the list.
fn check(name: &str, params: &Params, inputs: &Tensors, failures: &mut Vec<String>) {
    let list: Vec<_> = params.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let shapes: Vec<_> = inputs.iter().map(|(n, t)| format!("{n}{:?}", t.shape())).collect();
    let id = format!("{name} {} {}", list.join(" "), shapes.join(" "));
    if !id.contains(&std::env::var("ATTN_TEST").unwrap_or_default()) {
        return;
    }
    let variant = variant::find(name).and_then(|entry| entry.make(params)).expect("a variant");
    let want = variant.oracle(&oracle_inputs(inputs.iter().map(|(n, t)| (*n, t))));
    let call = inputs.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
    let budget = if inputs.iter().any(|(_, t)| t.dtype() == DType::F16) { Budget::F16 } else { Budget::F32 };
    for (engine, runtime) in engines().into_iter().filter(|(engine, _)| *engine == "cpu" || on_adapters(inputs)) {
        match runtime.call_blocking(&*variant, &call) {
            Err(error) => failures.push(format!("{id} on {engine}: {error}")),
            Ok(outputs) => {
                for (output, want) in &want {
                    let result = outputs.get(output).map_err(|e| e.to_string());
                    if let Err(why) = result.and_then(|got| close(&tensor_of(want), got, budget)) {
                        failures.push(format!("{id} on {engine}: {output}: {why}"));
                    }
                }
            }
        }
    }
}

fn finish(failures: &[String]) {
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

/// Sizes that divide nothing: B, H, Hk, Lq, Lk, D, Dv. Few of them differ in what enters a key, so that few kernels are compiled.
const ODD: [[usize; 7]; 4] =
    [[1, 1, 1, 1, 1, 2, 1], [2, 6, 2, 7, 63, 20, 12], [1, 3, 1, 65, 33, 8, 60], [1, 2, 2, 33, 100, 34, 5]];

/// Segments of uneven length, one of them empty.
fn lengths(total: usize) -> String {
    let first = total / 3;
    let second = total / 4;
    format!("{first},0,{second},{}", total - first - second)
}

#[test]
fn masks_agree_with_their_oracles() {
    let mut failures = Vec::new();
    for size in ODD {
        let [b, _, _, lq, lk, ..] = size;
        let of = |more: Tensors| [qkv(size), more].concat();
        let rules = of(vec![
            ("pos_q", ints(&[lq], |i| (i as i32 * 7 + 3) % 41 - 5)),
            ("pos_k", ints(&[lk], |j| (j as i32 * 5) % 37)),
            ("seg_q", ints(&[lq], |i| i as i32 / 5)),
            ("seg_k", ints(&[lk], |j| j as i32 / 9)),
            ("span_q", ints(&[lq], |i| i as i32 % 4)),
            ("span_k", ints(&[lk], |j| j as i32 % 5)),
            ("k_prefix", flags(&[lk], |j| j % 11 == 0)),
            ("k_shared", flags(&[lk], |j| j % 13 == 1)),
            ("q_global", flags(&[lq], |i| i % 17 == 2)),
        ]);
        for list in [&[][..], &[("causal", "true")], &[("left", "3"), ("right", "8"), ("flags_override", "true")]] {
            check("mask-rules", &params(list), &rules, &mut failures);
        }
        let (row, key) = (lq.div_ceil(2) as i32, lk.div_ceil(2) as i32);
        let (rows, keys) = (lq as i32, lk as i32);
        let slices = [[0, row, 0, key, 1], [0, row, key, keys, 2], [row, rows, 0, key, 3], [row, rows, key, keys, 0]];
        let slices = HostTensor::new(&[4, 5], slices.concat()).expect("four slices");
        check("mask-slices", &params(&[]), &of(vec![("slices", slices)]), &mut failures);
        let hidden = ints(&[lk, 2, 2], |n| (n as i32 * 13) % (rows + 3));
        for causal in ["true", "false"] {
            let of = of(vec![("intervals", hidden.clone())]);
            check("mask-column-intervals", &params(&[("causal", causal)]), &of, &mut failures);
        }
        let prefix = of(vec![("prefix", ints(&[b], |n| (n as i32 * 9 + 4).min(keys)))]);
        check("prefix-lm", &params(&[]), &half(prefix), &mut failures);
        let region = of(vec![
            ("region_of_query", ints(&[lq], |i| i as i32 % 5)),
            ("region_of_key", ints(&[lk], |j| j as i32 % 4)),
            ("shared_key", flags(&[lk], |j| j == 7)),
        ]);
        check("region-cross-attention", &params(&[]), &region, &mut failures);
        let own = [size[0], size[1], size[2], lk, lk, size[5], size[6]];
        let spans = [qkv(own), vec![("span_id", ints(&[lk], |i| (i as i32 / 6) % 3))]].concat();
        check("mixed-modal", &params(&[]), &spans, &mut failures);
    }
    finish(&failures);
}

const PATTERNS: [&str; 12] = [
    "full",
    "causal",
    "sliding_window",
    "sliding_window_causal",
    "full_document",
    "causal_document",
    "share_question",
    "causal_blockwise",
    "prefix_lm_causal",
    "prefix_lm_document",
    "global_sliding_window",
    "block_causal_document",
];

#[test]
fn static_patterns_agree_with_their_oracle() {
    let mut failures = Vec::new();
    for [b, h, hk, _, l, d, dv] in ODD {
        for pattern in PATTERNS {
            let list = [("pattern", pattern), ("lengths", &lengths(l)), ("window", "6"), ("prefix", "5")];
            check("static-mask-patterns", &params(&list), &qkv([b, h, hk, l, l, d, dv]), &mut failures);
        }
    }
    finish(&failures);
}

/// What the rule on attributes says of each pattern: the table of the catalogue.
#[test]
fn one_rule_on_attributes_has_every_static_pattern() {
    let length = 50;
    let list = lengths(length);
    let sizes: Vec<usize> = list.split(',').map(|n| n.parse().expect("a length")).collect();
    let segment: Vec<usize> = sizes.iter().enumerate().flat_map(|(n, &size)| vec![n; size]).collect();
    let place = |i: usize| i - segment.iter().position(|&s| s == segment[i]).expect("its own");
    let last = segment[length - 1];
    let inputs = qkv([1, 2, 1, length, length, 8, 8]);
    for pattern in PATTERNS {
        let mut rule: Vec<(&str, &str)> = Vec::new();
        if !["full", "sliding_window", "full_document", "global_sliding_window", "sliding_window_causal"]
            .contains(&pattern)
        {
            rule.push(("causal", "true"));
        }
        match pattern {
            "sliding_window" => rule.extend([("left", "4"), ("right", "4")]),
            "sliding_window_causal" => rule.extend([("left", "4"), ("right", "0")]),
            "global_sliding_window" => rule.extend([("left", "4"), ("right", "4"), ("flags_override", "true")]),
            _ => {}
        }
        let block = pattern == "block_causal_document";
        let position = ints(&[length], |i| if block { (place(i) / 4) as i32 } else { i as i32 });
        let mut tensors = [inputs.clone(), vec![("pos_q", position.clone()), ("pos_k", position)]].concat();
        let documents = ["share_question", "causal_blockwise"].contains(&pattern) || pattern.ends_with("document");
        if documents {
            let segments = ints(&[length], |i| segment[i] as i32);
            tensors.extend([("seg_q", segments.clone()), ("seg_k", segments)]);
        }
        let mut flag = |name, on: &dyn Fn(usize) -> bool| tensors.push((name, flags(&[length], on)));
        match pattern {
            "share_question" => flag("k_shared", &|j| segment[j] == 0),
            "causal_blockwise" => flag("q_global", &|i| segment[i] == last),
            "prefix_lm_causal" => flag("k_prefix", &|j| j < 3),
            "prefix_lm_document" => flag("k_prefix", &|j| place(j) < 3),
            "global_sliding_window" => {
                flag("k_shared", &|j| j < 2);
                flag("q_global", &|i| i < 2);
            }
            _ => {}
        }
        for (engine, runtime) in engines() {
            let run = |name: &str, list: &[(&str, &str)], tensors: &Tensors| {
                let variant = variant::find(name).and_then(|entry| entry.make(&params(list))).expect("a variant");
                let call = tensors.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
                let outputs = runtime.call_blocking(&*variant, &call).expect("a run");
                outputs.get("out").expect("out").clone()
            };
            let want = run("mask-rules", &rule, &tensors);
            let got = run("static-mask-patterns", &[("pattern", pattern), ("lengths", &list)], &inputs);
            assert_close(&format!("{pattern} on {engine}"), &want, &got, Budget::F32);
        }
    }
}

#[test]
fn positions_and_options_agree_with_their_oracles() {
    let mut failures = Vec::new();
    for size in ODD {
        let [b, h, hk, lq, lk, ..] = size;
        let of = |more: Tensors| [qkv(size), more].concat();
        let far = |i: usize| 100_000.25 + 1.5 * i as f32;
        let positions =
            [("pos_q", HostTensor::from_fn(&[lq], |i| far(i + lk))), ("pos_k", HostTensor::from_fn(&[lk], far))];
        for scaling in ["none", "linear", "ntk", "dynamic_ntk", "yarn", "llama3"] {
            for layout in ["half", "interleaved"] {
                let list = [
                    ("scaling", scaling),
                    ("layout", layout),
                    ("factor", "4"),
                    ("original_len", "512"),
                    ("seq_len", "1500"),
                    ("causal", "true"),
                ];
                check("rope-attention", &params(&list), &of(positions.to_vec()), &mut failures);
            }
        }
        let each = [
            ("pos_q", HostTensor::from_fn(&[b, h, lq], |i| -0.75 * i as f32)),
            ("pos_k", HostTensor::from_fn(&[b, hk, lk], |i| (i * i % 97) as f32)),
        ];
        check("rope-attention", &params(&[("rotary_dim", "2")]), &half(of(each.to_vec())), &mut failures);
        let valid = of(vec![("key_valid", flags(&[b, lk], |n| n % lk < lk.div_ceil(2)))]);
        let source = lk.div_ceil(2).to_string();
        check("pm-rope-attention", &params(&[("source_len", &source), ("first", "3")]), &valid, &mut failures);
        let mask = flags(&[b, 1, lq, lk], |n| n % 3 != 0 && n / lk % lq != 4 % lq);
        let masked = of(vec![("mask", mask)]);
        check("temp-scale-attention", &params(&[("tau", "0.7"), ("causal", "true")]), &masked, &mut failures);
        for divide in ["true", "false"] {
            let list = params(&[("divide_by_keys", divide), ("causal", "true")]);
            check("relu-attention", &list, &masked, &mut failures);
            check("relu-attention", &list, &half(qkv(size)), &mut failures);
        }
    }
    finish(&failures);
}

#[test]
fn biases_norms_and_factors_agree_with_their_oracles() {
    let mut failures = Vec::new();
    for size in &ODD[1..3] {
        let [b, h, _, lq, lk, d, _] = *size;
        let mask = flags(&[b, 1, lq, lk], |n| n % 3 != 0 && n / lk % lq != 4 % lq);
        let of = |more: Tensors| [qkv(*size), more].concat();
        let masked = |more: Tensors| [of(more), vec![("mask", mask.clone())]].concat();
        let causal = [("causal", "true")];
        for kind in ["l2", "rms"] {
            let gains = masked(vec![("gain_q", random(&[d], 4)), ("gain_k", random(&[d], 5))]);
            check(
                "qk-norm-attention",
                &params(&[("kind", kind), ("scale", "3"), ("causal", "true")]),
                &gains,
                &mut failures,
            );
        }
        check("qk-norm-attention", &params(&[]), &half(qkv(*size)), &mut failures);
        let buckets = masked(vec![("table", random(&[12, h], 4))]);
        for both in ["true", "false"] {
            let list = [("bidirectional", both), ("max_distance", "20"), ("causal", "true")];
            check("t5-bias-attention", &params(&list), &buckets, &mut failures);
        }
        let relative =
            of(vec![("rel", random(&[h, lq + lk - 1, d], 4)), ("u", random(&[h, d], 5)), ("w", random(&[h, d], 6))]);
        for causal in ["true", "false"] {
            check("transformer-xl-attention", &params(&[("causal", causal)]), &half(relative.clone()), &mut failures);
        }
        for factor in [random(&[b, h, lk], 4), random(&[1, h, lk], 5)] {
            check("dara-attention", &params(&causal), &masked(vec![("factor", factor)]), &mut failures);
        }
        let affine = masked(vec![("alpha", random(&[b, h, lq], 4)), ("beta", random(&[b, h, lq], 5))]);
        check("affine-scaled-attention", &params(&causal), &affine, &mut failures);
        let token = vec![("tok_q", random(&[b, h, lq], 4)), ("tok_v", random(&[b, h, lk], 5))];
        let coefficient = vec![
            ("coef_q", HostTensor::from_fn(&[h], |n| 0.2 + 0.1 * n as f32)),
            ("coef_v", HostTensor::from_fn(&[h], |n| 0.9 - 0.1 * n as f32)),
            ("pos_q", ints(&[lq], |i| i as i32 * 3)),
            ("pos_k", ints(&[lk], |j| 90 - (j as i32 * 7) % 80)),
        ];
        check("selective-self-attention", &params(&causal), &masked(token.clone()), &mut failures);
        check("selective-self-attention", &params(&[]), &of(coefficient.clone()), &mut failures);
        check("selective-self-attention", &params(&[]), &masked([token, coefficient].concat()), &mut failures);
    }
    finish(&failures);
}

#[test]
fn heads_and_conditions_agree_with_their_oracles() {
    let mut failures = Vec::new();
    for size in &ODD[1..3] {
        let [b, h, hk, lq, lk, d, dv] = *size;
        let mask = flags(&[b, 1, lq, lk], |n| n % 3 != 0 && n / lk % lq != 4 % lq);
        let masked = |more: Tensors| [qkv(*size), vec![("mask", mask.clone())], more].concat();
        let causal = ("causal", "true");
        for mode in ["zero", "uniform"] {
            let some = masked(vec![("masked", flags(&[h], |n| n % 2 == 1))]);
            check("head-mask-attention", &params(&[("mode", mode), causal]), &some, &mut failures);
        }
        let gates = flags(&[b, lq, h], |n| n % 5 != 0).to_f64();
        let gates = HostTensor::from_fn(&[b, lq, h], |n| gates[n] as f32 * (1.0 + 0.1 * n as f32));
        check("moh-attention", &params(&[causal]), &masked(vec![("gates", gates)]), &mut failures);
        for weighted in ["true", "false"] {
            let routed = masked(vec![("router_logits", random(&[b, lq, h], 4)), ("active", flags(&[h], |n| n != 1))]);
            check("expert-attention", &params(&[("weighted", weighted)]), &half(routed), &mut failures);
        }
        let decoupled = |more: Tensors| {
            let rename = |(name, t)| match name {
                "q" => ("q_att", t),
                "k" => ("k_att", t),
                _ => ("v_rep", t),
            };
            let list: Tensors = qkv(*size).into_iter().map(rename).collect();
            [list, more].concat()
        };
        let search =
            decoupled(vec![("valid", flags(&[b, lk], |n| n % 4 != 1)), ("target_rep", random(&[b, h, lq, dv], 4))]);
        check("decoupled-attention", &params(&[("top_k", "9")]), &search, &mut failures);
        check("decoupled-attention", &params(&[]), &decoupled(vec![]), &mut failures);
        // More places than valid keys.
        let few = decoupled(vec![("valid", flags(&[b, lk], |n| n % 11 == 3))]);
        check("decoupled-attention", &params(&[("top_k", "13")]), &few, &mut failures);

        let own = |length: usize| qkv([b, h, hk, length, length, d, dv]);
        for mode in ["arrow", "diag", "square"] {
            let list = [("mode", mode), ("context_len", "17"), ("candidate_lengths", "9,0,21,1")];
            check("candidate-isolation", &params(&list), &own(48), &mut failures);
        }
        let list = [("lengths", "11,19,3,25,9"), ("signal_rows", "60,66")];
        check("blockrank-attention", &params(&list), &own(67), &mut failures);
        for merged in ["true", "false"] {
            let list = [
                ("merged", merged),
                ("n_text", "5"),
                ("n_noise", "13"),
                ("n_spatial", "2"),
                ("subject_lengths", "7,12"),
            ];
            let region = [own(63), vec![("region", flags(&[2, 13], |n| n % 3 != 1))]].concat();
            check("pka-attention", &params(&list), &region, &mut failures);
            let none =
                [("merged", merged), ("n_text", "0"), ("n_noise", "33"), ("n_spatial", "0"), ("subject_lengths", "[]")];
            check("pka-attention", &params(&none), &own(33), &mut failures);
        }
        for layout in ["half", "interleaved"] {
            let list = [("prefix", "5"), ("doc_lengths", "9,17,4"), ("layout", layout)];
            check("pine-attention", &params(&list), &own(41), &mut failures);
            check("pine-attention", &params(&[("doc_lengths", "37"), ("layout", layout)]), &own(37), &mut failures);
        }
    }
    finish(&failures);
}

#[test]
fn transforms_and_routers_agree_with_their_oracles() {
    let mut failures = Vec::new();
    let x = vec![("x", random(&[2, 3, 84, 22], 1))];
    for layout in ["half", "interleaved"] {
        let list = [
            ("ref_frames", "3"),
            ("video_frames", "4"),
            ("height", "3"),
            ("width", "4"),
            ("gap", "70001"),
            ("dims", "8,2,10"),
            ("layout", layout),
        ];
        check("gap-rope", &params(&list), &x, &mut failures);
    }
    for kv in [1, 2, 4] {
        let scan = vec![
            ("q", random(&[2, 4, 70, 12], 1)),
            ("k", random(&[2, kv, 70, 12], 2)),
            ("v", random(&[2, kv, 70, 9], 3)),
            ("theta", HostTensor::from_fn(&[4, 12], |n| 10000.0_f32.powf(-2.0 * n as f32 / 48.0))),
            ("decay", HostTensor::from_fn(&[4], |h| 0.99 - 0.1 * h as f32)),
        ];
        check("lrpe-d-attention", &params(&[]), &scan, &mut failures);
    }
    let affine = vec![
        ("x", random(&[2, 19, 33], 1)),
        ("w_alpha", random(&[33, 7], 2)),
        ("moving_average", HostTensor::from_fn(&[7], |h| 0.1 * h as f32)),
        ("count", HostTensor::from_fn(&[19], |i| i as f32)),
    ];
    check("affine-parameters", &params(&[]), &affine, &mut failures);
    check("pka-keyword-region", &params(&[]), &vec![("weights", random(&[3, 5, 45, 2], 1))], &mut failures);
    check("pka-keyword-region", &params(&[]), &vec![("weights", HostTensor::zeros(&[1, 2, 9, 1]))], &mut failures);
    let routed = vec![("routed_logits", random(&[2, 9, 7], 1))];
    let shared = vec![("shared_logits", random(&[2, 9, 3], 2))];
    let mix = vec![("mix_logits", random(&[2, 9, 2], 3))];
    check("moh-gates", &params(&[("top_k", "4")]), &routed, &mut failures);
    check("moh-gates", &params(&[("n_shared", "3")]), &shared, &mut failures);
    let both = [routed, shared, mix].concat();
    check("moh-gates", &params(&[("n_shared", "3"), ("top_k", "7")]), &both, &mut failures);
    for (shared, most) in [("0", "5"), ("2", "1"), ("4", "1")] {
        let queries = vec![("q", random(&[2, 5, 9, 14], 4))];
        let list = params(&[("n_shared", shared), ("top_k", most)]);
        check("moh-gates", &list, &half(queries), &mut failures);
    }
    finish(&failures);
}

/// One output on the CPU engine; the other engines agree with it by the tests above.
fn run(name: &str, list: &[(&str, &str)], inputs: &Tensors, output: &str) -> HostTensor {
    let variant = variant::find(name).and_then(|entry| entry.make(&params(list))).expect("a variant");
    let call = inputs.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
    let outputs = wgpu_attention::Runtime::cpu().call_blocking(&*variant, &call).expect("a run");
    outputs.get(output).expect("an output").contiguous()
}

/// Rows of every (batch, head) in another order.
fn rows(x: &HostTensor, order: &[usize]) -> HostTensor {
    let [.., length, width] = x.shape()[..] else { panic!("rank 2 or more") };
    let data = x.to_f64();
    let mut shape = x.shape().to_vec();
    let at = shape.len() - 2;
    shape[at] = order.len();
    HostTensor::from_fn(&shape, |n| {
        let (outer, row, column) = (n / (order.len() * width), n / width % order.len(), n % width);
        data[(outer * length + order[row]) * width + column] as f32
    })
}

#[test]
fn pine_does_not_see_the_order_of_documents() {
    let inputs = qkv([1, 4, 2, 26, 26, 8, 8]);
    let list = [("prefix", "3"), ("doc_lengths", "4,5,6")];
    let want = run("pine-attention", &list, &inputs, "out");
    // Documents 2, 0, 1.
    let order: Vec<usize> = (0..3).chain(12..18).chain(3..7).chain(7..12).chain(18..26).collect();
    let moved: Tensors = inputs.iter().map(|(name, x)| (*name, rows(x, &order))).collect();
    let got = run("pine-attention", &[("prefix", "3"), ("doc_lengths", "6,4,5")], &moved, "out");
    assert_close("documents in another order", &rows(&want, &order), &got, Budget::F32);
    let positions = HostTensor::from_fn(&[26], |i| i as f32);
    let rope = [inputs.clone(), vec![("pos_q", positions.clone()), ("pos_k", positions)]].concat();
    let plain = run("rope-attention", &[("causal", "true")], &rope, "out");
    let one = run("pine-attention", &[("prefix", "3"), ("doc_lengths", "15")], &inputs, "out");
    assert_close("one document", &plain, &one, Budget::F32);
}

#[test]
fn rotary_scores_depend_on_differences_only() {
    let inputs = qkv([1, 2, 2, 20, 20, 16, 8]);
    let at = |first: f32| {
        let positions = HostTensor::from_fn(&[20], |i| first + i as f32);
        [inputs.clone(), vec![("pos_q", positions.clone()), ("pos_k", positions)]].concat()
    };
    let want = run("rope-attention", &[], &at(0.0), "out");
    for first in [0.5, 100_000.0, 4_000_000.0] {
        assert_close("shifted", &want, &run("rope-attention", &[], &at(first), "out"), Budget::F32);
    }
}

#[test]
fn a_decode_step_is_the_last_row() {
    let [b, h, hk, l, d, dv] = [2, 4, 2, 37, 16, 8];
    let full = qkv([b, h, hk, l, l, d, dv]);
    let mut step = full.clone();
    step[0].1 = rows(&full[0].1, &[l - 1]);
    let more = |list: &Tensors, more: Tensors| [list.clone(), more].concat();
    let table = || vec![("table", random(&[16, h], 4))];
    let causal = [("causal", "true")];
    let last = |x: &HostTensor| rows(x, &[l - 1]);
    let want = run("t5-bias-attention", &causal, &more(&full, table()), "out");
    let got = run("t5-bias-attention", &causal, &more(&step, table()), "out");
    assert_close("t5", &last(&want), &got, Budget::F32);
    let relative = random(&[h, 2 * l - 1, d], 5);
    let vectors = || vec![("u", random(&[h, d], 6)), ("w", random(&[h, d], 7))];
    // A step has distances from 0 on.
    let near: Vec<usize> = (l - 1..2 * l - 1).collect();
    let want =
        run("transformer-xl-attention", &[], &more(&more(&full, vectors()), vec![("rel", relative.clone())]), "out");
    let of = more(&more(&step, vectors()), vec![("rel", rows(&relative, &near))]);
    assert_close("transformer-xl", &last(&want), &run("transformer-xl-attention", &[], &of, "out"), Budget::F32);
    let prefix = || vec![("prefix", ints(&[b], |n| 5 + n as i32))];
    let want = run("prefix-lm", &[], &more(&full, prefix()), "out");
    assert_close("prefix-lm", &last(&want), &run("prefix-lm", &[], &more(&step, prefix()), "out"), Budget::F32);
}

#[test]
fn neutral_options_are_dense_attention() {
    let size = [2, 4, 2, 21, 33, 16, 12];
    let [b, h, _, lq, lk, d, _] = size;
    let inputs = qkv(size);
    let want = run("dense-attention", &[], &inputs, "out");
    let of = |more: Tensors| [inputs.clone(), more].concat();
    let fill = |shape: &[usize], x: f32| HostTensor::from_fn(shape, |_| x);
    let cases: Vec<Call> = vec![
        ("temp-scale-attention", vec![("tau", "1")], vec![]),
        ("dara-attention", vec![], vec![("factor", fill(&[1, h, lk], 1.0))]),
        ("affine-scaled-attention", vec![], vec![("alpha", fill(&[b, h, lq], 1.0)), ("beta", fill(&[b, h, lq], 0.0))]),
        ("selective-self-attention", vec![], vec![]),
        ("moh-attention", vec![], vec![("gates", fill(&[b, lq, h], 1.0))]),
        ("t5-bias-attention", vec![("scale", "0.25")], vec![("table", fill(&[8, h], 0.0))]),
        (
            "transformer-xl-attention",
            vec![("causal", "false")],
            vec![("rel", fill(&[h, lq + lk - 1, d], 0.0)), ("u", fill(&[h, d], 0.0)), ("w", fill(&[h, d], 1.0))],
        ),
        ("head-mask-attention", vec![], vec![("masked", flags(&[h], |_| false))]),
        ("prefix-lm", vec![], vec![("prefix", ints(&[b], |_| lk as i32))]),
        ("rope-attention", vec![], vec![("pos_q", fill(&[lq], 0.0)), ("pos_k", fill(&[lk], 0.0))]),
    ];
    for (name, list, more) in cases {
        assert_close(name, &want, &run(name, &list, &of(more), "out"), Budget::F32);
    }
    // Masked heads change nothing else, to the bit.
    let some = run("head-mask-attention", &[], &of(vec![("masked", flags(&[h], |n| n == 1))]), "out").to_f64();
    let whole = run("head-mask-attention", &[], &of(vec![("masked", flags(&[h], |_| false))]), "out").to_f64();
    let head = whole.len() / (b * h);
    for (n, (x, y)) in some.iter().zip(&whole).enumerate() {
        assert_eq!(*x, if n / head % h == 1 { 0.0 } else { *y });
    }
}

#[test]
fn sums_that_must_be() {
    let scores = run(
        "blockrank-attention",
        &[("lengths", "5,9,7,8,6"), ("signal_rows", "33,34")],
        &qkv([2, 4, 2, 35, 35, 16, 8]),
        "doc_scores",
    );
    for row in scores.to_f64().chunks(3) {
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{row:?}");
    }
    let inputs = vec![
        ("routed_logits", random(&[2, 9, 7], 1)),
        ("shared_logits", random(&[2, 9, 3], 2)),
        ("mix_logits", random(&[2, 9, 2], 3)),
    ];
    let gates = run("moh-gates", &[("n_shared", "3"), ("top_k", "4")], &inputs, "gates");
    for row in gates.to_f64().chunks(10) {
        let sum = row[..3].iter().sum::<f64>() / 3.0 + row[3..].iter().sum::<f64>() / 4.0;
        assert!((sum - 2.0).abs() < 1e-5 && row[3..].iter().filter(|g| **g != 0.0).count() == 4, "{row:?}");
    }
    // With parameters made for them the weights of a row sum to the moving average.
    let (h, l) = (3, 17);
    let x = vec![
        ("x", random(&[2, l, 8], 1)),
        ("w_alpha", random(&[8, h], 2)),
        ("moving_average", HostTensor::from_fn(&[h], |h| 0.3 + 0.2 * h as f32)),
        ("count", HostTensor::from_fn(&[l], |i| (i + 1) as f32)),
    ];
    let (alpha, beta) = (run("affine-parameters", &[], &x, "alpha"), run("affine-parameters", &[], &x, "beta"));
    let mut affine = qkv([2, h, h, l, l, 8, 2]);
    affine[2].1 = HostTensor::from_fn(&[2, h, l, 2], |_| 1.0);
    affine.extend([("alpha", alpha), ("beta", beta)]);
    let out = run("affine-scaled-attention", &[("causal", "true")], &affine, "out");
    let want = HostTensor::from_fn(&[2, h, l, 2], |n| 0.3 + 0.2 * (n / (2 * l) % h) as f32);
    assert_close("row sums", &want, &out, Budget::F32);
}

#[test]
fn a_candidate_does_not_depend_on_the_others() {
    let inputs = qkv([1, 2, 1, 27, 27, 16, 8]);
    let all = run("candidate-isolation", &[("context_len", "11"), ("candidate_lengths", "5,3,8")], &inputs, "out");
    let order: Vec<usize> = (0..11).chain(16..19).collect();
    let alone: Tensors = inputs.iter().map(|(name, x)| (*name, rows(x, &order))).collect();
    let got = run("candidate-isolation", &[("context_len", "11"), ("candidate_lengths", "3")], &alone, "out");
    assert_close("candidate 2", &rows(&all, &[16, 17, 18]), &rows(&got, &[11, 12, 13]), Budget::F32);
}

#[test]
fn what_is_not_taken_is_a_typed_error() {
    let own = qkv([1, 2, 1, 12, 12, 8, 8]);
    let with = |more: Tensors| [own.clone(), more].concat();
    let slices =
        |list: &[i32]| with(vec![("slices", HostTensor::new(&[list.len() / 5, 5], list.to_vec()).expect("slices"))]);
    let positions = with(vec![("pos_q", HostTensor::zeros(&[12])), ("pos_k", HostTensor::zeros(&[12]))]);
    let by_rule = |more: Tensors| {
        let index = ints(&[12], |i| i as i32);
        [with(vec![("pos_q", index.clone()), ("pos_k", index)]), more].concat()
    };
    let region = || vec![("region", flags(&[1, 4], |_| true))];
    let conditions = [("n_text", "2"), ("n_noise", "4"), ("n_spatial", "1"), ("subject_lengths", "2")];
    let logits = |shape: [usize; 3]| vec![("routed_logits", random(&shape, 1))];
    let video = vec![("x", HostTensor::zeros(&[1, 1, 12, 8]))];
    use wgpu_attention::ErrorKind::{self, Index, MissingInput, Parameter, Shape};
    let mistake = |name, list, inputs, argument, kind| ((name, list, inputs), argument, kind);
    let mistakes: Vec<(Call, &str, ErrorKind)> = vec![
        mistake("static-mask-patterns", vec![("lengths", "5,6")], own.clone(), "lengths", Parameter),
        mistake("static-mask-patterns", vec![("block", "0")], own.clone(), "block", Parameter),
        mistake("mask-slices", vec![], slices(&[0, 5, 0, 5, 0, 4, 8, 4, 8, 1]), "slices", Index),
        mistake("mask-slices", vec![], slices(&[0, 5, 0, 13, 0]), "slices", Index),
        mistake("mask-slices", vec![], slices(&[0, 5, 0, 5, 4]), "slices", Index),
        mistake("mask-rules", vec![], by_rule(vec![("seg_q", ints(&[12], |_| 0))]), "seg_k", MissingInput),
        mistake("mask-rules", vec![], by_rule(vec![("span_k", ints(&[12], |_| 0))]), "span_q", MissingInput),
        mistake("prefix-lm", vec![], with(vec![("prefix", ints(&[1], |_| 13))]), "prefix", Index),
        mistake("candidate-isolation", vec![("candidate_lengths", "3")], own.clone(), "candidate_lengths", Parameter),
        mistake("blockrank-attention", vec![("lengths", "6,6")], own.clone(), "lengths", Parameter),
        mistake(
            "blockrank-attention",
            vec![("lengths", "2,6,4"), ("signal_rows", "7")],
            own.clone(),
            "signal_rows",
            Parameter,
        ),
        mistake("rope-attention", vec![("rotary_dim", "5")], positions.clone(), "rotary_dim", Parameter),
        mistake("rope-attention", vec![("rotary_dim", "10")], positions.clone(), "rotary_dim", Parameter),
        mistake("rope-attention", vec![("base", "0")], positions.clone(), "base", Parameter),
        mistake("rope-attention", vec![("base", "0.001")], positions.clone(), "base", Parameter),
        mistake("rope-attention", vec![("factor", "0"), ("scaling", "linear")], positions, "factor", Parameter),
        mistake("pm-rope-attention", vec![("source_len", "13")], own.clone(), "source_len", Parameter),
        mistake("gap-rope", vec![("dims", "4,3,1"), ("video_frames", "2")], video.clone(), "dims", Parameter),
        mistake("gap-rope", vec![("dims", "4,2,2"), ("video_frames", "3")], video, "video_frames", Parameter),
        mistake("temp-scale-attention", vec![("tau", "0")], own.clone(), "tau", Parameter),
        mistake("qk-norm-attention", vec![("eps", "0")], own.clone(), "eps", Parameter),
        mistake("t5-bias-attention", vec![], with(vec![("table", random(&[3, 2], 1))]), "table", Shape),
        mistake(
            "t5-bias-attention",
            vec![("max_distance", "4")],
            with(vec![("table", random(&[16, 2], 1))]),
            "max_distance",
            Parameter,
        ),
        mistake(
            "transformer-xl-attention",
            vec![],
            with(vec![("rel", random(&[2, 22, 8], 1)), ("u", random(&[2, 8], 2)), ("w", random(&[2, 8], 3))]),
            "rel",
            Shape,
        ),
        mistake("pka-attention", conditions.to_vec(), own.clone(), "region", Shape),
        mistake(
            "pka-attention",
            [&conditions[..2], &[("n_spatial", "2147483647")]].concat(),
            with(region()),
            "n_spatial",
            Parameter,
        ),
        mistake("pka-attention", conditions[..3].to_vec(), with(region()), "subject_lengths", Parameter),
        mistake("pine-attention", vec![("doc_lengths", "8,8")], own.clone(), "doc_lengths", Parameter),
        mistake("pine-attention", vec![("doc_lengths", "4,0")], own.clone(), "doc_lengths", Parameter),
        mistake("moh-gates", vec![], vec![], "q", MissingInput),
        mistake("moh-gates", vec![("top_k", "8")], logits([1, 2, 7]), "top_k", Parameter),
        mistake("moh-gates", vec![("n_shared", "1")], logits([1, 2, 7]), "shared_logits", MissingInput),
        mistake("moh-gates", vec![("n_shared", "2")], vec![("q", random(&[1, 2, 3, 4], 1))], "top_k", Parameter),
        mistake(
            "decoupled-attention",
            vec![("top_k", "0")],
            vec![("q_att", own[0].1.clone()), ("k_att", own[1].1.clone()), ("v_rep", own[2].1.clone())],
            "top_k",
            Parameter,
        ),
    ];
    for ((name, list, inputs), argument, kind) in mistakes {
        let variant = variant::find(name).and_then(|entry| entry.make(&params(&list))).expect("a variant");
        let call = inputs.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
        let error = wgpu_attention::Runtime::cpu().plan(&*variant, &call).expect_err(&format!("{name} {list:?}"));
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        assert!(text.starts_with(name) && text.contains(&format!("`{argument}`")), "{name} {argument}: {text}");
    }
}
