//! A recurrence with decay per channel and a removal key apart from the written key: a generalised delta rule.
//!
//! ```text
//! S_t = diag(e^{g_t}) S_{t−1} − (κ_t ⊙ a_t) (κ_tᵀ S_{t−1}) + k_t v_tᵀ     out_t = scale r_tᵀ S_t     g = log_decay
//! ```
//!
//! B. Peng et al., "RWKV-7 'Goose' with Expressive Dynamic State Evolution", 2025, arXiv 2503.14456, section 4.
//!
//! Kernels `diagnose` (erase vectors −κ and κ ⊙ a), then `scan` with decay per channel and erase.
//!
//! Limits: always causal. The removal acts on the state before its decay. κ is used as given, of unit length in the paper.
//! Group norm, the bonus and the output gate are outside. r, k and v may each have fewer heads than the state.

use crate::error::Result;
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::{Decay, Scan};
use crate::oracle::{Inputs, Outputs, Recurrence};
use crate::plan::{PlanBuilder, ScanIo};
use crate::problem::Problem;
use crate::tensor::DType;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::STATE;
use crate::{named, params};

params! {
    /// RWKV-7, Goose.
    pub struct Rwkv7 {
        /// Factor of r.
        scale: f32 = 1.0,
    }
}

impl Named for Rwkv7 {
    const CARD: Card = Card {
        name: "rwkv-7",
        family: Family::Linear,
        summary: "Decay per channel and a removal key apart from the written key.",
        equation: "S_t = diag(e^{g_t}) S_{t−1} − (κ_t ⊙ a_t) (κ_tᵀ S_{t−1}) + k_t v_tᵀ, out_t = scale r_tᵀ S_t",
        paper: "Peng et al., RWKV-7 Goose, 2025, arXiv 2503.14456",
        inputs: &[
            InputSpec::real("r", "B H L D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::float("log_decay", "B H L D"),
            InputSpec::float("kappa", "B H L D"),
            InputSpec::float("a", "B H L D"),
            STATE,
        ],
        outputs: &[OutputSpec::float("out", "B H L Dv"), OutputSpec::float("state", "B H D Dv")],
        forms: &["prefill", "recurrent", "step"],
        kernels: &["diagnose", "scan"],
    };
}

impl Variant for Rwkv7 {
    named!();

    fn plan(&self, _: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (kappa, rate) = (plan.input("kappa")?, plan.input("a")?);
        let [left, right] = ["left", "right"].map(|name| plan.scratch(name, DType::F32, &kappa.shape));
        plan.fold("left", Fold::each().scaled(-1.0), &kappa, &left, vec![])?;
        plan.fold("right", Fold::each(), &kappa, &right, vec![hooks::times(rate)])?;
        let (out, state) = (plan.output("out")?, plan.output("state")?);
        let mut io = ScanIo::new(&plan.input("r")?, &plan.input("k")?, &plan.input("v")?, &out, &state);
        io.state_in = plan.optional("state");
        io.g = Some(plan.input("log_decay")?);
        (io.a, io.b) = (Some(left), Some(right));
        plan.scan("scan", Scan { decay: Decay::Channel, ..Scan::new(self.scale) }, io)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let qkv = ["r", "k", "v"].map(|name| inputs.get(name));
        let gate = |[b, h, t]: [usize; 3], d: usize| inputs.get("log_decay").get(&[b, h, t, d]);
        let erase = |at: [usize; 3]| {
            let (kappa, rate) = (inputs.get("kappa").row(&at), inputs.get("a").row(&at));
            let right = kappa.iter().zip(rate).map(|(kappa, rate)| -kappa * rate).collect();
            [kappa.to_vec(), right]
        };
        let plain = Recurrence::new(qkv, f64::from(self.scale));
        let state = inputs.find("state");
        let [out, state, _] = Recurrence { gate: &gate, erase: Some(&erase), state, ..plain }.run();
        vec![("out", out), ("state", state)]
    }
}
