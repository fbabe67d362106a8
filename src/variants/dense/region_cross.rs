//! Cross-attention of a layout: image tokens of a region see the text of that region.
//!
//! ```text
//! out_i = Σ_j e^(scale q_i·k_j − lse_i) v_j   over region_of_query_i = region_of_key_j or shared_key_j
//! ```
//!
//! Y. Peng, S. Xiao, K. Wu, Q. Liao, B. Chen, K. Lin, D. Huang, J. Li, Y. Yuan, "BizGen: Advancing Article-level Visual
//! Text Rendering for Infographics Generation", CVPR 2025, arXiv 2503.20672, section 3.3, layout-guided cross attention.
//!
//! Kernel `attend`, softmax weights; mask hook attributes.
//!
//! Limits: equal to one cross-attention a region and pasting the results, at a fraction of the cost; sort image tokens by
//! region where speed matters. A region without text has out = 0 and lse = −∞.

use crate::error::Result;
use crate::hooks::{self, Rule};
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, OUT, Q, V, default_scale, of_keys, of_rows, softmax};
use crate::{named, params};

params! {
    /// Cross-attention by region.
    pub struct RegionCrossAttention {
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for RegionCrossAttention {
    const CARD: Card = Card {
        name: "region-cross-attention",
        family: Family::Dense,
        summary: "Cross-attention in which image tokens of a region see the text of that region.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over r(i) = r(j) or shared_j",
        paper: "Peng et al., BizGen, CVPR 2025, arXiv 2503.20672",
        inputs: &[
            Q,
            K,
            V,
            InputSpec::index("region_of_query", "Lq"),
            InputSpec::index("region_of_key", "Lk"),
            InputSpec::flag("shared_key", "Lk").optional(),
        ],
        outputs: &[OUT, LSE],
        forms: &["cross"],
        kernels: &["attend"],
    };
}

impl Variant for RegionCrossAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let rule = Rule {
            seg_q: Some(of_rows(&plan.input("region_of_query")?)),
            seg_k: Some(of_keys(&plan.input("region_of_key")?)),
            k_shared: plan.optional("shared_key").map(|shared| of_keys(&shared)),
            ..Rule::default()
        };
        softmax(plan, Attend::new(default_scale(self.scale, problem)), vec![hooks::attributes(rule)])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (of_query, of_key) = (&inputs.get("region_of_query").data, &inputs.get("region_of_key").data);
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            (of_query[row.i] == of_key[j] || inputs.number("shared_key", &[j], 0.0) != 0.0).then_some(s)
        });
        vec![("out", out), ("lse", lse)]
    }
}
