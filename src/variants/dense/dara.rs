//! Softmax attention with a learned factor a head and image on the scores of its tokens, to weigh visual context against
//! text.
//!
//! ```text
//! s_ij  = f_hj · scale q_i·k_j     f = 1 on text tokens, one value an image on its tokens
//! out_i = Σ_j e^(s_ij − lse_i) v_j     lse_i = ln Σ_j e^(s_ij)     over the allowed j
//! ```
//!
//! S. Chen, J. Liu, Z. Han, Y. Xia, D. Cremers, P. Torr, V. Tresp, J. Gu, "True Multimodal In-Context Learning Needs
//! Attention to the Visual Context" (DARA), COLM 2025, arXiv 2507.15807, the section on dynamic attention reallocation.
//!
//! Kernel `attend`, softmax weights; score hook times, mask hooks causal and mask.
//!
//! Limits: equal to scaled keys, so it may be baked into a cache. A factor above 1 also makes negative scores more
//! negative. A row without keys has out = 0 and lse = −∞.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, MASK, OUT, Q, V, default_scale, given_mask, softmax};
use crate::{named, params};

params! {
    /// Softmax attention with a factor on the scores of each key.
    pub struct DaraAttention {
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for DaraAttention {
    const CARD: Card = Card {
        name: "dara-attention",
        family: Family::Dense,
        summary: "Softmax attention with a factor a head and key on the scores.",
        equation: "s_ij = f_hj scale q_i·k_j",
        paper: "Chen et al., True Multimodal In-Context Learning Needs Attention to the Visual Context, COLM 2025, \
                arXiv 2507.15807",
        inputs: &[Q, K, V, MASK, InputSpec::float("factor", "B H Lk | 1 H Lk")],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for DaraAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let mut hooks = vec![hooks::times(plan.input("factor")?.insert(2))];
        hooks.extend(given_mask(problem, plan)?);
        softmax(plan, Attend::new(default_scale(self.scale, problem)).causal(self.causal), hooks)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let factor = inputs.get("factor");
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            inputs.allowed(self.causal, row, j).then_some(factor.get(&[row.b, row.h, j]) * s)
        });
        vec![("out", out), ("lse", lse)]
    }
}
