//! One step of p-Laplacian message passing on the bipartite graph of queries and values.
//!
//! ```text
//! g_ij  = |√(A_ij + eps) (V_j − Q_i) + eps|₂     W_ij = A_ij g_ij^(p − 2)
//! out_i = α_i Σ_j W_ij V_j     α_i = 1 / (Σ_j W_ij + 2 mu / p)
//! ```
//!
//! H. Wu, Z. Huang, Y. Zhang et al., "p-Laplacian Adaptation for Generative Pre-trained Vision-Language Models", AAAI
//! 2024, arXiv 2312.10613, section 4 (cross-attention).
//!
//! Kernels: those of `p-laplacian-attention`, of which this is the block [queries, values]. The self term of the
//! published code falls outside that block.
//!
//! Limits: as there. The values come pooled to the number that the map has columns.

use super::p_laplacian::{definition, laplacian, step};
use crate::error::Result;
use crate::named;
use crate::oracle::{Inputs, Outputs};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};

laplacian! {
    /// p-Laplacian message passing from values to queries.
    PLaplacianCross
}

impl Named for PLaplacianCross {
    const CARD: Card = Card {
        name: "p-laplacian-cross",
        family: Family::Dense,
        summary: "One step of p-Laplacian message passing from values to queries.",
        equation: "out_i = α_i Σ_j W_ij V_j, W_ij = A_ij |√A_ij (V_j − Q_i)|^(p − 2)",
        paper: "Wu et al., p-Laplacian Adaptation, AAAI 2024, arXiv 2312.10613",
        inputs: &[
            InputSpec::float("attn", "B H Lq Lk"),
            InputSpec::float("f_query", "B H Lq Df"),
            InputSpec::float("f_value", "B H Lk Df"),
        ],
        outputs: &[OutputSpec::float("out", "B H Lq Df"), OutputSpec::float("alpha", "B H Lq")],
        forms: &["cross"],
        kernels: &["diagnose", "attend", "diagnose", "diagnose"],
    };
}

impl Variant for PLaplacianCross {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (rows, columns) = (plan.input("f_query")?, plan.input("f_value")?);
        step(problem, plan, [self.p, self.mu, self.eps], [&rows, &columns], false)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let parts = ["attn", "f_query", "f_value"].map(|name| inputs.get(name));
        definition([self.p, self.mu, self.eps], parts, false)
    }
}
