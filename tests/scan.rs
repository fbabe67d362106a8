//! Every option of `scan` and `transform` on every GPU engine against the CPU engine: those of variants yet to come too.

mod common;

use std::cell::RefCell;
use wgpu_attention::case::{Tolerance, compare};
use wgpu_attention::kernel::key::ScalarType;
use wgpu_attention::kernel::scan::{Decay, Divide, Scan};
use wgpu_attention::kernel::transform::{Feature, Gate, Map, Norm, Rotary};
use wgpu_attention::kernel::{Kernel, Op};
use wgpu_attention::plan::{PlanBuilder, ScanIo};
use wgpu_attention::{
    Card, DType, Family, HostTensor, InputSpec, Inputs, OutputSpec, Problem, Result, Runtime, Value, Variant, oracle,
};

/// WGSL's exp is right to 3 + 2 |x| units in the last place.
const BUDGET: f64 = 1e-5;

/// One operation with whatever is bound to it.
#[derive(Debug)]
struct One {
    op: Op,
    outputs: Vec<(&'static str, Vec<usize>)>,
}

static CARD: Card = Card {
    name: "one-operation",
    family: Family::Linear,
    summary: "One operation of a plan.",
    equation: "out = op(inputs)",
    paper: "none",
    inputs: &[
        InputSpec::real("q", "B H Lq D").optional(),
        InputSpec::real("k", "B Hk Lk D").optional(),
        InputSpec::real("v", "B Hk Lk Dv").optional(),
        InputSpec::float("g", "B H Lk D").optional(),
        InputSpec::float("a", "B H Lk D").optional(),
        InputSpec::float("b", "B H Lk D").optional(),
        InputSpec::float("state_in", "B H D Dv").optional(),
        InputSpec::float("g_scalar", "B H Lk").optional(),
        InputSpec::flag("keep", "B Lk").optional(),
        InputSpec::float("w", "B H Lk").optional(),
        InputSpec::float("u", "H D").optional(),
        InputSpec::float("z_in", "B H D").optional(),
        InputSpec::real("x", "X0 X1 X2 X3").optional(),
        InputSpec::float("gate", "X0 X1 X2 X3").optional(),
        InputSpec::float("theta", "X3//2").optional(),
    ],
    outputs: &[],
    forms: &[],
    kernels: &[],
};

thread_local! {
    /// Outputs differ from case to case, and a card is static.
    static CARDS: RefCell<Vec<&'static Card>> = const { RefCell::new(Vec::new()) };
}

impl Variant for One {
    fn card(&self) -> &'static Card {
        let names: Vec<_> = self.outputs.iter().map(|(name, _)| *name).collect();
        CARDS.with_borrow_mut(|cards| {
            if let Some(card) = cards.iter().find(|c| c.outputs.iter().map(|o| o.name).eq(names.iter().copied())) {
                return *card;
            }
            let outputs: Vec<OutputSpec> = names.iter().map(|name| OutputSpec::float(name, "1")).collect();
            let card: &'static Card =
                Box::leak(Box::new(Card { outputs: Box::leak(outputs.into_boxed_slice()), ..CARD }));
            cards.push(card);
            card
        })
    }

