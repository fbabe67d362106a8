//! Operators, emphasis and diagnostics at odd sizes, with every option, on every engine against the oracles. Inputs come from the cards:
//! normal numbers for tensors of reals, two thirds ones for flags, rows that sum to 1 for attention maps.

mod common;

use common::{Budget, close, engines_in_turn, random, tensor_of};
use wgpu_attention::case::oracle_inputs;
use wgpu_attention::{DType, ErrorKind, HostTensor, Inputs, Problem, Result, Runtime, Spec, Value, Variant, variant};

/// One problem: variant, parameters, sizes, optional inputs.
type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str, &'static [&'static str]);

const CASES: &[Case] = &[
    ("aaren", &[], "B=2,H=3,L=131,D=7,Dv=5", &[]),
    ("aaren", &[("scale", "9")], "B=1,H=2,L=35,D=20,Dv=72", &["m", "u", "w"]),
    ("aaren", &[], "B=1,H=1,L=1,D=1,Dv=1", &["m", "u", "w"]),
    ("attention-calibration", &[("heads", "1,3"), ("threshold", "0.05")], "B=2,H=4,Hk=2,L=35,D=7,Dv=5", &[]),
    ("attention-calibration", &[("heads", "0"), ("beta", "0"), ("scale", "2")], "B=1,H=1,Hk=1,L=1,D=3,Dv=2", &[]),
    ("attention-calibration", &[("heads", "0,1"), ("threshold", "0.9")], "B=1,H=2,Hk=1,L=70,D=8,Dv=72", &[]),
    ("attention-statistics", &[], "B=2,H=6,Hk=3,Lq=7,Lk=65,D=5,Dv=3", &["mask"]),
    ("attention-statistics", &[("causal", "true")], "B=1,H=2,Hk=1,Lq=65,Lk=33,D=20,Dv=3", &[]),
    ("attention-statistics", &[("causal", "true"), ("scale", "0.3")], "B=1,H=2,Hk=2,Lq=33,Lk=100,D=7,Dv=4", &["mask"]),
    ("attention-statistics", &[], "B=1,H=1,Hk=1,Lq=1,Lk=1,D=1,Dv=1", &[]),
    ("emphasize-attention", &[("strength", "0.25")], "B=2,H=4,Hk=2,L=37,D=7,Dv=9", &[]),
    ("emphasize-attention", &[], "B=1,H=1,Hk=1,L=1,D=1,Dv=1", &[]),
    ("latent-pooling-attention", &[], "B=3,H=4,Hk=2,Lq=65,Lk=7,D=9,Dv=5", &["key_valid"]),
    ("latent-pooling-attention", &[("scale", "1")], "B=1,H=2,Hk=2,Lq=1,Lk=33,D=8,Dv=12", &[]),
    ("paint-attention", &[], "B=2,H=4,Hk=2,Lq=9,Lk=37,D=7,Dv=5", &["mask"]),
    (
        "paint-attention",
        &[("last_row_only", "false"), ("causal", "true"), ("alpha", "2")],
        "B=1,H=2,Hk=1,Lq=33,Lk=65,D=8,Dv=8",
        &[],
    ),
    ("pointer-scores", &[], "B=2,H=4,Hk=2,Lq=5,Lk=37,D=7", &["w", "mask"]),
    ("pointer-scores", &[("mode", "dot"), ("scale", "0.7")], "B=1,H=3,Hk=1,Lq=33,Lk=65,D=20", &[]),
    ("reversed-attention", &[], "B=2,H=3,L=35,D=7,Dv=5", &["message", "mask"]),
    ("reversed-attention", &[("causal", "true"), ("scale", "0.5")], "B=1,H=2,L=65,D=20,Dv=72", &["message"]),
    ("reversed-attention", &[], "B=1,H=1,L=1,D=1,Dv=1", &[]),
    ("reversed-message", &[("temperature", "0.7")], "B=3,L=35,H=7", &["previous"]),
    ("reversed-message", &[], "B=1,L=1,H=1", &[]),
    ("soft-pag-attention", &[("perturbed_block", "11")], "B=2,H=4,Hk=2,L=35,D=7,Dv=5", &["rows"]),
    ("soft-pag-attention", &[("scale", "1")], "B=1,H=3,Hk=1,L=65,D=8,Dv=9", &[]),
    ("token-emphasis-attention", &[], "B=2,H=4,Hk=2,Lq=7,Lk=37,D=7,Dv=5", &["mask"]),
    ("token-emphasis-attention", &[("causal", "true")], "B=1,H=2,Hk=1,Lq=65,Lk=65,D=20,Dv=9", &[]),
    ("x-pool-attention", &[("scale", "0.4")], "T=7,H=3,D=9,V=5,Fr=35,Dv=6", &[]),
    ("x-pool-attention", &[], "T=1,H=1,D=1,V=1,Fr=1,Dv=1", &[]),
    ("attention-flow", &[], "Nl=3,B=2,H=3,L=35", &[]),
    ("attention-flow", &[("regularise", "false")], "Nl=1,B=1,H=1,L=1", &[]),
    ("attention-rollout", &[("residual", "0.3")], "Nl=3,B=2,H=3,L=65", &[]),
    ("attention-rollout", &[("residual", "1")], "Nl=1,B=1,H=2,L=7", &[]),
    ("channel-attention", &[], "B=2,H=3,L=131,D=7", &[]),
    ("channel-attention", &[("scale", "0.05")], "B=1,H=1,L=1,D=65", &[]),
    ("efficient-attention", &[], "B=2,H=3,L=131,D=7,Dv=9", &["key_valid"]),
    ("efficient-attention", &[], "B=1,H=1,L=1,D=1,Dv=1", &[]),
    ("emphasis-factor", &[("top_local", "3"), ("top_spatial", "50"), ("gain", "2")], "B=2,H=5,Lq=9,Lk=37", &[]),
    ("emphasis-factor", &[("top_local", "0"), ("top_spatial", "1")], "B=1,H=1,Lq=1,Lk=1", &[]),
    ("informed-tokens", &[("local_ratio", "0.7")], "B=3,Hv=4,Ni=70", &[]),
    ("informed-tokens", &[("local_ratio", "0")], "B=1,Hv=1,Ni=1", &[]),
    ("lama-attention", &[], "B=3,L=35,Cx=9,Mh=5,R=3", &["mask"]),
    ("lama-attention", &[("activation", "none")], "B=1,L=65,Cx=20,Mh=1,R=1", &[]),
    ("lama-attention", &[("l2", "false")], "B=2,L=7,Cx=5,Mh=3,R=2", &[]),
    (
        "local-polynomial-attention",
        &[("ridge", "0.1"), ("causal", "true")],
        "B=2,H=4,Hk=2,Lq=35,Lk=35,D=5,Dv=3",
        &["mask"],
    ),
    ("local-polynomial-attention", &[("degree", "2"), ("ridge", "0.2")], "B=1,H=2,Hk=1,Lq=7,Lk=65,D=4,Dv=72", &[]),
    ("local-polynomial-attention", &[("ridge", "1")], "B=1,H=1,Hk=1,Lq=33,Lk=100,D=64,Dv=1", &[]),
    ("local-polynomial-attention", &[("scale", "0.1")], "B=1,H=1,Hk=1,Lq=9,Lk=37,D=3,Dv=5", &[]),
    (
        "local-polynomial-attention",
        &[("degree", "0"), ("causal", "true")],
        "B=1,H=2,Hk=2,Lq=65,Lk=33,D=7,Dv=9",
        &["mask"],
    ),
    ("normalised-cut", &[], "B=2,L=35,Cx=5", &[]),
    ("normalised-cut", &[("tau", "0.1"), ("eps", "0.01")], "B=1,L=7,Cx=3", &[]),
    ("normalised-cut", &[], "B=1,L=2,Cx=1", &[]),
    ("p-laplacian-attention", &[("p", "1.6"), ("mu", "0.3")], "B=2,H=3,L=35,Df=5", &[]),
    ("p-laplacian-attention", &[("p", "2")], "B=1,H=1,L=7,Df=1", &[]),
    ("p-laplacian-attention", &[("p", "3"), ("eps", "0.001")], "B=1,H=1,L=9,Df=2", &[]),
    ("p-laplacian-cross", &[("p", "1.75")], "B=2,H=3,Lq=7,Lk=65,Df=9", &[]),
    ("ref-heatmap", &[("sink_share", "0.08")], "B=2,H=3,Lq=35,Lk=13", &[]),
    ("ref-heatmap", &[], "B=1,H=1,Lq=1,Lk=1", &[]),
    ("retrieval-score", &[("needle_start", "0"), ("needle_end", "35"), ("top_k", "6")], "T=9,H=5,Lk=35", &[]),
    ("retrieval-score", &[("needle_start", "2"), ("needle_end", "3"), ("top_k", "100")], "T=65,H=2,Lk=7", &[]),
    ("sink-score", &[("epsilon", "0.02")], "B=2,H=5,L=35", &[]),
    ("sink-score", &[], "B=1,H=1,L=1", &[]),
    (
        "sink-states",
        &[("primary", "3"), ("threshold", "0.4"), ("min_layers", "2"), ("margin", "3")],
        "Nl=7,L=35,Cx=5",
        &[],
    ),
    ("transpose-attention", &[("temperature", "0.2")], "B=2,H=3,L=131,D=7", &[]),
    ("transpose-attention", &[("temperature", "9"), ("l2", "false")], "B=1,H=1,L=35,D=33", &[]),
];

