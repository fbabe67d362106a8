//! CATALOG x odd shapes x engines against the oracles, and laws that hold between variants. All failures are collected.
//! `ATTN_TEST=nsa` keeps the cases whose id contains the word.

mod common;

use common::{Budget, close, engines_in_turn, random, tensor_of};
use wgpu_attention::case::oracle_inputs;
use wgpu_attention::{HostTensor, Inputs, Value, variant};

/// One case: variant, parameters, inputs.
struct Case {
    variant: &'static str,
    params: Vec<(&'static str, &'static str)>,
    inputs: Vec<(&'static str, HostTensor)>,
    budget: Budget,
}

impl Case {
    fn id(&self) -> String {
        let params: Vec<_> = self.params.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let inputs: Vec<_> = self.inputs.iter().map(|(n, t)| format!("{n}{:?}", t.shape())).collect();
        format!("{} {} {}", self.variant, params.join(" "), inputs.join(" "))
    }
}

fn case(
    variant: &'static str,
    params: &[(&'static str, &'static str)],
    inputs: Vec<(&'static str, HostTensor)>,
) -> Case {
    let linear = variant::find(variant).expect("a variant").card().family == wgpu_attention::Family::Linear;
    let half = inputs.iter().any(|(_, t)| t.dtype() == wgpu_attention::DType::F16);
    let budget = if linear {
        Budget::SCAN
    } else if half {
        Budget::F16
    } else {
        Budget::F32
    };
    Case { variant, params: params.to_vec(), inputs, budget }
}

fn qkv([b, h, hk, lq, lk, d, dv]: [usize; 7]) -> Vec<(&'static str, HostTensor)> {
    vec![("q", random(&[b, h, lq, d], 1)), ("k", random(&[b, hk, lk, d], 2)), ("v", random(&[b, hk, lk, dv], 3))]
}

fn half(mut inputs: Vec<(&'static str, HostTensor)>) -> Vec<(&'static str, HostTensor)> {
    for (_, tensor) in inputs.iter_mut().filter(|(n, _)| ["q", "k", "v"].contains(n)) {
        *tensor = tensor.to_f16();
    }
    inputs
}

fn with(
    mut inputs: Vec<(&'static str, HostTensor)>,
    name: &'static str,
    tensor: HostTensor,
) -> Vec<(&'static str, HostTensor)> {
    inputs.push((name, tensor));
    inputs
}

fn flags(shape: &[usize], one: impl Fn(usize) -> bool) -> HostTensor {
    HostTensor::new(shape, (0..shape.iter().product()).map(|n| u8::from(one(n))).collect::<Vec<_>>()).expect("a shape")
}

fn ints(shape: &[usize], values: Vec<i32>) -> HostTensor {
    HostTensor::new(shape, values).expect("a shape")
}

/// Deliberately odd: batches, groups, lengths and widths that divide nothing.
const ODD: [[usize; 7]; 5] = [
    [1, 1, 1, 1, 1, 1, 1],
    [2, 6, 2, 7, 63, 20, 12],
    [1, 4, 4, 65, 33, 60, 60],
    [1, 3, 1, 33, 100, 7, 5],
    [2, 2, 1, 100, 65, 32, 72],
];

fn dense() -> Vec<Case> {
    let mut list = Vec::new();
    for size in ODD {
        let [b, h, _, lq, lk, ..] = size;
        for pattern in ["noncausal_cross", "causal_cross"] {
            list.push(case("dense-attention", &[("pattern", pattern)], qkv(size)));
        }
        list.push(case("dense-attention", &[("pattern", "causal_cross"), ("align", "top_left")], half(qkv(size))));
        list.push(case("softcap-attention", &[("cap", "3"), ("causal", "true")], qkv(size)));
        list.push(case("alibi-attention", &[("causal", "true")], qkv(size)));
        list.push(case("split-kv-decode", &[("splits", "3")], half(qkv(size))));
        list.push(case("streaming-attention", &[("sink", "2"), ("recent", "9")], qkv(size)));
        list.push(case("sink-logit-attention", &[("causal", "true")], with(qkv(size), "sink", random(&[h, 2], 4))));
        for rule in ["neg_log_len", "neg_log_row", "value"] {
            list.push(case("sigmoid-attention", &[("bias_rule", rule), ("causal", "true")], qkv(size)));
        }
        let mask = flags(&[b, 1, lq, lk], |n| n % 3 != 0 && n / lk % lq != 4 % lq);
        let bias = random(&[h, lq, lk], 5);
        let all = with(with(qkv(size), "mask", mask.clone()), "bias", bias);
        list.push(case("dense-attention", &[("window_left", "20"), ("softcap", "4")], all.clone()));
        list.push(case("sigmoid-attention", &[("bias_rule", "neg_log_row")], all));
        let everything = with(with(qkv(size), "mask", mask), "sink", random(&[h], 6));
        let everything = with(everything, "row_start", ints(&[lq], (0..lq as i32).map(|i| i % 3).collect()));
        let everything =
            with(everything, "row_end", ints(&[lq], (0..lq as i32).map(|i| (i * 7) % (lk as i32 + 1)).collect()));
        let everything = with(everything, "pos_q", ints(&[lq], (0..lq as i32).rev().collect()));
        let everything = with(everything, "pos_k", ints(&[lk], (0..lk as i32).map(|j| (j * 5) % lk as i32).collect()));
        let lengths = ints(&[b], (0..b as i32).map(|n| (lk as i32 - n).max(0)).collect());
        list.push(case("dense-attention", &[("window_left", "30")], with(everything, "lengths", lengths)));
    }
    list
}

fn sparse_and_linear() -> Vec<Case> {
    let mut list = Vec::new();
    for size in ODD {
        let [b, h, _, lq, lk, d, dv] = size;
        let (nq, nk) = (lq.div_ceil(16), lk.div_ceil(12));
        for shape in [vec![h, nq, nk], vec![1, nq, nk], vec![b, h, nq, nk]] {
            let mask = flags(&shape, |n| n % 4 != 1);
            let params = [("block_q", "16"), ("block_k", "12"), ("causal", "true")];
            list.push(case("block-sparse-attention", &params, with(qkv(size), "block_mask", mask)));
        }
        let wide = (lk / 2 + 1).min(24);
        let lists =
            (0..b * lq * wide).map(|n| if n % 5 == 4 { -1 } else { ((n % wide) * 2 % lk) as i32 }).collect::<Vec<_>>();
        // A list names a key once: doubles only arise where 2n wraps around, and those places are emptied.
        let lists = lists.chunks(wide).flat_map(|row| {
            let mut seen = Vec::new();
            row.iter()
                .map(|&j| {
                    if j < 0 || seen.contains(&j) {
                        -1
                    } else {
                        seen.push(j);
                        j
                    }
                })
                .collect::<Vec<_>>()
        });
        let lists = ints(&[b, lq, wide], lists.collect());
        list.push(case("token-list-attention", &[], with(qkv(size), "indices", lists)));

        let l = lq;
        let scan = |heads: usize| {
            vec![
                ("q", random(&[b, h, l, d], 1)),
                ("k", random(&[b, heads, l, d], 2)),
                ("v", random(&[b, heads, l, dv], 3)),
            ]
        };
        list.push(case("linear-attention", &[], scan(h)));
        list.push(case("linear-attention", &[("phi", "relu"), ("phi_k", "exp"), ("scale", "0.5")], scan(1)));
        list.push(case("linear-attention", &[("normalise", "false"), ("phi", "silu")], half(scan(h))));
        let kept = with(qkv(size), "key_mask", flags(&[b, lk], |n| n % 3 != 1));
        list.push(case("linear-attention", &[("causal", "false")], kept));
        list.push(case("lightning-attention", &[], scan(h)));
        let stateful = with(scan(h), "state", random(&[b, h, d, dv], 7));
        list.push(case("lightning-attention", &[("decay_rule", "linear"), ("layers", "4"), ("layer", "1")], stateful));
        if d % 2 == 0 {
            let gated = with(with(scan(h), "gate", random(&[b, h, l, dv], 8)), "state", random(&[b, h, d, dv], 9));
            list.push(case("retention", &[("offset", "1000")], gated));
        }
    }
    for phi in ["identity", "relu2", "sigmoid", "softmax", "hedgehog", "taylor", "taylor_compact", "dpfp"] {
        let inputs = qkv([1, 2, 1, 37, 37, 6, 5]);
        let normalise = if phi == "identity" { "false" } else { "true" };
        list.push(case("linear-attention", &[("phi", phi), ("normalise", normalise)], inputs));
    }
    let grid = |l: usize, d: usize| qkv([1, 2, 1, l, l, d, d]);
    list.push(case("neighborhood-attention", &[("shape", "65"), ("window", "9")], grid(65, 20)));
    list.push(case(
        "neighborhood-attention",
        &[("shape", "7,9"), ("window", "3,4"), ("stride", "2,1"), ("dilation", "2,1")],
        grid(63, 8),
    ));
    list.push(case(
        "neighborhood-attention",
        &[("shape", "3,5,4"), ("window", "3,3,2"), ("causal", "true,false,false")],
        grid(60, 12),
    ));
    let extra = with(grid(30, 8), "extra_k", random(&[1, 1, 5, 8], 4));
    list.push(case(
        "neighborhood-attention",
        &[("shape", "5,6"), ("window", "3,3")],
        with(extra, "extra_v", random(&[1, 1, 5, 8], 5)),
    ));
    for position in ["text", "cache"] {
        for chunk in ["none", "8"] {
            let params = [("sink", "3"), ("recent", "10"), ("position", position), ("chunk", chunk)];
            list.push(case("streaming-attention", &params, qkv([1, 4, 2, 30, 70, 16, 12])));
        }
    }
    list.extend(images());
    list.extend(nats());
    list
}

/// Gates and kernels of images.
fn images() -> Vec<Case> {
    let mut list = Vec::new();
    for [b, channels, y, x] in [[1, 1, 1, 1], [2, 6, 7, 5], [1, 3, 2, 65]] {
        let z = random(&[b, channels, y, x], 1);
        for z in [z.clone(), z.to_f16()] {
            let of = |name, shape: &[usize]| vec![("z", z.clone()), (name, random(shape, 2))];
            list.push(case("hyper-zzw", &[], of("w", &[channels, y, y])));
            for shape in [&[x][..], &[y, 1], &[channels, 1, x], &[b, 1, y, x]] {
                list.push(case("hyper-zzw", &[("mode", "elementwise")], of("w", shape)));
            }
            for taps in [1, 3, 7] {
                list.push(case("hyper-zzw-local", &[], of("kernel", &[b, channels, taps, taps])));
            }
        }
        let gates = |each, taps| vec![("x", z.clone()), ("conv_weight", random(&[channels, each, taps], 2))];
        list.push(case("efficient-local-attention", &[("norm_groups", "1")], gates(1, 3)));
        let params = [("conv_groups", "1"), ("norm_groups", if channels == 6 { "2" } else { "1" })];
        let more = with(gates(channels, 5), "gn_weight", random(&[channels], 3));
        list.push(case("efficient-local-attention", &params, with(more, "gn_bias", random(&[channels], 4))));
    }
    list
}

/// Blocks of a state and blocks of keys: all of one kind, mixed, none complete, and branches of their own.
fn nats() -> Vec<Case> {
    let mut list = Vec::new();
    // The last one has more states of blocks than are held at once.
    for [b, h, l, d, dv] in [[1, 1, 1, 1, 1], [2, 3, 37, 6, 5], [1, 2, 64, 16, 12], [2, 4, 250, 96, 92]] {
        for block in [1, 8, 64].into_iter().filter(|block| l < 100 || *block == 1) {
            let rate = |seed, of: fn(f32) -> f32| {
                let data: Vec<f32> = random(&[b, h, l], seed).to_f32().into_iter().map(of).collect();
                HostTensor::new(&[b, h, l], data).expect("a shape")
            };
            let plain = |kind: &dyn Fn(usize) -> bool| {
                let inputs = with(qkv([b, h, h, l, l, d, dv]), "beta", rate(4, |x| 1.0 / (1.0 + (-x).exp())));
                let inputs = with(inputs, "log_decay", rate(5, |x| -0.3 * x.abs()));
                let inputs = with(inputs, "is_softmax", flags(&[b, h, l.div_ceil(block)], kind));
                // Both branches of a lone token are multiples of its value, which norms of equal weight may cancel.
                if l == 1 { with(inputs, "weights", random(&[b, h, l, 2], 10)) } else { inputs }
            };
            let size = block.to_string();
            let size: &'static str = ["1", "8", "64"].into_iter().find(|n| *n == size).expect("a block");
            for decay in ["true", "false"] {
                let params = [("block", size), ("decay_softmax_blocks", decay)];
                let kinds = [(&|_| true) as &dyn Fn(usize) -> bool, &|_| false, &|n| n % 3 != 1];
                for kind in kinds.into_iter().take(if l < 100 { 3 } else { 1 }) {
                    list.push(case("nats-l", &params, with(plain(kind), "state", random(&[b, h, d, dv], 6))));
                }
            }
            let own = with(plain(&|n| n % 2 == 0), "q_attn", random(&[b, h, l, 7], 7));
            let own = with(own, "k_attn", random(&[b, h, l, 7], 8));
            let own = with(with(own, "v_attn", random(&[b, h, l, dv], 9)), "weights", random(&[b, h, l, 2], 11));
            list.push(case("nats-l", &[("block", size), ("scale", "0.7"), ("scale_attn", "0.4")], own));
            list.push(case("nats-l", &[("block", size)], half(plain(&|n| n % 2 == 0))));
        }
    }
    let inputs = with(qkv([1, 2, 2, 9, 9, 4, 5]), "beta", random(&[1, 2, 9], 4));
    let inputs = with(with(inputs, "log_decay", random(&[1, 2, 9], 5)), "is_softmax", flags(&[1, 2, 1], |_| true));
    list.push(case("nats-l", &[("block", "2147483647")], inputs));
    list
}

fn hierarchical() -> Vec<Case> {
    let mut list = Vec::new();
    for [b, lq, lk, hi, di] in [[1, 1, 9, 1, 4], [2, 33, 65, 3, 20], [1, 50, 50, 4, 32]] {
        let index = vec![
            ("q_idx", random(&[b, lq, hi, di], 1)),
            ("k_idx", random(&[b, lk, di], 2)),
            ("w", random(&[b, lq, hi], 3)),
        ];
        list.push(case("lightning-indexer", &[("topk", "7")], index.clone()));
        list.push(case("lightning-indexer", &[("topk", "1000"), ("causal", "false")], index.clone()));
        let attend = [index, qkv([b, 4, 2, lq, lk, 12, 20])].concat();
        list.push(case("hisa", &[("block_size", "8"), ("block_topk", "3"), ("topk", "11")], attend));
        let nsa = with(qkv([b, 4, 2, lq, lk, 12, 20]), "gates", random(&[b, 4, lq, 3], 4));
        let params =
            [("cmp_length", "8"), ("cmp_stride", "4"), ("sel_block", "8"), ("sel_count", "3"), ("window", "10")];
        list.push(case("native-sparse-attention", &params, nsa.clone()));
        list.push(case("native-sparse-attention", &params, with(nsa, "cmp_weight", random(&[8], 5))));
    }
    let packed = vec![
        ("q", random(&[4, 70, 12], 1)),
        ("k", random(&[2, 81, 12], 2)),
        ("v", random(&[2, 81, 20], 3)),
        ("cu_q", ints(&[6], vec![0, 1, 1, 34, 60, 70])),
        ("cu_k", ints(&[6], vec![0, 7, 20, 50, 50, 81])),
    ];
    list.push(case("varlen-attention", &[("causal", "true")], packed.clone()));
    list.push(case("varlen-attention", &[("causal", "true"), ("align", "top_left")], packed.clone()));
    list.push(case("varlen-attention", &[], half(packed)));
    let lses =
        HostTensor::from_fn(&[3, 2, 2, 9], |n| if n % 5 == 0 { f32::NEG_INFINITY } else { (n % 7) as f32 - 3.0 });
    list.push(case("merge-lse", &[], vec![("outs", random(&[3, 2, 2, 9, 13], 1)), ("lses", lses)]));
    list
}

/// Numbers between 0 and 1 (write weights), below 0 (log decays), and symmetric matrices.
fn rates(shape: &[usize], seed: u64, of: fn(f32) -> f32) -> HostTensor {
    let data = random(shape, seed).to_f32().into_iter().map(|x| of(1.0 / (1.0 + (-x).exp()))).collect::<Vec<_>>();
    HostTensor::new(shape, data).expect("a shape")
}

/// Least squares at every token: more tokens than a segment has, fewer heads of keys, states before, every option.
fn regressions() -> Vec<Case> {
    let mut list = Vec::new();
    for size in [[1, 2, 1, 150, 150, 20, 12], [2, 3, 3, 1, 1, 7, 5], [1, 2, 2, 9, 9, 40, 33]] {
        let [b, h, _, l, _, d, dv] = size;
        let gated = |inputs, weight| {
            let inputs = with(inputs, "log_decay", rates(&[b, h, l], 4, |x| -0.2 * x));
            with(inputs, weight, rates(&[b, h, l], 5, |x| x))
        };
        let eye = |n: usize| if n / d % d == n % d { 2.0 } else { 0.1 };
        let before = with(gated(qkv(size), "beta"), "state_kk", HostTensor::from_fn(&[b, h, d, d], eye));
        let before = with(before, "state_kv", random(&[b, h, d, dv], 6));
        let own = with(before.clone(), "ridge_diag", rates(&[h, d], 7, |x| 0.5 + x));
        list.push(case("mesa-layer", &[("ridge", "0.5")], before.clone()));
        list.push(case("mesa-layer", &[("iterations", "5")], own));
        list.push(case("mesa-layer", &[("iterations", "0")], qkv(size)));
        list.push(case("mesa-layer", &[], half(before)));
        let before = with(gated(qkv(size), "beta"), "p", HostTensor::from_fn(&[b, h, d, d], eye));
        list.push(case("rls-layer", &[], with(before.clone(), "state", random(&[b, h, d, dv], 6))));
        list.push(case("rls-layer", &[("ridge", "2")], half(before)));
        for window in ["7", "none"] {
            // A ridge that fades while the window's data do not leaves f32 no digits.
            let fading = if window == "none" { "true" } else { "false" };
            let params = [("window", window), ("decay_ridge", fading), ("ridge", "2")];
            list.push(case("windowed-least-squares", &params, gated(qkv(size), "weight")));
        }
        list.push(case("windowed-least-squares", &[("window", "5"), ("feature", "elu1")], half(qkv(size))));
    }
    list.push(case("mesa-layer", &[], qkv([1, 2, 2, 5, 5, 70, 3])));
    // A linear system multiplies rounding by its condition, here some hundreds.
    list.iter_mut().for_each(|case| case.budget = Budget::F16);
    list
}

/// Memories that learn: chunks entered in the middle, one layer and two, more tokens than a stage has, fewer heads of keys, every activation.
fn memories() -> Vec<Case> {
    let mut list = Vec::new();
    let small = |shape: &[usize], seed| {
        let data = random(shape, seed).to_f32().into_iter().map(|x| 0.3 * x).collect::<Vec<_>>();
        HostTensor::new(shape, data).expect("a shape")
    };
    for [b, h, hk, l, d, hid, dv] in
        [[2, 4, 2, 23, 12, 33, 7], [1, 1, 1, 1, 5, 5, 5], [1, 2, 2, 9, 40, 160, 24], [1, 1, 1, 200, 8, 1000, 8]]
    {
        let rated = |mut inputs: Vec<(&'static str, HostTensor)>, tokens| {
            // The wider the layer, the longer the gradient.
            let theta: Vec<f32> =
                rates(&[b, h, tokens], 4, |x| x).to_f32().iter().map(|x| x * 0.6 / (30 + hid) as f32).collect();
            inputs.push(("theta", HostTensor::new(&[b, h, tokens], theta).expect("a shape")));
            inputs.push(("alpha", rates(&[b, h, tokens], 5, |x| 0.1 * x)));
            with(inputs, "eta", rates(&[b, h, tokens], 6, |x| 0.5 * x))
        };
        let plain = rated(qkv([b, h, hk, l, l, d, dv]), l);
        let one = with(plain.clone(), "weight0", small(&[h, d, dv], 7));
        let two = with(with(plain, "weight0", small(&[h, d, hid], 7)), "weight1", small(&[b, h, hid, dv], 8));
        let amid =
            with(with(two.clone(), "momentum0", small(&[b, h, d, hid], 9)), "anchor0", small(&[b, h, d, hid], 10));
        let amid = with(with(amid, "momentum1", small(&[b, h, hid, dv], 11)), "anchor1", small(&[b, h, hid, dv], 12));
        list.push(case("titans-memory", &[("chunk", "5"), ("pos", "8"), ("act", "relu")], amid));
        list.push(case("titans-memory", &[("chunk", "3"), ("act", "tanh"), ("read", "before")], half(two)));
        list.push(case("titans-memory", &[("grad_scale", "1"), ("pos", "7"), ("read", "before")], one));

        let persistent = [("p_k", random(&[h, 3, d], 4)), ("p_v", random(&[h, 3, dv], 5))];
        let slots = [("mem_k", random(&[b, h, l, d], 6)), ("mem_v", random(&[b, h, l, dv], 7))];
        let all = [qkv([b, h, h, l, l, d, dv]), persistent.to_vec(), slots.to_vec()].concat();
        list.push(case("titans-mac", &[("segment", "7"), ("mem_causal", "false")], all.clone()));
        list.push(case("titans-mac", &[("segment", "4"), ("scale", "0.5")], half(all)));

        let maps = [("w_q", random(&[d, 9], 8)), ("w_k", random(&[d, 9], 9)), ("w_v", random(&[d, 9], 10))];
        let layers = [("weight0", small(&[h, d, hid], 11)), ("weight1", small(&[h, hid, d], 12))];
        let all = [vec![("x", random(&[b, h, l, d], 1))], maps.to_vec(), layers.to_vec()].concat();
        let params = [("window", "6"), ("chunk", "4"), ("act", "relu"), ("scale", "0.4")];
        list.push(case("titans-mal", &params, rated(with(all.clone(), "p", random(&[h, 5, d], 3)), l + 5)));
        list.push(case("titans-mal", &[("window", "1")], rated(all, l)));
    }
    list
}

fn run(cases: Vec<Case>) {
    let filter = std::env::var("ATTN_TEST").unwrap_or_default();
    let mut failures = Vec::new();
    for (n, case) in cases.into_iter().filter(|c| c.id().contains(&filter)).enumerate() {
        let params: Vec<_> = case.params.iter().map(|(n, v)| ((*n).to_owned(), Value::parse(v))).collect();
        let variant = variant::find(case.variant).and_then(|entry| entry.make(&params)).expect("a variant");
        let want = variant.oracle(&oracle_inputs(case.inputs.iter().map(|(n, t)| (*n, t))));
        let inputs = case.inputs.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
        for (name, runtime) in engines_in_turn(n) {
            match runtime.call_blocking(&*variant, &inputs) {
                Err(error) => failures.push(format!("{} on {name}: {error}", case.id())),
                Ok(outputs) => {
                    for (output, want) in &want {
                        let result = outputs.get(output).map_err(|e| e.to_string());
                        if let Err(why) = result.and_then(|got| close(&tensor_of(want), got, case.budget)) {
                            failures.push(format!("{} on {name}: {output}: {why}", case.id()));
                        }
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn dense_variants_agree_with_their_oracles() {
    run(dense());
}

#[test]
fn sparse_and_linear_variants_agree_with_their_oracles() {
    run(sparse_and_linear());
}

#[test]
fn memories_agree_with_their_oracles() {
    run(memories());
}

#[test]
fn regressions_agree_with_their_oracles() {
    run(regressions());
}

#[test]
fn hierarchical_and_packed_variants_agree_with_their_oracles() {
    run(hierarchical());
}
