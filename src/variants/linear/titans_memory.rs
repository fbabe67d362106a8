//! A small network as the state: it learns to give the value of each key, by gradient descent with momentum and forgetting.
//!
//! ```text
//! M(x) = W_1ᵀ act(W_0ᵀ x), or W_0ᵀ x      surprise_t = |M_τ(k_t) − v_t|²      u_t = c/2 ∇surprise_t, c = grad_scale
//! P_t = η_t P_{t−1} − θ_t u_t      M_t = (1 − α_t) M_{t−1} + P_t      out_t = M_t(q_t), with read = before M_{t−1}(q_t)
//! τ: the last token before the chunk of t
//! ```
//!
//! A. Behrouz, P. Zhong, V. Mirrokni, "Titans: Learning to Memorize at Test Time", 2025, arXiv 2501.00663, section 3.1.
//!
//! Kernel `scan.memory`, of its own: the recurrence runs elementwise over weights around a gradient that is no linear
//! function of the state. `diagnose` brings the weights, the momentum and the anchor (the weights at τ) there and back.
//!
//! Limits: one or two layers, no bias; f32. The chunk is part of the definition: a stream carries weights, momentum, anchor and
//! `pos`, the tokens before the call, counted modulo the chunk. Without `momentum` it starts at 0, without `anchor` the open chunk
//! has the weights. A token's vectors (2 D + 3 Hid + Dv, or 3 D + Dv) hold up to 4096 numbers. Tokens run in order, a workgroup a head.

use crate::error::{ErrorKind, Result};
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::Memory;
use crate::oracle::{self, Array, Inputs, Outputs};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::every_batch;
use crate::variants::steps::scratch;
use crate::variants::{MemoryActivation, Read};
use crate::{named, params};

params! {
    /// The memory of Titans.
    pub struct TitansMemory {
        /// Tokens whose gradients are taken at the same weights.
        chunk: usize = 1,
        /// Between two layers.
        act: MemoryActivation = MemoryActivation::Silu,
        /// c: 2 for the gradient of the square.
        grad_scale: f32 = 2.0,
        /// Tokens of the open chunk before the call.
        pos: usize = 0,
        /// Whether a token reads what it writes.
        read: Read = Read::After,
    }
}

impl Named for TitansMemory {
    const CARD: Card = Card {
        name: "titans-memory",
        family: Family::Linear,
        summary: "A small network as the state, trained on the stream by gradient descent with momentum and forgetting.",
        equation: "P_t = η_t P_{t−1} − θ_t c/2 ∇|M_τ(k_t) − v_t|², M_t = (1 − α_t) M_{t−1} + P_t, out_t = M_t(q_t)",
        paper: "Behrouz, Zhong, Mirrokni, Titans, 2025, arXiv 2501.00663",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::float("theta", "B H L"),
            InputSpec::float("alpha", "B H L"),
            InputSpec::float("eta", "B H L"),
            InputSpec::float("weight0", "H D Hid | B H D Hid"),
            InputSpec::float("weight1", "H Hid Dv | B H Hid Dv").optional(),
            InputSpec::float("momentum0", "B H D Hid").optional(),
            InputSpec::float("momentum1", "B H Hid Dv").optional(),
            InputSpec::float("anchor0", "B H D Hid").optional(),
            InputSpec::float("anchor1", "B H Hid Dv").optional(),
        ],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("surprise", "B H L"),
            OutputSpec::float("weight0", "B H D Hid"),
            OutputSpec::float("weight1", "B H Hid Dv").optional(),
            OutputSpec::float("momentum0", "B H D Hid"),
            OutputSpec::float("momentum1", "B H Hid Dv").optional(),
            OutputSpec::float("anchor0", "B H D Hid"),
            OutputSpec::float("anchor1", "B H Hid Dv").optional(),
        ],
        forms: &["prefill", "recurrent", "step"],
        kernels: &["diagnose", "scan", "diagnose"],
    };
}

/// The inputs and outputs of each layer: weights, momentum, anchor.
const NAMES: [[&str; 3]; 2] = [["weight0", "momentum0", "anchor0"], ["weight1", "momentum1", "anchor1"]];

