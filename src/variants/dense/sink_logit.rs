//! Softmax attention with a learned logit per head in the denominator, so that a head may attend to nothing.
//!
//! ```text
//! s_ij   = scale q_i·k_j     lse_i = ln Σ_j e^(s_ij)     over the allowed j
//! lse'_i = ln(e^lse_i + Σ_s e^sink_hs)
//! out_i  = Σ_j e^(s_ij − lse'_i) v_j     mass_i = e^(lse_i − lse'_i)
//! ```
//!
//! OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card", 2025, arXiv 2508.10925, the paragraph on attention. One sink of 0
//! is the softmax plus one of E. Miller, "Attention Is Off By One", 2023.
//!
//! Kernel `attend`, softmax weights with sink; mask hooks causal and mask.
//!
//! Limits: equal to one more key of score `sink` and value 0 for each logit; several logits of a head count as their
//! log-sum-exp. `lse` includes the sinks. A row without keys has out = 0, mass = 0 and lse = sink.

use crate::error::Result;
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, scale, with_sink};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, MASK, MASS, OUT, Q, V, attend_io, default_scale, given_mask};
use crate::{named, params};

params! {
    /// Softmax attention with sink logits.
    pub struct SinkLogitAttention {
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for SinkLogitAttention {
    const CARD: Card = Card {
        name: "sink-logit-attention",
        family: Family::Dense,
        summary: "Softmax attention with a learned logit per head in the denominator.",
        equation: "out_i = Σ_j e^s_ij v_j / (e^sink_h + Σ_j e^s_ij)",
        paper: "OpenAI, gpt-oss-120b & gpt-oss-20b Model Card, 2025, arXiv 2508.10925",
        inputs: &[Q, K, V, MASK, InputSpec::float("sink", "H | H S")],
        outputs: &[OUT, LSE, MASS],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for SinkLogitAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        let mut io = attend_io(plan)?;
        io.lse = Some(plan.output("lse")?);
        io.mass = Some(plan.output("mass")?);
        io.sink = plan.optional("sink");
        let hooks = given_mask(problem, plan)?;
        plan.attend("attend", op, io, hooks)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let plain =
            attention(q, k, v, scale(self.scale, q), &|row, j, s| inputs.allowed(self.causal, row, j).then_some(s));
        let mut mass = plain.1.clone();
        let (out, lse) = with_sink(plain, inputs.find("sink"));
        for (mass, joint) in mass.data.iter_mut().zip(&lse.data) {
            *mass = if *mass == f64::NEG_INFINITY { 0.0 } else { (*mass - joint).exp() };
        }
        vec![("out", out), ("lse", lse), ("mass", mass)]
    }
}
