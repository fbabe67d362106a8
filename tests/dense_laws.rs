//! Laws of the dense catalogue: what must not matter, what must be equal, what must be refused.

mod common;

use common::tensors::{Call, Tensors, flags, ints, params, qkv, rows, run};
use common::{Budget, assert_close, random};
use wgpu_attention::{HostTensor, Inputs, variant};

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

/// Inputs of relative attention behind convolutions whose taps are `tap(channel, m)` of `taps`.
fn convolved(size: [usize; 7], taps: usize, tap: impl Fn(usize, usize) -> f32) -> Tensors {
    let [_, h, hk, lq, lk, d, dv] = size;
    let convolution = |h: usize, d: usize| HostTensor::from_fn(&[h, d, taps], |n| tap(n / taps, n % taps));
    let more = vec![
        ("rel", random(&[h, lq + lk - 1, d], 4)),
        ("u", random(&[h, d], 5)),
        ("w", random(&[h, d], 6)),
        ("conv_q", convolution(h, d)),
        ("conv_k", convolution(hk, d)),
        ("conv_v", convolution(hk, dv)),
    ];
    [qkv(size), more].concat()
}

#[test]
fn unit_convolutions_are_relative_attention() {
    for causal in ["true", "false"] {
        // The tap at the token itself: the last one, or the middle one.
        let here = if causal == "true" { 2 } else { 1 };
        let inputs = convolved([2, 4, 2, 9, 15, 8, 5], 3, |_, m| if m == here { 1.0 } else { 0.0 });
        let list = [("causal", causal)];
        for output in ["out", "lse"] {
            let want = run("transformer-xl-attention", &list, &inputs[..6].to_vec(), output);
            assert_close(output, &want, &run("rcmha-attention", &list, &inputs, output), Budget::F32);
        }
    }
}

#[test]
fn causal_convolutions_see_no_later_token() {
    let inputs = convolved([1, 2, 1, 12, 12, 8, 4], 3, |c, m| (0.3 + c as f32).sin() * (1.0 + m as f32));
    let (kept, all): (Vec<usize>, Vec<usize>) = ((0..7).collect(), (0..12).collect());
    let mut changed = inputs.clone();
    for (_, x) in &mut changed[..3] {
        // Tokens from 7 on are others.
        *x = rows(x, &[&all[..7], &[0, 2, 4, 1, 3]].concat());
    }
    let pair = |causal: &str| [&inputs, &changed].map(|x| run("rcmha-attention", &[("causal", causal)], x, "out"));
    let [want, got] = pair("true").map(|x| rows(&x, &kept).to_f64());
    assert_eq!(want, got);
    let [want, got] = pair("false").map(|x| rows(&x, &kept).to_f64());
    assert_ne!(want, got, "without `causal` they are seen");
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
        mistake("rcmha-attention", vec![], convolved([1, 2, 1, 12, 12, 8, 8], 0, |_, _| 0.0), "conv_q", Shape),
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