/// An input from its card. Attention maps are positive and their rows sum to 1.
fn input(name: &str, dtype: DType, shape: &[usize], seed: u64) -> HostTensor {
    match dtype {
        DType::U8 => {
            let bytes: Vec<u8> = random(shape, seed).to_f32().iter().map(|x| u8::from(*x > -0.4)).collect();
            HostTensor::new(shape, bytes).expect("a shape")
        }
        DType::I32 => {
            let whole: Vec<i32> = random(shape, seed).to_f32().iter().map(|x| (x * 2.0).round() as i32).collect();
            HostTensor::new(shape, whole).expect("a shape")
        }
        _ if ["weights", "attn", "first_layer", "late_layer"].contains(&name) => {
            let mut map: Vec<f32> = random(shape, seed).to_f32().iter().map(|x| (1.5 * x).exp()).collect();
            for row in map.chunks_mut(shape[shape.len() - 1]) {
                let sum: f32 = row.iter().sum();
                row.iter_mut().for_each(|x| *x /= sum);
            }
            HostTensor::new(shape, map).expect("a shape")
        }
        // Strengths and factors lie in their range; some factors are 0.
        // Two clusters of tokens, some of them near both: a graph whose second eigenvalue is well apart.
        _ if name == "features" && shape.len() == 3 => {
            let width = shape[2];
            let noise = random(shape, seed).to_f32();
            let cluster =
                |n: usize| if n % width == usize::from((n / width).is_multiple_of(3)) % width { 1.5 } else { 0.0 };
            HostTensor::from_fn(shape, |n| cluster(n) + 0.5 * noise[n])
        }
        // A sum of weights is positive.
        _ if name == "u" => HostTensor::from_fn(shape, |n| 0.5 + n as f32),
        _ if ["strength", "factor"].contains(&name) => {
            let half = random(shape, seed).to_f32().iter().map(|x| x.abs().min(2.0) / 2.0).collect::<Vec<_>>();
            HostTensor::new(shape, half.iter().map(|x| if *x < 0.1 { 0.0 } else { *x }).collect::<Vec<_>>())
                .expect("a shape")
        }
        _ => random(shape, seed),
    }
}

