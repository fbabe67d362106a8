//! The dense catalogue: options and masks at odd sizes against the oracles, and laws between variants. All failures are collected.
//! `ATTN_TEST=rope` keeps the cases whose id contains the word.

mod common;

use common::{Budget, assert_close, close, engines, random, tensor_of};
use wgpu_attention::case::oracle_inputs;
use wgpu_attention::{DType, HostTensor, Inputs, Value, variant};

type Params = Vec<(String, Value)>;
type Tensors = Vec<(&'static str, HostTensor)>;

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
    for (engine, runtime) in engines() {
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

/// Sizes that divide nothing: B, H, Hk, Lq, Lk, D, Dv.
const ODD: [[usize; 7]; 4] =
    [[1, 1, 1, 1, 1, 2, 1], [2, 6, 2, 7, 63, 20, 12], [1, 3, 1, 65, 33, 6, 60], [1, 2, 2, 33, 100, 34, 5]];

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
