//! Scores of chosen image tokens raised by a share of their magnitude, so that a vision-language model keeps looking.
//!
//! ```text
//! s_ij  = scale q_i·k_j + (alpha local_j + beta summary_j) |scale q_i·k_j|     in the last row, or in all
//! out_i = Σ_j e^(s_ij − lse_i) v_j     lse_i = ln Σ_j e^(s_ij)
//! ```
//!
//! K. M. Arif, S. S. Sheikh, T. Tasnim et al., "Fixing Imbalanced Attention to Mitigate In-Context Hallucination of
//! Large Vision-Language Model", 2025, arXiv 2501.12206, section 3 (PAINT).
//!
//! Kernels `attend`, softmax weights, score hook gain, mask hooks causal and given; `diagnose`, alpha local + beta summary.
//!
//! Limits: the rule raises a score whatever its sign and can not be folded into the keys. A token that is both has
//! both shares. `informed-tokens` chooses the tokens.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Inputs, Outputs, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, MASK, OUT, Q, V, default_scale, softmax_masked};
use crate::variants::steps::scratch;
use crate::{named, params};

params! {
    /// Softmax attention with raised scores of informed tokens.
    pub struct PaintAttention {
        /// Share of |s| added at local tokens.
        alpha: f32 = 0.7,
        /// Share of |s| added at summary tokens.
        beta: f32 = 0.3,
        /// Only the newest query's scores are raised.
        last_row_only: bool = true,
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for PaintAttention {
    const CARD: Card = Card {
        name: "paint-attention",
        family: Family::Dense,
        summary: "Softmax attention with the scores of chosen tokens raised by a share of their magnitude.",
        equation: "s_ij = s + (alpha local_j + beta summary_j) |s|, s = scale q_i·k_j",
        paper: "Arif et al., Fixing Imbalanced Attention, 2025, arXiv 2501.12206",
        inputs: &[Q, K, V, MASK, InputSpec::flag("local", "B Lk"), InputSpec::flag("summary", "B Lk")],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["diagnose", "attend"],
    };
}

impl Variant for PaintAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (local, summary) = (plan.input("local")?, plan.input("summary")?);
        let share = scratch(plan, "share", &problem.shape("B 1 1 Lk")?);
        let both = vec![hooks::plus(summary.insert(1).insert(1), self.beta)];
        plan.fold("share", Fold::each().scaled(self.alpha), &local.insert(1).insert(1), &share, both)?;
        let first = if self.last_row_only { problem.size("Lq") - 1 } else { 0 };
        let hooks = vec![hooks::gain(share, first)];
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        softmax_masked(problem, plan, op, hooks)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let last = q.shape[2] - 1;
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            let flag = |name: &str| inputs.get(name).get(&[row.b, j]);
            let share = f64::from(self.alpha) * flag("local") + f64::from(self.beta) * flag("summary");
            let raised = if row.i == last || !self.last_row_only { s + share * s.abs() } else { s };
            inputs.allowed(self.causal, row, j).then_some(raised)
        });
        vec![("out", out), ("lse", lse)]
    }
}
