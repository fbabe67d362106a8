//! Softmax attention with some heads ablated, to measure what they do.
//!
//! ```text
//! zero:    out_i = 0 in a masked head
//! uniform: the query of a masked head is 0, so out_i is the mean of the allowed v_j
//! ```
//!
//! W. Wu, Y. Wang, G. Xiao, H. Peng, Y. Fu, "Retrieval Head Mechanistically Explains Long-Context Factuality", ICLR 2025,
//! arXiv 2404.15574, section 4 (its released code is the uniform form); K. Hua, S. Wu, G. Zhang, K. Shen,
//! "AttentionInfluence: Adopting Attention Head Influence for Weak-to-Strong Pretraining Data Selection", 2025, arXiv
//! 2505.07293, section 3.
//!
//! Kernel `attend`, softmax weights; mask hook hidden (zero) or score hook silence (uniform), mask hooks causal and mask.
//!
//! Limits: heads that are not masked give the bits that dense attention gives. A row without keys has out = 0.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::HeadMaskMode;
use crate::variants::common::{K, MASK, OUT, Q, V, default_scale, softmax_masked};
use crate::{named, params};

params! {
    /// Softmax attention with masked heads.
    pub struct HeadMaskAttention {
        /// What a masked head does.
        mode: HeadMaskMode = HeadMaskMode::Zero,
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for HeadMaskAttention {
    const CARD: Card = Card {
        name: "head-mask-attention",
        family: Family::Dense,
        summary: "Softmax attention with some heads ablated.",
        equation: "out_i = 0 (zero) or the mean of the allowed v_j (uniform) in masked heads",
        paper: "Wu et al., Retrieval Head Mechanistically Explains Long-Context Factuality, ICLR 2025, arXiv 2404.15574",
        inputs: &[Q, K, V, MASK, InputSpec::flag("masked", "H")],
        outputs: &[OUT],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for HeadMaskAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let masked = plan.input("masked")?.insert(1).insert(1).insert(0);
        let hooks = vec![match self.mode {
            HeadMaskMode::Zero => hooks::hidden(masked),
            HeadMaskMode::Uniform => hooks::silence(masked),
        }];
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        softmax_masked(problem, plan, op, hooks)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let masked = inputs.get("masked");
        let (out, _) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            let (ablated, zero) = (masked.get(&[row.h]) != 0.0, self.mode == HeadMaskMode::Zero);
            let seen = inputs.allowed(self.causal, row, j) && !(ablated && zero);
            seen.then_some(if ablated { 0.0 } else { s })
        });
        vec![("out", out)]
    }
}
