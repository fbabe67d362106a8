//! Softmax self-attention that is bidirectional inside each image and causal elsewhere.
//!
//! ```text
//! out_i = Σ_j e^(scale q_i·k_j − lse_i) v_j   over j ≤ i or span_i = span_j ≠ 0
//! ```
//!
//! Gemma Team, "Gemma 3 Technical Report", 2025, arXiv 2503.19786 (image tokens attend to each other); the wording also
//! of Y. Xie, K. Yang, N. Yang, et al., "Croc: Pretraining Large Multimodal Models with Cross-Modal Comprehension", 2024,
//! arXiv 2410.14332, abstract.
//!
//! Kernel `attend`, softmax weights; mask hook attributes.
//!
//! Limits: two images of different id stay causal to each other. A prompt in chunks must not cut a span. Without spans
//! this is causal attention, with one leading span the prefix-LM.

use crate::error::Result;
use crate::hooks::{self, Rule};
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K_SELF, LSE_SELF, OUT_SELF, Q_SELF, V_SELF, default_scale, of_keys, of_rows, softmax};
use crate::{named, params};

params! {
    /// Softmax attention with bidirectional spans.
    pub struct MixedModal {
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for MixedModal {
    const CARD: Card = Card {
        name: "mixed-modal",
        family: Family::Dense,
        summary: "Softmax attention that is bidirectional inside each image and causal elsewhere.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over j ≤ i or span_i = span_j ≠ 0",
        paper: "Gemma Team, Gemma 3 Technical Report, 2025, arXiv 2503.19786",
        inputs: &[Q_SELF, K_SELF, V_SELF, InputSpec::index("span_id", "L")],
        outputs: &[OUT_SELF, LSE_SELF],
        forms: &["prefill"],
        kernels: &["attend"],
    };
}

impl Variant for MixedModal {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let span = plan.input("span_id")?;
        let (span_q, span_k) = (Some(of_rows(&span)), Some(of_keys(&span)));
        let rule = Rule { causal: true, span_q, span_k, ..Rule::default() };
        softmax(plan, Attend::new(default_scale(self.scale, problem)), vec![hooks::attributes(rule)])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let span = &inputs.get("span_id").data;
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            (j <= row.i || (span[row.i] == span[j] && span[j] != 0.0)).then_some(s)
        });
        vec![("out", out), ("lse", lse)]
    }
}