    fn parameters(&self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    fn plan(&self, _: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let outputs = self
            .outputs
            .iter()
            .map(|(name, shape)| Ok((*name, plan.output_as(name, shape)?)))
            .collect::<Result<Vec<_>>>()?;
        let given = |name| plan.optional(name);
        if let Op::Scan(op) = &self.op {
            let mut io =
                ScanIo::new(&plan.input("q")?, &plan.input("k")?, &plan.input("v")?, &outputs[0].1, &outputs[1].1);
            io.z = outputs.get(2).map(|(_, z)| z.clone());
            (io.g, io.a, io.b, io.state_in) = (given("g"), given("a"), given("b"), given("state_in"));
            (io.keep, io.z_in) = (given("keep"), given("z_in"));
            io.decay = given("g_scalar").map(|g| g.insert(3));
            io.w = given("w").map(|w| w.insert(3));
            io.u = given("u").map(|u| u.insert(1).insert(0));
            return plan.scan("scan", *op, io);
        }
        let mut bindings = vec![("x", plan.input("x")?), outputs[0].clone()];
        bindings.extend(given("gate").map(|gate| ("gate", gate)));
        let theta = given("theta").map(|t| ("theta", t.insert(0).insert(0).insert(0), ScalarType::F32));
        plan.stage("one", self.op.clone(), bindings, theta.into_iter().collect(), Vec::new())
    }

    fn oracle(&self, _: &oracle::Inputs) -> oracle::Outputs {
        Vec::new()
    }
}

/// Numbers that are the same every time, from -1 to 1.
fn noise(shape: &[usize], seed: u64, of: impl Fn(f32) -> f32) -> HostTensor {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    HostTensor::from_fn(shape, |_| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        of((x >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
    })
}

struct Checks {
    engines: Vec<(&'static str, Runtime)>,
    failures: Vec<String>,
    worst: f64,
}

impl Checks {
    fn new() -> Self {
        Checks { engines: common::engines(), failures: Vec::new(), worst: 0.0 }
    }

    fn run(&mut self, name: &str, one: &One, inputs: &Inputs) {
        let want = self.engines[0].1.call_blocking(one, inputs).unwrap_or_else(|e| panic!("{name} on the CPU: {e}"));
        for (engine, runtime) in &self.engines[1..] {
            match runtime.call_blocking(one, inputs) {
                Err(error) => self.failures.push(format!("{name} on {engine}: {error}")),
                Ok(got) => {
                    for (output, want) in want.iter() {
                        let got = got.get(output).expect("the output");
                        let error = compare(want, got, Tolerance::Relative(BUDGET));
                        self.worst = self.worst.max(error);
                        if error > BUDGET {
                            self.failures.push(format!("{name} on {engine}: {output} {error:.1e}"));
                        }
                    }
                }
            }
        }
    }

    fn finish(self) {
        println!("largest error {:.1e}", self.worst);
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n"));
    }
}

/// Batch, heads, queries, tokens, depth, width.
type Sizes = [usize; 6];

fn scan(op: Scan, [batch, heads, queries, tokens, depth, width]: Sizes, z: bool) -> (One, Inputs) {
    let mut outputs = vec![("out", vec![batch, heads, queries, width]), ("state", vec![batch, heads, depth, width])];
    if z {
        outputs.push(("z", vec![batch, heads, depth]));
    }
    let small = (depth as f32).powf(-0.5);
    let inputs = Inputs::new()
        .with("q", noise(&[batch, heads, queries, depth], 1, |x| x * small))
        .with("k", noise(&[batch, heads, tokens, depth], 2, |x| x))
        .with("v", noise(&[batch, heads, tokens, width], 3, |x| x));
    (One { op: Op::Scan(op), outputs }, inputs)
}

fn decay(inputs: Inputs, [batch, heads, _, tokens, depth, _]: Sizes, decay: Decay, of: fn(f32) -> f32) -> Inputs {
    match decay {
        Decay::None => inputs,
        Decay::Scalar => inputs.with("g_scalar", noise(&[batch, heads, tokens], 4, of)),
        Decay::Channel => inputs.with("g", noise(&[batch, heads, tokens, depth], 4, of)),
    }
}

fn erase(inputs: Inputs, [batch, heads, _, tokens, depth, _]: Sizes) -> Inputs {
    let shape = [batch, heads, tokens, depth];
    let size = (depth as f32).powf(-0.5);
    inputs.with("a", noise(&shape, 5, |x| x * size)).with("b", noise(&shape, 6, |x| -x * size))
}

fn before(inputs: Inputs, [batch, heads, _, _, depth, width]: Sizes) -> Inputs {
    inputs
        .with("state_in", noise(&[batch, heads, depth, width], 7, |x| x))
        .with("z_in", noise(&[batch, heads, depth], 8, |x| x + 1.5))
}

const DECAYS: [Decay; 3] = [Decay::None, Decay::Scalar, Decay::Channel];

#[test]
fn decays_agree_in_both_forms() {
    let mut checks = Checks::new();
    type Gate = (&'static str, fn(f32) -> f32);
    let gates: [Gate; 3] = [
        ("gates", |x| -0.3 * (x + 1.0)),
        ("all", |_| -200.0),
        ("some", |x| if x > 0.7 { -200.0 } else { -0.1 * (x + 1.0) }),
    ];
    for (length, depth, width) in [(65, 20, 7), (33, 64, 64), (40, 128, 24), (1, 64, 64), (7, 20, 7)] {
        let sizes = [2, 3, length, length, depth, width];
        for width in DECAYS {
            for (name, of) in gates {
                let (one, inputs) = scan(Scan { decay: width, ..Scan::new(0.5) }, sizes, true);
                let inputs = before(decay(inputs, sizes, width, of), sizes);
                checks.run(&format!("{sizes:?} {width:?} {name}"), &one, &inputs);
            }
        }
    }
    checks.finish();
}

#[test]
fn segments_agree() {
    let mut checks = Checks::new();
    for (length, depth, width, half) in [(2100, 20, 7, false), (3100, 64, 32, true), (2050, 36, 40, true)] {
        let sizes = [1, 2, length, length, depth, width];
        for of in DECAYS {
            // A portable device binds no z beside a channel decay and its own state between segments.
            for divide in [Divide::None, Divide::AbsMax1] {
                let (one, inputs) = scan(Scan { decay: of, divide, ..Scan::new(0.5) }, sizes, of != Decay::Channel);
                let inputs = decay(inputs, sizes, of, |x| -0.01 * (x + 1.0));
                let mut inputs = if of == Decay::Channel { inputs } else { before(inputs, sizes) };
                for name in ["q", "k", "v"].into_iter().filter(|_| half) {
                    let host = inputs.get(name).and_then(|t| t.host()).expect("a host tensor").to_f16();
                    inputs.insert(name, host);
                }
                let plan = checks.engines[0].1.plan(&one, &inputs).expect("a plan");
                assert_eq!(plan.stages.len(), 3, "{sizes:?} {of:?} is not cut");
                checks.run(&format!("{sizes:?} {of:?} {divide:?}"), &one, &inputs);
            }
        }
    }
    checks.finish();
}

#[test]
fn deep_states_agree() {
    let mut checks = Checks::new();
    for (length, depth, width) in [(33, 256, 5), (17, 300, 12), (20, 500, 4), (5, 520, 9), (3, 1057, 6)] {
        let sizes = [1, 2, length, length, depth, width];
        for of in DECAYS {
            let (one, inputs) = scan(Scan { decay: of, divide: Divide::AbsMax1, ..Scan::new(1.0) }, sizes, true);
            checks.run(
                &format!("{sizes:?} {of:?}"),
                &one,
                &before(decay(inputs, sizes, of, |x| -0.3 * (x + 1.0)), sizes),
            );
        }
    }
    checks.finish();
}

#[test]
fn erase_agrees() {
    let mut checks = Checks::new();
    for (length, depth, width) in [(65, 20, 7), (40, 64, 33), (17, 128, 64), (9, 300, 8), (1, 64, 64)] {
        let sizes = [1, 2, length, length, depth, width];
        for of in DECAYS {
            for read_before in [false, true] {
                // Erase with a channel decay fills the bindings of a portable device: no state and no tables besides.
                let (one, inputs) = scan(Scan { decay: of, read_before, ..Scan::new(1.0) }, sizes, false);
                let inputs = erase(decay(inputs, sizes, of, |x| -0.3 * (x + 1.0)), sizes);
                checks.run(&format!("{sizes:?} {of:?} before={read_before}"), &one, &inputs);
            }
        }
    }
    checks.finish();
}

#[test]
fn reads_before_the_write_agree() {
    let mut checks = Checks::new();
    for (length, depth, width) in [(65, 20, 7), (40, 64, 33), (6, 64, 33)] {
        let sizes = [2, 2, length, length, depth, width];
        for of in DECAYS {
            for divide in [Divide::None, Divide::Sum(1e-3), Divide::AbsMax1] {
                let (one, inputs) = scan(Scan { decay: of, read_before: true, divide, ..Scan::new(1.0) }, sizes, false);
                let inputs = decay(inputs, sizes, of, |x| -0.3 * (x + 1.0)).with("u", noise(&[2, depth], 9, |x| x));
                let inputs = match divide {
                    Divide::Sum(_) => inputs
                        .with("q", noise(&[2, 2, length, depth], 1, |x| x + 1.1))
                        .with("k", noise(&[2, 2, length, depth], 2, |x| x + 1.1)),
                    _ => inputs,
                };
                checks.run(&format!("{sizes:?} {of:?} {divide:?}"), &one, &inputs);
            }
        }
    }
    checks.finish();
}

#[test]
fn masks_weights_and_shared_heads_agree() {
    let mut checks = Checks::new();
    for (length, tokens, bidirectional) in [(65, 65, false), (5, 5, false), (7, 63, true), (40, 3, true), (2, 3, true)]
    {
        let sizes = [2, 6, length, tokens, 20, 7];
        for of in DECAYS {
            let op = Scan { decay: of, bidirectional, divide: Divide::Sum(0.0), ..Scan::new(1.0) };
            let (one, inputs) = scan(op, sizes, of != Decay::Channel);
            let mut keep = noise(&[2, tokens], 11, |x| f32::from(u8::from(x > -0.3))).to_f32();
            keep[0] = 0.0;
            let flags: Vec<u8> = keep.iter().map(|&x| x as u8).collect();
            let k = noise(&[2, 2, tokens, 20], 2, |x| x + 1.1);
            // What a masked key holds must not matter.
            let dirty = k.to_f32().into_iter().enumerate();
            let dirty = dirty
                .map(|(n, x)| if flags[n / (2 * tokens * 20) * tokens + n / 20 % tokens] == 0 { f32::NAN } else { x });
            let inputs = decay(inputs, sizes, of, |x| -0.3 * (x + 1.0))
                .with("q", noise(&[2, 6, length, 20], 1, |x| x + 1.1))
                .with("k", HostTensor::new(k.shape(), dirty.collect::<Vec<_>>()).expect("as many"))
                .with("v", noise(&[2, 3, tokens, 7], 3, |x| x))
                .with("keep", HostTensor::new(&[2, tokens], flags.clone()).expect("flags"))
                .with("w", noise(&[2, 6, tokens], 10, |x| x + 1.1));
            checks.run(&format!("{sizes:?} {of:?} bidirectional={bidirectional}"), &one, &inputs);
        }
    }
    checks.finish();
}

#[test]
fn half_and_strided_inputs_agree() {
    let mut checks = Checks::new();
    for (length, depth, width) in [(33, 64, 32), (33, 7, 5), (2, 64, 32)] {
        let sizes = [1, 2, length, length, depth, width];
        let (one, mut inputs) = scan(Scan { decay: Decay::Scalar, ..Scan::new(1.0) }, sizes, false);
        inputs = decay(inputs, sizes, Decay::Scalar, |x| -0.3 * (x + 1.0));
        for name in ["q", "k", "v"] {
            let host = inputs.get(name).and_then(|t| t.host()).expect("a host tensor");
            inputs.insert(name, host.permute(&[0, 2, 1, 3]).to_f16().permute(&[0, 2, 1, 3]));
        }
        checks.run(&format!("{sizes:?} f16 of (B, L, H, D)"), &one, &inputs);
    }
    checks.finish();
}

#[test]
fn transforms_agree() {
    let mut checks = Checks::new();
    let maps = [
        Feature::Identity,
        Feature::Elu1,
        Feature::Relu,
        Feature::Relu2,
        Feature::Silu,
        Feature::Sigmoid,
        Feature::Exp,
        Feature::Softmax,
        Feature::Hedgehog,
        Feature::Taylor,
        Feature::TaylorCompact,
        Feature::ExpPm,
        Feature::Pad,
        Feature::Dpfp(1),
        Feature::Dpfp(3),
    ];
    for depth in [1, 7, 16, 100] {
        let x = noise(&[2, 3, 5, depth], 1, |x| 4.0 * x);
        for feature in maps.into_iter().filter(|f| depth <= 16 || f.width(1) == 1) {
            let one = One { op: Op::Map(Map { feature }), outputs: vec![("out", vec![2, 3, 5, feature.width(depth)])] };
            checks.run(&format!("{feature:?} {depth}"), &one, &Inputs::new().with("x", &x));
            checks.run(&format!("{feature:?} {depth} f16"), &one, &Inputs::new().with("x", x.to_f16()));
        }
        let outputs = vec![("out", vec![2, 3, 5, depth])];
        for gate in [Gate::Silu, Gate::Sigmoid] {
            let one = One { op: Op::Norm(Norm { eps: 1e-6, gate, scale: 1.0 }), outputs: outputs.clone() };
            let inputs = Inputs::new().with("x", &x);
            checks.run(&format!("norm {depth}"), &one, &inputs);
            let gated = inputs.with("gate", noise(&[2, 3, 5, depth], 2, |x| 9.0 * x));
            checks.run(&format!("norm {gate:?} {depth}"), &one, &gated);
        }
        for (interleaved, offset) in [(true, 0), (false, 12_345), (true, (1 << 20) - 3)] {
            if depth < 2 {
                continue;
            }
            let op = Rotary { interleaved, offset, scale: 0.5 };
            assert_eq!(op.roles()[0].dtype, DType::F32);
            let one = One { op: Op::Rotary(op), outputs: outputs.clone() };
            let angles: Vec<f32> =
                (0..depth / 2).map(|c| [1.0, -3.3, 0.7e-3, 1e-6, 40.0, 0.0][c % 6] * 0.99_f32.powi(c as i32)).collect();
            let inputs =
                Inputs::new().with("x", &x).with("theta", HostTensor::new(&[depth / 2], angles).expect("angles"));
            checks.run(&format!("rotary {depth} at {offset}, interleaved={interleaved}"), &one, &inputs);
        }
    }
    checks.finish();
}
