//! The dense catalogue: options and masks at odd sizes against the oracles. All failures are collected; the laws are in `dense_laws`.
//! `ATTN_TEST=rope` keeps the cases whose id contains the word.

mod common;

use common::tensors::{Params, Tensors, flags, half, ints, params, qkv};
use common::{Budget, assert_close, close, engines, random, tensor_of};
use wgpu_attention::case::oracle_inputs;
use wgpu_attention::{DType, HostTensor, Inputs, variant};

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
        let [b, h, hk, lq, lk, d, dv] = *size;
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
            // Taps of even number, fewer and more than tokens.
            for taps in [1, 3, 4, 9] {
                let convolutions = [("conv_q", h, d), ("conv_k", hk, d), ("conv_v", hk, dv)]
                    .map(|(n, h, d)| (n, random(&[h, d, taps], 7)));
                let mixed = [relative.clone(), convolutions.to_vec()].concat();
                check("rcmha-attention", &params(&[("causal", causal), ("scale", "0.3")]), &mixed, &mut failures);
            }
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
