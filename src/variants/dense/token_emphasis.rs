//! Softmax attention whose weights are multiplied by a factor a key or a pair, and normalised again.
//!
//! ```text
//! w_ij  = e^(scale q_i·k_j)
//! out_i = Σ_j w_ij f_ij v_j / Σ_j w_ij f_ij     over the allowed j with f_ij > 0
//! ```
//!
//! The generic form of K. M. Arif, S. S. Sheikh, T. Tasnim et al., "Fixing Imbalanced Attention to Mitigate In-Context
//! Hallucination of Large Vision-Language Model", 2025, arXiv 2501.12206; multiplying weights is adding ln f to scores.
//!
//! Kernel `attend`, softmax weights; score hook log_factor, mask hooks causal and given.
//!
//! Limits: a factor of 0 hides the pair, and so does a negative one, which has no meaning. A row without keys gives 0.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, MASK, OUT, Q, V, default_scale, softmax_masked};
use crate::{named, params};

params! {
    /// Softmax attention with factors of the weights.
    pub struct TokenEmphasisAttention {
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for TokenEmphasisAttention {
    const CARD: Card = Card {
        name: "token-emphasis-attention",
        family: Family::Dense,
        summary: "Softmax attention whose weights are multiplied by given factors and normalised again.",
        equation: "out_i = Σ_j w_ij f_ij v_j / Σ_j w_ij f_ij, w_ij = e^(scale q_i·k_j)",
        paper: "Arif et al., Fixing Imbalanced Attention, 2025, arXiv 2501.12206",
        inputs: &[Q, K, V, MASK, InputSpec::float("factor", "broadcastable to B H Lq Lk")],
        outputs: &[OUT],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for TokenEmphasisAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let factor = plan.input("factor")?.broadcast(&problem.shape("B H Lq Lk")?);
        let hooks = vec![hooks::log_factor(factor)];
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        softmax_masked(problem, plan, op, hooks)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (out, _) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            let factor = inputs.number("factor", &[row.b, row.h, row.i, j], 1.0);
            (factor > 0.0 && inputs.allowed(self.causal, row, j)).then_some(s + factor.ln())
        });
        vec![("out", out)]
    }
}
