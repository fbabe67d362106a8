//! A matrix-valued recurrence with decay per channel whose read comes before the write, the current token by a bonus.
//!
//! ```text
//! out_t = scale r_tᵀ (S_{t−1} + diag(u) k_t v_tᵀ)     S_t = diag(e^{g_t}) S_{t−1} + k_t v_tᵀ     g = log_decay
//! ```
//!
//! B. Peng et al., "Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence", COLM 2024, arXiv 2404.05892,
//! section 4 (Finch).
//!
//! Kernel `scan`, decay per channel, read before the write with bonus u.
//!
//! Limits: always causal. Token shift (`short-conv` with two taps), group norm and output gate are outside. r, k and v may
//! each have fewer heads than the state.

use crate::error::Result;
use crate::kernel::scan::{Decay, Scan};
use crate::oracle::{Inputs, Outputs, Recurrence};
use crate::plan::{PlanBuilder, ScanIo};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::STATE;
use crate::{named, params};

params! {
    /// RWKV-6, Finch.
    pub struct Rwkv6 {
        /// Factor of r.
        scale: f32 = 1.0,
    }
}

impl Named for Rwkv6 {
    const CARD: Card = Card {
        name: "rwkv-6",
        family: Family::Linear,
        summary: "Decay per channel, and a read before the write with a bonus for the current token.",
        equation: "out_t = scale r_tᵀ (S_{t−1} + diag(u) k_t v_tᵀ), S_t = diag(e^{g_t}) S_{t−1} + k_t v_tᵀ",
        paper: "Peng et al., Eagle and Finch, COLM 2024, arXiv 2404.05892",
        inputs: &[
            InputSpec::real("r", "B H L D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::float("log_decay", "B H L D"),
            InputSpec::float("u", "H D"),
            STATE,
        ],
        outputs: &[OutputSpec::float("out", "B H L Dv"), OutputSpec::float("state", "B H D Dv")],
        forms: &["prefill", "chunked", "recurrent", "step"],
        kernels: &["scan"],
    };
}

impl Variant for Rwkv6 {
    named!();

    fn plan(&self, _: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (out, state) = (plan.output("out")?, plan.output("state")?);
        let mut io = ScanIo::new(&plan.input("r")?, &plan.input("k")?, &plan.input("v")?, &out, &state);
        io.state_in = plan.optional("state");
        io.g = Some(plan.input("log_decay")?);
        io.u = Some(plan.input("u")?.insert(1).insert(0));
        plan.scan("scan", Scan { decay: Decay::Channel, read_before: true, ..Scan::new(self.scale) }, io)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let qkv = ["r", "k", "v"].map(|name| inputs.get(name));
        let gate = |[b, h, t]: [usize; 3], d: usize| inputs.get("log_decay").get(&[b, h, t, d]);
        let plain = Recurrence::new(qkv, f64::from(self.scale));
        let (state, bonus) = (inputs.find("state"), inputs.find("u"));
        let [out, state, _] = Recurrence { gate: &gate, bonus, state, ..plain }.run();
        vec![("out", out), ("state", state)]
    }
}
