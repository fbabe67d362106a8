//! Linear attention whose state forgets by a gate of the data, per head or per channel of the key.
//!
//! ```text
//! S_t = diag(e^{g_t}) S_{t−1} + k_t v_tᵀ     z_t = e^{g_t} ⊙ z_{t−1} + k_t     out_t = scale q_tᵀ S_t
//! normalise: out_t = scale q_tᵀ S_t / (scale q_tᵀ z_t + eps)
//! g is log_decay, or max(ln σ(gate_logits) / gate_normaliser, gate_min); 0 without either
//! ```
//!
//! S. Yang, B. Wang, Y. Shen, R. Panda, Y. Kim, "Gated Linear Attention Transformers with Hardware-Efficient Training",
//! ICML 2024, arXiv 2312.06635, sections 4.1 to 4.3.
//!
//! Kernels `diagnose` (gate), then `scan` with decay per head or per channel.
//!
//! Limits: always causal. The output norm and its gate are transforms of their own. q, k and v may each have fewer heads
//! than the state.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::{Decay, Divide, Scan};
use crate::oracle::{Inputs, Outputs, Recurrence, log_sigmoid, scale};
use crate::plan::{PlanBuilder, ScanIo};
use crate::problem::Problem;
use crate::tensor::DType;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{STATE, Z, decay_of, default_scale, gate_at};
use crate::{named, params};

params! {
    /// Gated linear attention.
    pub struct GatedLinearAttention {
        /// The gate's logarithm is divided by this.
        gate_normaliser: f32 = 16.0,
        /// Least log decay.
        gate_min: Option<f32> = None,
        /// Factor of q; default D^-1/2.
        scale: Option<f32> = None,
        /// Divide by the sum of the weights.
        normalise: bool = false,
        /// Added to the sum of the weights.
        eps: f32 = 1e-6,
    }
}

impl Named for GatedLinearAttention {
    const CARD: Card = Card {
        name: "gated-linear-attention",
        family: Family::Linear,
        summary: "Linear attention whose state forgets by a gate of the data.",
        equation: "S_t = diag(e^{g_t}) S_{t−1} + k_t v_tᵀ, out_t = scale q_tᵀ S_t",
        paper: "Yang et al., Gated Linear Attention Transformers, ICML 2024, arXiv 2312.06635",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B Hk L D"),
            InputSpec::real("v", "B Hk L Dv"),
            InputSpec::float("log_decay", "B H L | B H L D").optional(),
            InputSpec::float("gate_logits", "B H L | B H L D").optional(),
            STATE,
            Z,
        ],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("state", "B H D Dv"),
            OutputSpec::float("z", "B H D"),
        ],
        forms: &["prefill", "chunked", "recurrent", "step"],
        kernels: &["diagnose", "scan"],
    };
}

impl Variant for GatedLinearAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if self.gate_normaliser == 0.0 || self.eps < 0.0 {
            let name = if self.eps < 0.0 { "eps" } else { "gate_normaliser" };
            return Err(problem.refuse(ErrorKind::Parameter, name, "above 0", self.eps.min(self.gate_normaliser)));
        }
        let (out, state) = (plan.output("out")?, plan.output("state")?);
        let mut io = ScanIo::new(&plan.input("q")?, &plan.input("k")?, &plan.input("v")?, &out, &state);
        (io.state_in, io.z_in, io.z) = (plan.optional("state"), plan.optional("z"), Some(plan.output("z")?));
        let decay = match (plan.optional("log_decay"), plan.optional("gate_logits")) {
            (Some(_), Some(_)) => {
                return Err(problem.refuse(ErrorKind::Unsupported, "log_decay", "this or `gate_logits`", "both"));
            }
            (Some(given), None) => decay_of(&mut io, given),
            (None, Some(x)) => {
                let x = if x.shape.len() == 3 { x.insert(3) } else { x };
                let gate = plan.scratch("gate", DType::F32, &x.shape);
                let mut steps = vec![hooks::log_sigmoid(), hooks::times(1.0 / self.gate_normaliser)];
                steps.extend(self.gate_min.map(hooks::at_least));
                plan.fold("gate", Fold::each(), &x, &gate, steps)?;
                decay_of(&mut io, gate)
            }
            (None, None) => Decay::None,
        };
        let divide = if self.normalise { Divide::Sum(self.eps) } else { Divide::None };
        plan.scan("scan", Scan { decay, divide, ..Scan::new(default_scale(self.scale, problem)) }, io)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let gate = |at: [usize; 3], d: usize| match (inputs.find("log_decay"), inputs.find("gate_logits")) {
            (Some(given), _) => gate_at(given, at, d),
            (None, Some(x)) => {
                let g = log_sigmoid(gate_at(x, at, d)) / f64::from(self.gate_normaliser);
                self.gate_min.map_or(g, |least| g.max(f64::from(least)))
            }
            (None, None) => 0.0,
        };
        let divisor = |by: f64| if self.normalise { by + f64::from(self.eps) } else { 1.0 };
        let plain = Recurrence::new([q, k, v], scale(self.scale, q));
        let (state, z) = (inputs.find("state"), inputs.find("z"));
        let [out, state, z] = Recurrence { gate: &gate, divisor: &divisor, state, z, ..plain }.run();
        vec![("out", out), ("state", state), ("z", z)]
    }
}
