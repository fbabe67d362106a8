//! Softmax attention with a penalty linear in distance instead of position embeddings.
//!
//! ```text
//! s_ij  = scale q_i·k_j − slope_h |i' − j|     i' = i + Lk − Lq
//! out_i = Σ_j e^(s_ij − lse_i) v_j     lse_i = ln Σ_j e^(s_ij)     over the allowed j
//! slope_h = 2^(−8(h+1)/H) for H a power of two; else those of the power of two n below, then every second one of 2n
//! ```
//!
//! O. Press, N. A. Smith, M. Lewis, "Train Short, Test Long: Attention with Linear Biases Enables Input Length
//! Extrapolation", ICLR 2022, arXiv 2108.12409, section 3. The slopes for other head counts are those of the authors'
//! code.
//!
//! Kernel `attend`, softmax weights; score hook alibi, mask hooks causal and mask.
//!
//! Limits: the paper is causal; without `causal` the distance counts to both sides alike. Far keys underflow to weight
//! 0. A row without keys has out = 0 and lse = −∞.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, bottom_right, scale, slopes};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, MASK, OUT, Q, V, default_scale, head_slopes, softmax_masked};
use crate::{named, params};

params! {
    /// Softmax attention with linear biases.
    pub struct AlibiAttention {
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for AlibiAttention {
    const CARD: Card = Card {
        name: "alibi-attention",
        family: Family::Dense,
        summary: "Softmax attention with a penalty linear in the distance of query and key.",
        equation: "s_ij = scale q_i·k_j − slope_h |i + Lk − Lq − j|",
        paper: "Press, Smith, Lewis, Train Short, Test Long, ICLR 2022, arXiv 2108.12409",
        inputs: &[Q, K, V, MASK, InputSpec::float("slopes", "H").optional()],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for AlibiAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let heads = problem.size("H");
        let slopes = match plan.optional("slopes") {
            Some(given) => given,
            None => plan.constant("slopes", HostTensor::new(&[heads], head_slopes(heads))?),
        };
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        let hooks = vec![hooks::alibi(slopes.insert(1).insert(1).insert(0))];
        softmax_masked(problem, plan, op, hooks)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let slopes = inputs.find("slopes").map_or_else(|| slopes(q.shape[1]), |given| given.data.clone());
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            let distance = (bottom_right(row.i, q, k) - j as i64).abs() as f64;
            inputs.allowed(self.causal, row, j).then_some(s - slopes[row.h] * distance)
        });
        vec![("out", out), ("lse", lse)]
    }
}
