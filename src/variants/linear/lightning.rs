//! Linear attention with one exponential decay per head: constant time per token at any length.
//!
//! ```text
//! S_t = λ_h S_{t−1} + k_t v_tᵀ     out_t = scale q_tᵀ S_t     that is  out_t = scale Σ_{j ≤ t} λ_h^(t−j) (q_t·k_j) v_j
//! λ_h = e^(log_decay_h), or by decay_rule with layer l of n:
//!   slopes: −ln λ_h = slope_h (1 − l/(n − 1) + 1e-5), slope_h = 2^(−8(h+1)/H) as in ALiBi
//!   linear: −ln λ_h = (8h/H) (1 − l/n)          none: λ_h = 1
//! ```
//!
//! Z. Qin, W. Sun, D. Li, X. Shen, W. Sun, Y. Zhong, "Various Lengths, Constant Speed: Efficient Language Modeling with
//! Lightning Attention", ICML 2024, arXiv 2405.17381; the decay rules are those of the authors' code.
//!
//! Kernel `scan`, decay per head, no normaliser.
//!
//! Limits: always causal. With layers = 1 the rule `slopes` takes l/(n − 1) as 0. The output is not normalised and
//! grows with the length where the decay is weak: a norm is meant to follow. q, k and v may each have fewer heads than
//! the state.

use crate::error::Result;
use crate::kernel::scan::{Decay, Scan};
use crate::oracle::{Inputs, Outputs, scan};
use crate::plan::{PlanBuilder, ScanIo};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::DecayRule;
use crate::variants::common::STATE;
use crate::{named, params};

params! {
    /// Linear attention with one decay per head.
    pub struct LightningAttention {
        /// Where the decay comes from when `log_decay` is absent.
        decay_rule: DecayRule = DecayRule::Slopes,
        /// The layer, from 0, for the decay rule.
        layer: usize = 0,
        /// Layers of the model, for the decay rule.
        layers: usize = 1,
        /// Factor of q.
        scale: f32 = 1.0,
    }
}

impl Named for LightningAttention {
    const CARD: Card = Card {
        name: "lightning-attention",
        family: Family::Linear,
        summary: "Linear attention with one exponential decay per head.",
        equation: "S_t = λ_h S_{t−1} + k_t v_tᵀ, out_t = scale q_tᵀ S_t",
        paper: "Qin et al., Various Lengths, Constant Speed, ICML 2024, arXiv 2405.17381",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B Hk L D"),
            InputSpec::real("v", "B Hk L Dv"),
            InputSpec::float("log_decay", "H").optional(),
            STATE,
        ],
        outputs: &[OutputSpec::float("out", "B H L Dv"), OutputSpec::float("state", "B H D Dv")],
        forms: &["prefill", "chunked", "recurrent", "step"],
        kernels: &["scan"],
    };
}

impl Variant for LightningAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let decay = self.decay_rule.decay(problem, plan, self.layer, self.layers)?;
        let (out, state) = (plan.output("out")?, plan.output("state")?);
        let mut io = ScanIo::new(&plan.input("q")?, &plan.input("k")?, &plan.input("v")?, &out, &state);
        io.state_in = plan.optional("state");
        let width = if decay.is_some() { Decay::Scalar } else { Decay::None };
        io.decay = decay.map(|g| g.insert(1).insert(1).insert(0));
        plan.scan("scan", Scan { decay: width, ..Scan::new(self.scale) }, io)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let heads = q.shape[1].max(k.shape[1]).max(v.shape[1]);
        let log_decay = self.decay_rule.log_decay(inputs, heads, self.layer, self.layers);
        let scaled = q.map_rows(|_, x| x.iter().map(|x| f64::from(self.scale) * x).collect());
        let (out, state) = scan(&scaled, k, v, &log_decay, inputs.find("state"));
        vec![("out", out), ("state", state)]
    }
}
