//! Hooks in WGSL mean the same everywhere: the interpreter does what the shared hooks' twins do, and what the GPU engines do.

mod common;

use common::{Budget, close, engines, golden, random};
use std::collections::BTreeSet;
use std::sync::Arc;
use wgpu_attention::case::Case;
use wgpu_attention::hook::{ArgRow, ArgValue, Hook, Parameter, Row, Twin};
use wgpu_attention::kernel::diagnose::Fold;
use wgpu_attention::kernel::key::{Point, ScalarType};
use wgpu_attention::kernel::transform::{Feature, Map};
use wgpu_attention::plan::PlanBuilder;
use wgpu_attention::shader::user::Code;
use wgpu_attention::{
    Along, Card, Family, Hooked, HostData, HostTensor, InputSpec, Inputs, OutputSpec, Problem, Result, Spec, UserHook,
    Value, Variant, hooks, oracle, runtime, variant,
};

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

/// The hooks of all golden cases, each text once, and those that no case reaches.
fn shared() -> Vec<Hook> {
    let mut list: Vec<Hook> = Vec::new();
    let mut add = |hook: &Hook| {
        if !list.iter().any(|h| h.source == hook.source) {
            list.push(hook.clone());
        }
    };
    for (path, bytes) in golden() {
        let case = Case::parse(&bytes, None).expect("a case file");
        let variant = case.make(&[]).expect("a variant");
        let specs = case.inputs.iter().map(|(n, t)| (n.as_str(), Spec { dtype: t.dtype(), shape: t.shape().to_vec() }));
        let problem = Problem::new(&*variant, specs).expect("a problem");
        let plan = runtime::plan(&*variant, &problem).unwrap_or_else(|e| panic!("{path}: {e}"));
        plan.stages.iter().flat_map(|s| &s.hooks).for_each(&mut add);
    }
    let window = ("window".to_owned(), Value::Int(2));
    for (name, params, length, with) in [
        ("dense-attention", vec![], "Lq", &["pos_q", "pos_k"][..]),
        ("windowed-least-squares", vec![window], "L", &["log_decay"][..]),
    ] {
        let variant = variant::find(name).and_then(|e| e.make(&params)).expect("a variant");
        let sizes = [("B", 1), ("H", 1), (length, 4), ("D", 4), ("Dv", 4)].map(|(n, s)| (n.to_owned(), s));
        let problem = Problem::from_sizes(&*variant, &sizes, false, with).expect("a problem");
        let plan = runtime::plan(&*variant, &problem).expect("a plan");
        plan.stages.iter().flat_map(|s| &s.hooks).for_each(&mut add);
    }
    add(&hooks::one());
    add(&hooks::alone(60));
    add(&hooks::shift(0.3));
    list
}