/// The tensors of a case.
fn inputs(variant: &dyn Variant, sizes: &str, half: bool, optional: &[&str]) -> Result<Vec<(String, HostTensor)>> {
    let sizes: Vec<(String, usize)> = sizes
        .split(',')
        .map(|one| one.split_once('=').expect("LETTER=SIZE"))
        .map(|(letter, n)| (letter.to_owned(), n.parse().expect("a size")))
        .collect();
    let problem = Problem::from_sizes(variant, &sizes, half, optional)?;
    let make = |(seed, (name, spec)): (usize, (&str, &Spec))| {
        let tensor = input(name, spec.dtype, &spec.shape, seed as u64 + 1);
        (name.to_owned(), if spec.dtype == DType::F16 { tensor.to_f16() } else { tensor })
    };
    Ok(problem.inputs().enumerate().map(make).collect())
}

fn make(name: &str, params: &[(&str, &str)]) -> Box<dyn Variant> {
    let params: Vec<_> = params.iter().map(|(n, v)| ((*n).to_owned(), Value::parse(v))).collect();
    variant::find(name).and_then(|entry| entry.make(&params)).expect("a variant")
}

fn agree(half: bool) {
    let filter = std::env::var("ATTN_TEST").unwrap_or_default();
    let mut failures = Vec::new();
    for (n, (name, params, sizes, optional)) in CASES.iter().enumerate() {
        let id = format!("{name} {params:?} {sizes} {optional:?}");
        let variant = make(name, params);
        if !id.contains(&filter) || (half && !variant.card().inputs.iter().any(|i| i.half)) {
            continue;
        }
        let tensors = inputs(&*variant, sizes, half, optional).expect("a problem");
        let want = variant.oracle(&oracle_inputs(tensors.iter().map(|(n, t)| (n.as_str(), t))));
        let call = tensors.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
        for (engine, runtime) in engines_in_turn(n) {
            let outputs = match runtime.call_blocking(&*variant, &call) {
                Ok(outputs) => outputs,
                Err(error) => {
                    failures.push(format!("{id} on {engine}: {error}"));
                    continue;
                }
            };
            for (output, want) in &want {
                let got = outputs.get(output).expect("an output of the card");
                // Flags and indices are exact.
                let budget = if got.dtype() == DType::F32 { budget(name, half) } else { Budget::EXACT };
                let got = HostTensor::new(got.shape(), got.to_f32()).expect("a shape");
                if let Err(why) = close(&tensor_of(want), &got, budget) {
                    failures.push(format!("{id} on {engine}: {output}: {why}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn operators_agree_with_their_oracles() {
    agree(false);
}

#[test]
fn operators_of_f16_agree_with_their_oracles() {
    agree(true);
}

/// What a variant does not take: variant, parameters, sizes, optional inputs, kind, words of the message.
type Refused = (Case, ErrorKind, &'static str);

const REFUSED: &[Refused] = &[
    (("aaren", &[], "B=1,H=1,L=3,D=2,Dv=2", &["m", "u"]), ErrorKind::MissingInput, "m, u and w together"),
    (
        ("attention-calibration", &[("heads", "0,4")], "B=1,H=4,Hk=2,L=5,D=2,Dv=2", &[]),
        ErrorKind::Parameter,
        "heads below H = 4",
    ),
    (
        ("attention-rollout", &[("residual", "1.5")], "Nl=1,B=1,H=1,L=3", &[]),
        ErrorKind::Parameter,
        "a number from 0 to 1",
    ),
    (("informed-tokens", &[("local_ratio", "-1")], "B=1,Hv=1,Ni=3", &[]), ErrorKind::Parameter, "a number from 0 to 1"),
    (("local-polynomial-attention", &[("degree", "3")], "B=1,H=1,Lq=9,D=2", &[]), ErrorKind::Parameter, "0, 1 or 2"),
    (
        ("local-polynomial-attention", &[("causal", "true")], "B=1,H=1,Lq=9,D=2", &[]),
        ErrorKind::Parameter,
        "above 0 where a row",
    ),
    (
        ("local-polynomial-attention", &[("ridge", "1"), ("degree", "2")], "B=1,H=1,Lq=9,D=10", &[]),
        ErrorKind::Limit,
        "65 of D = 10",
    ),
    (("mesa-layer", &[("ridge", "0")], "B=1,H=1,L=3,D=2", &[]), ErrorKind::Parameter, "a number above 0"),
    (("mesa-layer", &[], "B=1,H=1,L=3,D=129", &[]), ErrorKind::Limit, "up to 128 channels, found 129"),
    (("rls-layer", &[("ridge", "-1")], "B=1,H=1,L=3,D=2", &[]), ErrorKind::Parameter, "a number above 0"),
    (("windowed-least-squares", &[("window", "0")], "B=1,H=1,L=3,D=2", &[]), ErrorKind::Parameter, "1 or more tokens"),
    (
        ("windowed-least-squares", &[("feature", "taylor")], "B=1,H=1,L=3,D=12", &[]),
        ErrorKind::Limit,
        "up to 128 channels",
    ),
    (("normalised-cut", &[], "B=1,L=1,Cx=3", &[]), ErrorKind::Shape, "two tokens or more"),
    (("normalised-cut", &[("eps", "0")], "B=1,L=3,Cx=3", &[]), ErrorKind::Parameter, "a number above 0"),
    (("p-laplacian-attention", &[("p", "0")], "B=1,H=1,L=3,Df=2", &[]), ErrorKind::Parameter, "a number above 0"),
    (("p-laplacian-cross", &[("eps", "0")], "B=1,H=1,Lq=3,Lk=4,Df=2", &[]), ErrorKind::Parameter, "a number above 0"),
    (("pointer-scores", &[], "B=1,H=1,Lq=3,D=2", &[]), ErrorKind::MissingInput, "with mode additive"),
    (
        ("pointer-scores", &[("mode", "dot")], "B=1,H=1,Lq=3,D=2", &["w"]),
        ErrorKind::Unsupported,
        "nothing with mode dot",
    ),
    (
        ("pointer-scores", &[("scale", "1")], "B=1,H=1,Lq=3,D=2", &["w"]),
        ErrorKind::Parameter,
        "none with mode additive",
    ),
    (("retrieval-score", &[("needle_end", "9")], "T=2,H=1,Lk=8", &[]), ErrorKind::Parameter, "needle_end <= Lk = 8"),
    (("retrieval-score", &[("top_k", "0")], "T=2,H=1,Lk=9", &[]), ErrorKind::Parameter, "1 or more"),
    (("reversed-message", &[("temperature", "0")], "B=1,L=2,H=3", &[]), ErrorKind::Parameter, "a number above 0"),
    (("sink-states", &[("primary", "7")], "Nl=28,L=7,Cx=2", &[]), ErrorKind::Parameter, "a token below L = 7"),
    (("sink-states", &[], "Nl=12,L=7,Cx=2", &[]), ErrorKind::Parameter, "min_layers + margin <= Nl = 12"),
    (("titans-mac", &[("segment", "0")], "B=1,H=1,L=3,D=2,P=1", &[]), ErrorKind::Parameter, "1 or more tokens"),
    (("titans-mal", &[("window", "0")], "B=1,H=1,L=3,D=2,Hid=2,Dp=2", &[]), ErrorKind::Parameter, "1 or more keys"),
    (("titans-mal", &[], "B=1,H=1,L=3,D=2,Hid=2,Dp=2,P=4", &[]), ErrorKind::Shape, "3 in B H P+L"),
    (("titans-memory", &[("chunk", "0")], "B=1,H=1,L=3,D=2,Hid=2", &[]), ErrorKind::Parameter, "1 or more tokens"),
    (("titans-memory", &[], "B=1,H=1,L=3,D=2,Hid=5", &[]), ErrorKind::Shape, "2 columns without `weight1`"),
    (("titans-memory", &[], "B=1,H=1,L=3,D=2,Hid=2", &["anchor1"]), ErrorKind::MissingInput, "given with `anchor1`"),
    (("titans-memory", &[], "B=1,H=1,L=3,D=64,Hid=1400", &["weight1"]), ErrorKind::Limit, "up to 4096"),
    (
        ("transpose-attention", &[("temperature", "0")], "B=1,H=1,L=3,D=2", &[]),
        ErrorKind::Parameter,
        "a number above 0",
    ),
];

#[test]
fn what_is_not_taken_is_refused_by_name() {
    for ((name, params, sizes, optional), kind, words) in REFUSED {
        let variant = make(name, params);
        let refusal = inputs(&*variant, sizes, false, optional).and_then(|tensors| {
            let call = tensors.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
            Runtime::cpu().plan(&*variant, &call)
        });
        let error = refusal.expect_err(name);
        assert_eq!(error.kind(), *kind, "{error}");
        assert!(error.to_string().contains(words) && error.to_string().starts_with(name), "{error}");
    }
}

/// Powers of differences, and products of many matrices, keep fewer digits.
fn budget(variant: &str, half: bool) -> Budget {
    match variant {
        "local-polynomial-attention" => Budget::MATRIX,
        _ if half => Budget::F16,
        "p-laplacian-attention" | "p-laplacian-cross" => Budget::SCAN,
        // Two hundred steps of an iteration.
        "normalised-cut" => Budget::MATRIX,
        _ => Budget::F32,
    }
}
