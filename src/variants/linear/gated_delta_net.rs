//! The delta rule on a state that decays first: what is old fades, what is said again is replaced.
//!
//! ```text
//! S̃ = diag(e^{g_t}) S_{t−1}     e_t = v_t − S̃ᵀ k_t     S_t = S̃ + β_t k_t e_tᵀ     out_t = scale q_tᵀ S_t
//! g is log_decay, per head or per channel, or −e^{a_log} softplus(gate_input + dt_bias); 0 without either
//! with qk_l2norm: q and k are x / √(Σ x² + 1e-6) first
//! ```
//!
//! S. Yang, J. Kautz, A. Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule", ICLR 2025, arXiv
//! 2412.06464, section 3; the gate per channel is Kimi Delta Attention, Kimi Team, 2025, arXiv 2510.26692, section 3.
//!
//! Kernels `transform` (unit length), `diagnose` (gate), then `scan` with decay, write weight β and erase by the decayed key.
//!
//! Limits: always causal. Stable while |k| = 1, 0 ≤ β ≤ 2 and g ≤ 0. `gate_input` needs `a_log`; `dt_bias` is 0 where
//! absent. There may be fewer heads of q and k than of v. The short convolution, the output norm and its gate are
//! variants and transforms of their own.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::{Decay, Scan};
use crate::oracle::{Inputs, Outputs, Recurrence, log_sigmoid, scale, shared_head};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::tensor::DType;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K_SELF, LAST_STATE, OUT_SELF, STATE, decay_of, default_scale, gate_at};
use crate::variants::linear::delta_net::{directions, roles};
use crate::{named, params};

params! {
    /// The gated delta rule.
    pub struct GatedDeltaNet {
        /// Factor of q; default D^-1/2.
        scale: Option<f32> = None,
        /// q and k are made unit length.
        qk_l2norm: bool = true,
    }
}

impl Named for GatedDeltaNet {
    const CARD: Card = Card {
        name: "gated-delta-net",
        family: Family::Linear,
        summary: "The delta rule on a state that decays first.",
        equation: "S̃ = diag(e^{g_t}) S_{t−1}, S_t = S̃ + β_t k_t (v_t − S̃ᵀ k_t)ᵀ, out_t = scale q_tᵀ S_t",
        paper: "Yang, Kautz, Hatamizadeh, Gated Delta Networks, ICLR 2025, arXiv 2412.06464",
        inputs: &[
            InputSpec::real("q", "B Hk L D"),
            K_SELF,
            InputSpec::real("v", "B H L Dv"),
            InputSpec::float("beta", "B H L"),
            InputSpec::float("log_decay", "B H L | B H L D").optional(),
            InputSpec::float("gate_input", "B H L").optional(),
            InputSpec::float("a_log", "H").optional(),
            InputSpec::float("dt_bias", "H").optional(),
            STATE,
        ],
        outputs: &[OUT_SELF, LAST_STATE],
        forms: &["prefill", "recurrent", "step"],
        kernels: &["transform", "diagnose", "scan"],
    };
}

/// −e^{a_log} softplus(gate_input + dt_bias) as (B, H, L, 1): softplus(x) = −ln σ(−x).
fn gate(problem: &Problem, plan: &mut PlanBuilder, x: &Ref) -> Result<Ref> {
    let Some(a_log) = plan.optional("a_log") else {
        return Err(problem.refuse(ErrorKind::MissingInput, "a_log", "given with `gate_input`", "none"));
    };
    let per_head = |x: Ref| x.insert(1).insert(1).insert(0);
    let (a_log, x) = (per_head(a_log), x.insert(3));
    let rate = plan.scratch("rate", DType::F32, &a_log.shape);
    plan.fold("rate", Fold::each(), &a_log, &rate, vec![hooks::probability(0.0)])?;
    let gate = plan.scratch("gate", DType::F32, &x.shape);
    let bias = plan.optional("dt_bias").map(|bias| hooks::plus(per_head(bias).broadcast(&x.shape), -1.0));
    let mut steps: Vec<_> = bias.into_iter().collect();
    steps.extend([hooks::log_sigmoid(), hooks::times(rate.broadcast(&x.shape))]);
    plan.fold("gate", Fold::each().scaled(-1.0), &x, &gate, steps)?;
    Ok(gate)
}

impl Variant for GatedDeltaNet {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let mut io = roles(plan, self.qk_l2norm)?;
        let decay = match (plan.optional("log_decay"), plan.optional("gate_input")) {
            (Some(_), Some(_)) => {
                let found = "both";
                return Err(problem.refuse(ErrorKind::Unsupported, "log_decay", "this or `gate_input`", found));
            }
            (Some(given), None) => decay_of(&mut io, given),
            (None, Some(x)) => {
                io.decay = Some(gate(problem, plan, &x)?);
                Decay::Scalar
            }
            (None, None) => Decay::None,
        };
        plan.scan("scan", Scan { delta: true, decay, ..Scan::new(default_scale(self.scale, problem)) }, io)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k] = directions(inputs, self.qk_l2norm);
        let plain = Recurrence::new([&q, &k, inputs.get("v")], scale(self.scale, &q));
        let beta = |at: [usize; 3]| inputs.get("beta").get(&at);
        let gate = |at: [usize; 3], d: usize| match (inputs.find("log_decay"), inputs.find("gate_input")) {
            (Some(given), _) => gate_at(given, at, d),
            (None, Some(x)) => {
                let bias = inputs.number("dt_bias", &[at[1]], 0.0);
                inputs.get("a_log").get(&[at[1]]).exp() * log_sigmoid(-(x.get(&at) + bias))
            }
            (None, None) => 0.0,
        };
        let erase = |[b, h, t]: [usize; 3]| {
            let key = k.row(&[b, shared_head(h, plain.heads, &k), t]);
            let left = key.iter().enumerate().map(|(d, x)| gate([b, h, t], d).exp() * x).collect();
            [left, key.iter().map(|x| -beta([b, h, t]) * x).collect()]
        };
        let state = inputs.find("state");
        let [out, state, _] = Recurrence { gate: &gate, write: &beta, erase: Some(&erase), state, ..plain }.run();
        vec![("out", out), ("state", state)]
    }
}