#[test]
fn every_shared_hook_is_interpreted_as_its_twin() {
    let shared = shared();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders/hooks");
    let mut files = BTreeSet::new();
    for point in std::fs::read_dir(&folder).expect("the hooks").flatten() {
        for file in std::fs::read_dir(point.path()).expect("a folder of hooks").flatten() {
            files.insert(std::fs::read_to_string(file.path()).expect("a hook's text"));
        }
    }
    let mut dice = Dice(1);
    let mut wrong = Vec::new();
    for hook in &shared {
        files.remove(&*hook.source);
        // The interpreter has no lookups, which users' functions do not have either; golden cases compare these on every engine.
        if hook.args.iter().any(|arg| matches!(arg.value, ArgValue::Lookup(..))) {
            continue;
        }
        let code = Code::new(hook.point, &hook.name, &hook.source).unwrap_or_else(|e| panic!("{}: {e}", hook.name));
        for round in 0..40 {
            if let Err(why) = compare(hook, &code, &mut dice, round) {
                wrong.push(why);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if std::env::var("ATTN_TEST").is_err() {
        assert!(
            files.is_empty(),
            "neither a golden case nor `shared` above reaches these hooks:\n{}",
            Vec::from_iter(files).join("\n")
        );
    }
}

fn compare(hook: &Hook, code: &Code, dice: &mut Dice, round: usize) -> Result<(), String> {
    let count = 1 + dice.below(150);
    let mut keys: Vec<i32> = (0..count as i32).map(|j| j + 3).collect();
    if round.is_multiple_of(3) {
        keys.iter_mut().for_each(|j| *j = dice.below(200) as i32);
    }
    let kinds: Vec<ScalarType> = code.params().iter().map(|(_, kind)| *kind).collect();
    let tables: Vec<HostData> = kinds
        .iter()
        .map(|kind| match kind {
            ScalarType::F32 => HostData::F32((0..200).map(|_| dice.below(2000) as f32 / 300.0 - 3.0).collect()),
            ScalarType::Bool => HostData::U8((0..200).map(|_| dice.below(2) as u8).collect()),
            _ => HostData::I32((0..200).map(|_| dice.below(60) as i32).collect()),
        })
        .collect();
    // Twins read an argument that cannot change with the key once.
    let along = matches!(&*hook.name, "given" | "bias" | "positions");
    let step = if along { round % 2 } else { 0 };
    let args: Vec<ArgRow> = hook
        .args
        .iter()
        .zip(&tables)
        .map(|(arg, data)| match &arg.value {
            ArgValue::F32(x) => ArgRow::Number(f64::from(*x)),
            ArgValue::I32(x) => ArgRow::Number(f64::from(*x)),
            ArgValue::U32(x) => ArgRow::Number(f64::from(*x)),
            // None of these hooks looks anything up: the interpreter has no lookups.
            ArgValue::Lookup(..) => unreachable!("{} looks up", hook.name),
            ArgValue::Table(..) => {
                let step = if &*arg.name == "pos_q" { 0 } else { step };
                ArgRow::Table { data, base: 0, step }
            }
        })
        .collect();
    let params: Vec<Parameter> = kinds
        .iter()
        .zip(&args)
        .map(|(kind, arg)| {
            let along_keys = matches!(arg, ArgRow::Table { step: 1, .. });
            Parameter { kind: *kind, along_rows: true, along_keys }
        })
        .collect();
    let twin = Twin::Program(Arc::new(code.program(&params).map_err(|e| e.to_string())?));
    let row = Row { batch: 1, head: 2, row: dice.below(100), query: dice.below(100) as i32, keys: &keys };
    let name = &hook.name;
    match hook.point {
        Point::Mask => {
            let (mut want, mut got) = (vec![true; count], vec![true; count]);
            hook.twin.mask(&mut want, &row, &args);
            twin.mask(&mut got, &row, &args);
            if want != got {
                return Err(format!("{name}: {want:?} and interpreted {got:?} for {row:?} {args:?}"));
            }
        }
        Point::Score | Point::Weight | Point::Feature => {
            let scores: Vec<f32> = (0..count).map(|_| dice.below(4000) as f32 / 100.0 - 20.0).collect();
            let (mut want, mut got) = (scores.clone(), scores.clone());
            if hook.point == Point::Feature {
                hook.twin.feature(&mut want, &args);
                twin.feature(&mut got, &args);
            } else {
                hook.twin.score(&mut want, &row, &args);
                twin.score(&mut got, &row, &args);
            }
            // Bit for bit, but for the sign of zero (sign(0) is 0 in WGSL and 1 in Rust) and for twins with functions of their own.
            let functions = ["exp", "log", "pow", "tanh", "sin", "cos", "sqrt"].iter().any(|f| hook.source.contains(f));
            let same = |a: f32, b: f32| {
                a == b || (a.is_nan() && b.is_nan()) || (functions && (a - b).abs() <= 1e-6 * (1.0 + a.abs()))
            };
            if let Some(n) = (0..count).find(|&n| !same(want[n], got[n])) {
                return Err(format!("{name} of {}: {} and interpreted {}", scores[n], want[n], got[n]));
            }
        }
    }
    Ok(())
}

/// out = x: a map whose feature hook is all it does.
#[derive(Debug)]
struct Identity;

impl Variant for Identity {
    fn card(&self) -> &'static Card {
        const CARD: Card = Card {
            name: "identity",
            family: Family::Dense,
            summary: "",
            equation: "",
            paper: "",
            inputs: &[InputSpec::float("x", "B H L D")],
            outputs: &[OutputSpec::float("out", "B H L D")],
            forms: &[],
            kernels: &["transform"],
        };
        &CARD
    }

    fn parameters(&self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    fn plan(&self, _: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (x, out) = (plan.input("x")?, plan.output("out")?);
        plan.map("map", Map { feature: Feature::Identity }, &x, &out)
    }

    fn oracle(&self, _: &oracle::Inputs) -> oracle::Outputs {
        Vec::new()
    }
}

/// What each engine makes of the elements, the CPU engine first.
fn features(text: &str, x: &HostTensor) -> Result<Vec<(&'static str, Vec<f32>)>> {
    let hook = UserHook::feature(text)?;
    let variant = Hooked::new(Identity).hook(hook);
    let inputs = Inputs::new().with("x", x);
    let run = |(name, runtime): (&'static str, wgpu_attention::Runtime)| {
        let outputs = runtime.call_blocking(&variant, &inputs)?;
        let out = outputs.get("out")?.to_f64();
        Ok((name, out.into_iter().map(|x| x as f32).collect()))
    };
    engines().into_iter().map(run).collect()
}

fn integer(dice: &mut Dice, depth: usize, unsigned: bool) -> String {
    let ty = if unsigned { "u32" } else { "i32" };
    if depth == 0 {
        return match (dice.below(4), unsigned) {
            (0, true) => format!("{}u", dice.of(&["0", "1", "7", "4000000000"])),
            (0, false) => dice.of(&["0", "1", "-3", "2000000000"]).to_owned(),
            (_, true) => dice.of(&["u", "u", "bitcast<u32>(x)"]).to_owned(),
            (_, false) => dice.of(&["i", "i", "bitcast<i32>(x)"]).to_owned(),
        };
    }
    let next = |dice: &mut Dice| integer(dice, depth - 1, unsigned);
    match dice.below(14) {
        0..=4 => {
            let (a, b) = (next(dice), next(dice));
            format!("({a} {} {b})", dice.of(&["+", "-", "*", "/", "%", "&", "|", "^"]))
        }
        5 => {
            let (a, b) = (next(dice), integer(dice, 0, true));
            format!("({a} {} (({b}) & 31u))", dice.of(&["<<", ">>"]))
        }
        6 => {
            let (a, b) = (next(dice), next(dice));
            format!("{}({a}, {b})", dice.of(&["min", "max"]))
        }
        7 => format!("abs({})", next(dice)),
        8 => format!("~{}", next(dice)),
        9 => format!(
            "{}({})",
            dice.of(&["countOneBits", "firstLeadingBit", "firstTrailingBit", "reverseBits", "countLeadingZeros"]),
            next(dice)
        ),
        10 => format!("{ty}({})", integer(dice, depth - 1, !unsigned)),
        11 => {
            let (a, b) = (next(dice), next(dice));
            format!("select({a}, {b}, {})", truth(dice, depth - 1))
        }
        12 => format!("{ty}({})", truth(dice, depth - 1)),
        _ => {
            let (a, b, c) = (next(dice), next(dice), next(dice));
            format!("vec2({a}, {b})[({}) & 1u] + {c}", integer(dice, depth - 1, true))
        }
    }
}

fn truth(dice: &mut Dice, depth: usize) -> String {
    let unsigned = dice.below(2) == 0;
    let (a, b) = (integer(dice, depth.min(1), unsigned), integer(dice, depth.min(1), unsigned));
    let test = format!("({a} {} {b})", dice.of(&["<", "<=", ">", ">=", "==", "!="]));
    match dice.below(3) {
        0 if depth > 0 => format!("({test} {} {})", dice.of(&["&&", "||"]), truth(dice, depth - 1)),
        1 => format!("!{test}"),
        _ => test,
    }
}

#[test]
fn integers_are_the_same_on_every_engine() {
    let specials = [0.0, 1.0, -1.0, 3.9, -3.9, 31.0, 32.0, 1e9, 3e9, -3e9, 1e20, -1e20, 65535.0, -2147483648.0];
    let x: Vec<f32> = (0..70).map(|n| specials.get(n).copied().unwrap_or(n as f32 * 37.25 - 1700.0)).collect();
    let x = HostTensor::new(&[1, 1, 1, 70], x).expect("a row");
    let mut dice = Dice(7);
    let (mut done, mut wrong) = (0, Vec::new());
    for _ in 0..60 {
        let (a, b) = (integer(&mut dice, 3, true), integer(&mut dice, 3, false));
        // Exact in f32: sixteen bits at a time.
        let text = format!(
            "fn feature(x: f32) -> f32 {{\n    let i = i32(x);\n    let u = u32(x);\n    var y = {a};\n    if ({}) {{ y ^= u32({b}); }}\n    return f32((y ^ (y >> 16u)) & 0xffffu);\n}}",
            truth(&mut dice, 2)
        );
        let results = match features(&text, &x) {
            Ok(results) => results,
            // Constants are folded, and some overflow.
            Err(e) if e.kind() == wgpu_attention::ErrorKind::Hook => continue,
            Err(e) => panic!("{e}\n{text}"),
        };
        done += 1;
        for (name, got) in &results[1..] {
            if let Some(n) = (0..got.len()).find(|&n| got[n] != results[0].1[n]) {
                wrong.push(format!(
                    "{name}: {}, interpreted {}, for x = {}:\n{text}",
                    got[n],
                    results[0].1[n],
                    x.to_f64()[n]
                ));
            }
        }
    }
    assert!(done > 30, "only {done} texts were hooks");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn builtins_and_control_flow_are_the_same_on_every_engine() {
    let x = random(&[1, 2, 5, 33], 3);
    let texts = [
        "fn feature(x: f32) -> f32 { return exp(x) + exp2(x) - log(abs(x) + 1.0) * log2(x * x + 1.0) + sqrt(abs(x)) + inverseSqrt(x * x + 0.5); }",
        "fn feature(x: f32) -> f32 { return sin(x) * cos(x) + tan(x * 0.3) + asin(clamp(x, -0.9, 0.9)) + acos(saturate(x)) + atan(x) + atan2(x, 2.0); }",
        "fn feature(x: f32) -> f32 { return sinh(x) - cosh(x) + tanh(x * 0.5) + asinh(x) + acosh(1.5 + x * x) + atanh(x * 0.1); }",
        "fn feature(x: f32) -> f32 { return floor(x * 3.0) + ceil(x) + trunc(x * 2.0) + round(x * 4.0) + fract(x) + sign(x); }",
        "fn feature(x: f32) -> f32 { return pow(abs(x), 1.7) + fma(x, x, 0.5) + mix(x, 3.0, 0.2) + step(0.3, x) + smoothstep(-1.0, 1.0, x) + radians(x) + degrees(x) % 2.0; }",
        "fn feature(x: f32) -> f32 { let v = vec3(x, 2.0, -x); let w = (v.zyx * 2.0 - v) / vec3(2.0); return dot(v, w) + length(v) + distance(v.xy, w.yz) + f32(all(v < w + 1.0)) + f32(any(v > w)); }",
        "struct S { a: vec2<f32>, b: array<f32, 3> }\nfn made(x: f32) -> S { var s: S; s.a = vec2(x, -x); s.b = array(1.0, x, 3.0); return s; }\nfn feature(x: f32) -> f32 { var s = made(x); s.b[1] += s.a.y * 0.5; s.a.x = 7.0; return s.b[min(u32(abs(x) * 2.0), 2u)] + s.a.x; }",
        "const TABLE = array<f32, 5>(0.5, 1.5, -2.0, 4.0, 8.0);\nfn feature(x: f32) -> f32 { var sum = 0.0; for (var i = 0u; i < 5u; i++) { if (x > 1.5) { continue; } if (sum > 3.0) { break; } sum += TABLE[min(i, 4u)] * x; } return sum; }",
        "fn early(x: f32) -> f32 { if (x < -1.0) { return -1.0; } if (x < 0.0) { if (x > -0.5) { return x; } return x * 0.5; } return x * x; }\nfn feature(x: f32) -> f32 { let y = early(x); return y + early(y - 0.3); }",
        "fn feature(x: f32) -> f32 { var y = x; loop { if (y > 4.0) { return y; } y = abs(y) * 1.5 + 0.7; continuing { y += 0.1; break if y > 3.0; } } return -y; }",
        "fn feature(x: f32) -> f32 { var y = 0.0; switch i32(floor(x)) { case -1, 0: { y = 1.0; if (x > 0.2) { break; } y = 2.0; } case 1: { y = 3.0; } default: { y = x; } } return y; }",
        "fn feature(x: f32) -> f32 { var n = 0; while (true) { n += 1; } return x + f32(n); }",
        "fn feature(x: f32) -> f32 { var sum = 0.0; for (var i = 0; i < 4; i++) { for (var j = 0; j < i; j++) { if (f32(j) > abs(x) * 2.0) { break; } var t: f32; t += f32(i * j + 1); sum += t; } } return sum; }",
        "fn max(x: f32) -> f32 { return x * 3.0; }\nfn f(exp: f32) -> f32 { let min = exp + 1.0; return max(min); }\nfn feature(x: f32) -> f32 { return f(x); }",
    ];
    let mut wrong = Vec::new();
    for text in texts {
        let results = features(text, &x).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let tensor = |v: &Vec<f32>| HostTensor::new(&[v.len()], v.clone()).expect("a row");
        for (name, got) in &results[1..] {
            // The adapters' functions are as exact as WGSL demands, and no more: atan may be off by 4096 units.
            let budget = if text.contains("sin(") { Budget::MATRIX } else { Budget::F16 };
            if let Err(why) = close(&tensor(&results[0].1), &tensor(got), budget) {
                wrong.push(format!("{name}: {why}\n{text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_loop_is_cut_after_its_turns() {
    let x = HostTensor::zeros(&[1, 1, 1, 3]);
    let text = "fn feature(x: f32) -> f32 { var n = 0; loop { n += 1; } return f32(n); }";
    for (name, got) in features(text, &x).expect("a hook") {
        assert_eq!(got, [wgpu_attention::shader::user::TURNS as f32; 3], "{name}");
    }
}

/// Dense attention with hooks, written out in f64.
fn reference(
    q: &HostTensor,
    k: &HostTensor,
    v: &HostTensor,
    pair: impl Fn(usize, usize, usize, f64) -> Option<f64>,
) -> HostTensor {
    let (q_shape, k_shape) = (q.shape().to_vec(), k.shape().to_vec());
    let (qs, ks, vs) = (q.to_f64(), k.to_f64(), v.to_f64());
    let [batch, heads, queries, depth] = q_shape[..] else { panic!("rank") };
    let (groups, keys, width) = (k_shape[1], k_shape[2], v.shape()[3]);
    let mut out = Vec::new();
    for b in 0..batch {
        for h in 0..heads {
            for i in 0..queries {
                let row = &qs[((b * heads + h) * queries + i) * depth..][..depth];
                let kv = |j: usize| (b * groups + h * groups / heads) * keys + j;
                let score = |j: usize| -> f64 { row.iter().zip(&ks[kv(j) * depth..]).map(|(a, b)| a * b).sum() };
                let scores: Vec<Option<f64>> =
                    (0..keys).map(|j| pair(h, i, j, score(j) * (depth as f64).powf(-0.5))).collect();
                let top = scores.iter().flatten().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
                let weights: Vec<f64> = scores.iter().map(|s| s.map_or(0.0, |s| (s - top).exp())).collect();
                let sum: f64 = weights.iter().sum();
                for d in 0..width {
                    let value: f64 = (0..keys).map(|j| weights[j] * vs[kv(j) * width + d]).sum();
                    out.push(if sum > 0.0 { (value / sum) as f32 } else { 0.0 });
                }
            }
        }
    }
    HostTensor::new(&[batch, heads, queries, width], out).expect("a result")
}

#[test]
fn hooks_of_one_name_run_with_all_kinds_of_arguments() {
    use wgpu_attention::variants::dense::DenseAttention;
    let (q, k, v) = (random(&[2, 4, 37, 20], 1), random(&[2, 2, 53, 20], 2), random(&[2, 2, 53, 12], 3));
    let slopes: Vec<f32> = vec![0.1, 0.2, 0.3, 0.4];
    let kinds: Vec<i32> = (0..53).map(|j| j * 7 % 5).collect();
    let bias = random(&[37, 53], 5);
    let dropped: Vec<u8> = (0..37).map(|i| u8::from(i % 6 == 5)).collect();
    let first = UserHook::score("fn max(s: f32) -> f32 { return s * 0.5; }\nfn score(s: f32, at: At, slope: f32, slope_h: i32, score: f32) -> f32 {\n    return max(s) - slope * f32(abs(at.query - at.key)) + f32(slope_h) * 0.01 + score;\n}")
        .and_then(|h| h.with("slope", (&HostTensor::new(&[4], slopes.clone())?, Along::Heads)))
        .and_then(|h| h.with("slope_h", 3))
        .and_then(|h| h.with("score", (&bias, Along::Pairs)))
        .expect("a hook");
    let second = UserHook::score("const SCALE = 2.0;\nfn max(s: f32) -> f32 { return s * SCALE; }\nfn score(s: f32, at: At, kind: u32) -> f32 {\n    return select(max(s), s, kind == 2u);\n}")
        .and_then(|h| h.with("kind", ("kind", Along::Keys)))
        .expect("a hook");
    let third = UserHook::mask("fn mask(at: At, dropped: bool) -> bool { return !dropped || at.key < 3; }")
        .and_then(|h| h.with("dropped", (&HostTensor::new(&[37], dropped.clone())?, Along::Queries)))
        .expect("a hook");
    let biases = bias.to_f64();
    let want = reference(&q, &k, &v, |h, i, j, s| {
        let s = s * 0.5 - f64::from(slopes[h]) * (i as f64 + 16.0 - j as f64).abs() + 0.03 + biases[i * 53 + j];
        let s = if kinds[j] == 2 { s } else { s * 2.0 };
        (dropped[i] == 0 || j < 3).then_some(s)
    });
    let kind = HostTensor::new(&[53], kinds.clone()).expect("kinds");
    let inputs = Inputs::new().with("q", &q).with("k", &k).with("v", &v).with("kind", &kind);
    let variant = Hooked::new(DenseAttention::default()).hook(first).hook(second).hook(third);
    for (name, runtime) in engines() {
        let outputs = runtime.call_blocking(&variant, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        common::assert_close(name, &want, outputs.get("out").expect("out"), Budget::F32);
    }
}

#[test]
fn a_weight_hook_takes_the_place_of_the_variants_own() {
    use wgpu_attention::variants::dense::SigmoidAttention;
    let x = random(&[1, 2, 19, 8], 4);
    let text = "fn weight(s: f32, at: At, power: f32) -> f32 { return pow(max(s, 0.0), power); }";
    let hook = UserHook::weight(text).and_then(|h| h.with("power", 2.0_f32)).expect("a hook");
    let params = [("bias_rule".to_owned(), Value::Text("none".into()))];
    let sigmoid = wgpu_attention::variant::find("sigmoid-attention").expect("a variant");
    let inner = sigmoid.make(&params).or_else(|_| sigmoid.make(&[])).expect("a variant");
    let _ = SigmoidAttention::default();
    let variant = Hooked::new(inner).hook(hook);
    let inputs = Inputs::new().with("q", &x).with("k", &x).with("v", &x);
    let results: Vec<_> = engines()
        .into_iter()
        .map(|(name, r)| (name, r.call_blocking(&variant, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"))))
        .collect();
    let want = results[0].1.get("mass").expect("mass");
    assert!(want.to_f64().iter().any(|x| *x > 0.0));
    for (name, got) in &results[1..] {
        common::assert_close(name, want, got.get("mass").expect("mass"), Budget::F32);
    }
}

/// out = tanh x, by the shared hook.
#[derive(Debug)]
struct Bounded;

impl Variant for Bounded {
    fn card(&self) -> &'static Card {
        Identity.card()
    }

    fn parameters(&self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    fn plan(&self, _: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (x, out) = (plan.input("x")?, plan.output("out")?);
        plan.fold("bound", Fold::each(), &x, &out, vec![hooks::hyperbolic()])
    }

    fn oracle(&self, _: &oracle::Inputs) -> oracle::Outputs {
        Vec::new()
    }
}

#[test]
fn tanh_keeps_its_relative_accuracy_near_zero() {
    let tenths = (-300..20).map(|n| 10.0_f32.powf(n as f32 / 10.0));
    let near = (1..=500).map(|n| n as f32 * 2.5e-3);
    let numbers: Vec<f32> = tenths.chain(near).flat_map(|x| [x, -x]).chain([0.0]).collect();
    let x = HostTensor::new(&[1, 1, 1, numbers.len()], numbers.clone()).expect("a tensor");
    for (name, runtime) in engines() {
        let out = runtime.call_blocking(&Bounded, &Inputs::new().with("x", &x)).expect(name);
        for (x, got) in numbers.iter().zip(out.get("out").expect("out").to_f64()) {
            let want = f64::from(*x).tanh();
            let error = (got - want).abs() / want.abs().max(f64::MIN_POSITIVE);
            assert!(error < 4e-7, "{name}: tanh {x} is {want}, not {got}: off by {error:.1e}");
        }
    }
}
