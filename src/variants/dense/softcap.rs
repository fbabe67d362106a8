//! Softmax attention whose scores are bounded smoothly, so that no logit runs away.
//!
//! ```text
//! s_ij  = cap · tanh(scale q_i·k_j / cap) + bias_ij
//! out_i = Σ_j e^(s_ij − lse_i) v_j     lse_i = ln Σ_j e^(s_ij)     over the allowed j
//! ```
//!
//! Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024, arXiv 2408.00118, section 2, "Logit
//! soft-capping" (cap 50 for attention).
//!
//! Kernel `attend`, softmax weights; score hooks softcap and bias, mask hooks causal and mask.
//!
//! Limits: `cap` must be positive. The bias and the mask come after the cap: the bias may leave (−cap, cap), and a
//! masked pair is not revived. A row without keys has out = 0 and lse = −∞.

use crate::error::Result;
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, Row, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, Named, Variant};
use crate::variants::common::{BIAS, K, LSE, MASK, OUT, Q, V, default_scale, given_bias, softcap, softmax_masked};
use crate::{named, params};

params! {
    /// Softmax attention with bounded scores.
    pub struct SoftcapAttention {
        /// Bound of the scores, before bias and mask.
        cap: f32 = 50.0,
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for SoftcapAttention {
    const CARD: Card = Card {
        name: "softcap-attention",
        family: Family::Dense,
        summary: "Softmax attention whose scores are bounded by a hyperbolic tangent.",
        equation: "s_ij = cap tanh(scale q_i·k_j / cap) + bias_ij",
        paper: "Gemma Team, Gemma 2: Improving Open Language Models at a Practical Size, 2024, arXiv 2408.00118",
        inputs: &[Q, K, V, MASK, BIAS],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for SoftcapAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        let mut hooks = vec![softcap(problem, "cap", self.cap)?];
        hooks.extend(given_bias(problem, plan)?);
        softmax_masked(problem, plan, op, hooks)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let cap = f64::from(self.cap);
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            let Row { b, h, i } = row;
            let s = cap * (s / cap).tanh() + inputs.number("bias", &[b, h, i, j], 0.0);
            inputs.allowed(self.causal, row, j).then_some(s)
        });
        vec![("out", out), ("lse", lse)]
    }
}
