//! A causal depthwise convolution over a few tokens, the layer before most linear attentions.
//!
//! ```text
//! out_t = act(bias + Σ_{s<K} w_{K−1−s} ⊙ x_{t−s})     x before the first token: state, or 0
//! ```
//!
//! T. Dao, D. Fu, K. Saab, A. Thomas, A. Rudra, C. Ré, "Hungry Hungry Hippos: Towards Language Modeling with State Space
//! Models", ICLR 2023, arXiv 2212.14052, section 3.1 (shift); used by DeltaNet, gated linear attention, Based and LAWCAT.
//!
//! Kernel `transform` (conv).
//!
//! Limits: K of 2 or more. The state is the last K − 1 inputs, oldest first.

use crate::error::Result;
use crate::oracle::{Array, Inputs, Outputs};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::Activation;
use crate::{named, params};

params! {
    /// Causal depthwise convolution.
    pub struct ShortConv {
        /// What follows the sum; none if absent.
        activation: Option<Activation> = None,
    }
}

impl Named for ShortConv {
    const CARD: Card = Card {
        name: "short-conv",
        family: Family::Linear,
        summary: "A causal depthwise convolution over a few tokens.",
        equation: "out_t = act(bias + Σ_{s<K} w_{K−1−s} ⊙ x_{t−s})",
        paper: "Dao et al., Hungry Hungry Hippos, ICLR 2023, arXiv 2212.14052",
        inputs: &[
            InputSpec::real("x", "B H L D"),
            InputSpec::float("weight", "H D K"),
            InputSpec::float("bias", "H D").optional(),
            InputSpec::float("state", "B H K-1 D").optional(),
        ],
        outputs: &[OutputSpec::float("out", "B H L D"), OutputSpec::float("state", "B H K-1 D")],
        forms: &["prefill", "step"],
        kernels: &["transform"],
    };
}

impl Variant for ShortConv {
    named!();

    fn plan(&self, _: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let refs = [plan.input("x")?, plan.input("weight")?, plan.output("out")?, plan.output("state")?];
        let side = [plan.optional("bias"), plan.optional("state")];
        plan.conv("conv", refs.each_ref(), side, self.activation.is_some())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let (x, weight) = (inputs.get("x"), inputs.get("weight"));
        let [batch, heads, length, d] = x.shape[..] else { panic!("x has rank 4") };
        let taps = weight.shape[2];
        let input = |b, h, t: i64, c| match usize::try_from(t) {
            Ok(t) => x.get(&[b, h, t, c]),
            Err(_) => inputs.number("state", &[b, h, (t + taps as i64 - 1) as usize, c], 0.0),
        };
        let out = x.map_rows(|at, _| {
            let of = |c: usize| {
                let past =
                    |s: usize| weight.get(&[at[1], c, taps - 1 - s]) * input(at[0], at[1], at[2] as i64 - s as i64, c);
                let sum = inputs.number("bias", &[at[1], c], 0.0) + (0..taps).map(past).sum::<f64>();
                if self.activation.is_some() { sum / (1.0 + (-sum).exp()) } else { sum }
            };
            (0..d).map(of).collect()
        });
        let last = Array::zeros(&[batch, heads, taps - 1, d]);
        let first = length as i64 - taps as i64 + 1;
        let state = last.map_rows(|at, _| (0..d).map(|c| input(at[0], at[1], first + at[2] as i64, c)).collect());
        vec![("out", out), ("state", state)]
    }
}
