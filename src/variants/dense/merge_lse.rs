//! Merge of partial softmax results over disjoint sets of keys: what makes split keys, rings and hybrids exact.
//!
//! ```text
//! lse = ln Σ_p e^(lse_p)     out = Σ_p e^(lse_p − lse) out_p
//! ```
//!
//! M. N. Rabe, C. Staats, "Self-attention Does Not Need O(n²) Memory", 2021, arXiv 2112.05682, section 2; as an
//! operator on (out, lse) Z. Ye et al., "FlashInfer: Efficient and Customizable Attention Engine for LLM Inference
//! Serving", MLSys 2025, arXiv 2501.01005, "Attention Composition".
//!
//! Kernel `combine`, lse weights.
//!
//! Limits: only for softmax; partial results of sigmoid, relu or exp weights add up instead. Parts are taken in a
//! fixed order so that results repeat bit by bit. A part with lse = −∞ counts as empty whatever its output
//! holds; where all parts are empty out = 0 and lse = −∞.

use crate::error::Result;
use crate::oracle::{Array, Inputs, Outputs, merge};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::{named, params};

params! {
    /// Merge of partial softmax results.
    pub struct MergeLse {}
}

impl Named for MergeLse {
    const CARD: Card = Card {
        name: "merge-lse",
        family: Family::Dense,
        summary: "Merge of partial softmax results over disjoint sets of keys.",
        equation: "lse = ln Σ_p e^lse_p, out = Σ_p e^(lse_p − lse) out_p",
        paper: "Rabe, Staats, Self-attention Does Not Need O(n²) Memory, 2021, arXiv 2112.05682",
        inputs: &[InputSpec::real("outs", "P B H L Dv"), InputSpec::float("lses", "P B H L")],
        outputs: &[OutputSpec::float("out", "B H L Dv"), OutputSpec::float("lse", "B H L")],
        forms: &["prefill", "decode"],
        kernels: &["combine"],
    };
}

impl Variant for MergeLse {
    named!();

    fn plan(&self, _problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (out, lse) = (plan.output("out")?, plan.output("lse")?);
        plan.merge(&plan.input("outs")?, &plan.input("lses")?, None, &out, Some(&lse))
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let part = |x: &Array, p: usize| {
            let size = x.data.len() / x.shape[0];
            Array { shape: x.shape[1..].to_vec(), data: x.data[p * size..(p + 1) * size].to_vec() }
        };
        let (outs, lses) = (inputs.get("outs"), inputs.get("lses"));
        let parts: Vec<_> = (0..outs.shape[0]).map(|p| (part(outs, p), part(lses, p))).collect();
        let (out, lse) = merge(&parts);
        vec![("out", out), ("lse", lse)]
    }
}
