//! Softmax attention that is bidirectional inside a prefix and causal after it.
//!
//! ```text
//! out_i = Σ_j e^(scale q_i·k_j − lse_i) v_j   over j < prefix_b or j ≤ i + Lk − Lq
//! ```
//!
//! C. Raffel, N. Shazeer, A. Roberts, K. Lee, S. Narang, M. Matena, Y. Zhou, W. Li, P. J. Liu, "Exploring the Limits of
//! Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020, arXiv 1910.10683, section 3.2.1. Also the mask
//! of the released code of Y. Xie, K. Yang, N. Yang, et al., "Croc: Pretraining Large Multimodal Models with Cross-Modal
//! Comprehension", 2024, arXiv 2410.14332, whose prefix is all before the first supervised token.
//!
//! Kernel `attend`, softmax weights; mask hook attributes.
//!
//! Limits: a prefix of 0 is causal attention, one of Lk full attention. In a decode step all keys are visible anyway. A
//! prompt may be processed in chunks only if the first covers the prefix: a later one would reopen earlier rows.

use crate::error::Result;
use crate::hook::ArgValue;
use crate::hooks::{self, Rule};
use crate::kernel::attend::Attend;
use crate::kernel::key::ScalarType;
use crate::oracle::{Inputs, Outputs, attention, bottom_right, scale};
use crate::plan::{Check, PlanBuilder};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, OUT, Q, V, default_scale, softmax};
use crate::{named, params};

params! {
    /// Softmax attention with a bidirectional prefix.
    pub struct PrefixLm {
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for PrefixLm {
    const CARD: Card = Card {
        name: "prefix-lm",
        family: Family::Dense,
        summary: "Softmax attention that is bidirectional inside a prefix and causal after it.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over j < prefix_b or j ≤ i + Lk − Lq",
        paper: "Raffel et al., Exploring the Limits of Transfer Learning, JMLR 2020, arXiv 1910.10683",
        inputs: &[Q, K, V, InputSpec::index("prefix", "B")],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode"],
        kernels: &["attend"],
    };
}

impl Variant for PrefixLm {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let prefix = plan.input("prefix")?;
        plan.check(&prefix, Check::AtMost(problem.size("Lk")));
        let prefix = ArgValue::Table(prefix.insert(1).insert(1).insert(1), ScalarType::I32);
        let rule = Rule { causal: true, prefix: Some(prefix), ..Rule::default() };
        softmax(plan, Attend::new(default_scale(self.scale, problem)), vec![hooks::attributes(rule)])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            let open = (j as f64) < inputs.get("prefix").get(&[row.b]);
            (open || j as i64 <= bottom_right(row.i, q, k)).then_some(s)
        });
        vec![("out", out), ("lse", lse)]
    }
}