/// One layer's weights, momentum and anchor as scratch (3, B, H, rows, columns), from the inputs of these names.
fn layer(problem: &Problem, plan: &mut PlanBuilder, names: [&'static str; 3]) -> Result<Ref> {
    let weights = every_batch(problem, plan.input(names[0])?);
    let zero = plan.constant("zero", HostTensor::zeros(&[1, 1, 1, 1]));
    let momentum = plan.optional(names[1]).unwrap_or_else(|| zero.broadcast(&weights.shape));
    let anchor = plan.optional(names[2]).unwrap_or_else(|| weights.clone());
    let state = scratch(plan, &names[0].replace("weight", "layer"), &[&[3], &weights.shape[..]].concat());
    for (n, part) in [weights, momentum, anchor].iter().enumerate() {
        plan.fold(names[n], Fold::each(), part, &state.select(0, n), Vec::new())?;
    }
    Ok(state)
}

/// The layers of a memory for keys of `depth` and values of `width` channels, from the inputs: each (3, B, H, rows, columns).
pub(super) fn layers(
    problem: &Problem,
    plan: &mut PlanBuilder,
    chunk: usize,
    [depth, width]: [usize; 2],
) -> Result<Vec<Ref>> {
    if chunk == 0 {
        return Err(problem.refuse(ErrorKind::Parameter, "chunk", "1 or more tokens", 0));
    }
    let (inner, deep) = (problem.size("Hid"), problem.has("weight1"));
    if !deep && inner != width {
        return Err(problem.refuse(ErrorKind::Shape, "weight0", format!("{width} columns without `weight1`"), inner));
    }
    if let Some(name) = NAMES[1].into_iter().find(|name| !deep && problem.has(name)) {
        return Err(problem.refuse(ErrorKind::MissingInput, "weight1", format!("given with `{name}`"), "none"));
    }
    if !Memory::fits(depth, deep.then_some(inner), width) {
        let found = format!("D = {depth}, Hid = {inner}, {width} values");
        let expected = if deep { "2 D + 3 Hid + Dv" } else { "3 D + Dv" };
        let expected = format!("{expected} up to 4096, each rounded up to 32");
        return Err(problem.refuse(ErrorKind::Limit, "weight0", expected, found));
    }
    NAMES[..1 + usize::from(deep)].iter().map(|names| layer(problem, plan, *names)).collect()
}

/// The inputs theta, alpha and eta of the tokens from `first` on.
pub(super) fn rates(plan: &PlanBuilder, first: usize, count: usize) -> Result<[Ref; 3]> {
    let rate = |name: &str| Ok(plan.input(name)?.narrow(2, first, count));
    Ok([rate("theta")?, rate("alpha")?, rate("eta")?])
}

/// The weights of every batch entry, for oracles.
pub(super) fn oracle_layers(inputs: &Inputs, batch: usize) -> Vec<Array> {
    let every = |x: &Array| match x.shape[..] {
        [_, _, _] => Array { shape: [&[batch], &x.shape[..]].concat(), data: x.data.repeat(batch) },
        _ => x.clone(),
    };
    NAMES.iter().filter_map(|names| inputs.find(names[0]).map(every)).collect()
}

impl Variant for TitansMemory {
    named!();

    fn after(&self, tokens: usize) -> Option<Box<dyn Variant>> {
        Some(Box::new(Self { pos: self.pos + tokens, ..self.clone() }))
    }

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let op = Memory {
            chunk: self.chunk,
            position: self.pos,
            act: self.act.act(),
            gain: self.grad_scale,
            read_before: self.read == Read::Before,
            stretch: None,
        };
        let qkv = [plan.input("q")?, plan.input("k")?, plan.input("v")?];
        let (out, surprise) = (plan.output("out")?, plan.output("surprise")?);
        let layers = layers(problem, plan, self.chunk, [qkv[1].shape[3], out.shape[3]])?;
        let rates = rates(plan, 0, out.shape[2])?;
        plan.memory("learn", op, [&qkv[0], &qkv[1], &qkv[2]], &layers, rates, [&out, &surprise])?;
        for (names, state) in NAMES.iter().zip(&layers) {
            for (n, name) in names.iter().enumerate() {
                let out = plan.output(name)?;
                plan.fold(name, Fold::each(), &state.select(0, n), &out, Vec::new())?;
            }
        }
        Ok(())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let act = |x: f64| self.act.both(x);
        let memory = oracle::Memory {
            qkv: inputs.qkv(),
            rates: ["theta", "alpha", "eta"].map(|name| inputs.get(name)),
            act: &act,
            chunk: self.chunk,
            position: self.pos,
            gain: f64::from(self.grad_scale),
            read_before: self.read == Read::Before,
        };
        let mut weights = oracle_layers(inputs, inputs.get("theta").shape[0]);
        let before = |part: usize, or: &dyn Fn(&Array) -> Array| -> Vec<Array> {
            let find = |(w, names): (&Array, &[&str; 3])| inputs.find(names[part]).cloned().unwrap_or_else(|| or(w));
            weights.iter().zip(&NAMES).map(find).collect()
        };
        let (mut momentum, mut anchor) = (before(1, &|w| Array::zeros(&w.shape)), before(2, &Array::clone));
        let [out, surprise] = memory.run(&mut weights, &mut momentum, &mut anchor);
        let mut results = vec![("out", out), ("surprise", surprise)];
        for (n, part) in [weights, momentum, anchor].into_iter().enumerate() {
            results.extend(NAMES.iter().zip(part).map(|(names, x)| (names[n], x)));
        }
        results
    }
}
