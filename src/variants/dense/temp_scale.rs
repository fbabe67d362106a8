//! Softmax attention at a temperature, which keeps the embeddings of long texts apart.
//!
//! ```text
//! s_ij  = scale q_i·k_j / tau
//! out_i = Σ_j e^(s_ij − lse_i) v_j     lse_i = ln Σ_j e^(s_ij)     over the allowed j
//! ```
//!
//! Y. Zhou, S. Dai, Z. Cao, X. Zhang, J. Xu, "Length-Induced Embedding Collapse in PLM-based Models" (TempScale), 2024,
//! arXiv 2410.24200, section 4.
//!
//! Kernel `attend`, softmax weights; mask hooks causal and mask.
//!
//! Limits: `tau` is above 0; below 1 it sharpens (typically 0.8 to 0.95, the same in all layers), 1 is dense attention,
//! and it grows towards the mean of the allowed values. A row without keys has out = 0 and lse = −∞.

use crate::error::{ErrorKind, Result};
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, Named, Variant};
use crate::variants::common::{K, LSE, MASK, OUT, Q, V, default_scale, given_mask, softmax};
use crate::{named, params};

params! {
    /// Softmax attention at a temperature.
    pub struct TempScaleAttention {
        /// Temperature.
        tau: f32 = 0.9,
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for TempScaleAttention {
    const CARD: Card = Card {
        name: "temp-scale-attention",
        family: Family::Dense,
        summary: "Softmax attention at a temperature.",
        equation: "s_ij = scale q_i·k_j / tau",
        paper: "Zhou et al., Length-Induced Embedding Collapse in PLM-based Models, 2024, arXiv 2410.24200",
        inputs: &[Q, K, V, MASK],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for TempScaleAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if self.tau <= 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "tau", "a number above 0", self.tau));
        }
        let op = Attend::new(default_scale(self.scale, problem) / self.tau).causal(self.causal);
        let mask = given_mask(problem, plan)?;
        softmax(plan, op, mask)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let tau = f64::from(self.tau);
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            inputs.allowed(self.causal, row, j).then_some(s / tau)
        });
        vec![("out", out), ("lse", lse)]
    }
}
