//! Attention of the other tokens to those of a reference image only: a result to be added to the ordinary attention.
//!
//! ```text
//! out_i = strength Σ_j e^(scale q_i·k_j − lse_i) v_j     lse_i = ln Σ_j e^(scale q_i·k_j)     over j in the reference
//! out_i = 0, lse_i = −∞     for i in the reference
//! ```
//!
//! "ContextAnyone", 2025 (Emphasize-Attention). That it is one-directional and additive is an assumption of this
//! library: the official code is not public.
//!
//! Kernels `attend`, softmax weights, mask hooks given (keys) and hidden (rows); `diagnose`, the strength.
//!
//! Limits: separate projections are inputs. Without a reference token every row is empty.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Inputs, Outputs, attention, scale};
use crate::plan::{AttendIo, PlanBuilder};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::default_scale;
use crate::variants::steps::scratch;
use crate::{named, params};

params! {
    /// Extra attention to the tokens of a reference.
    pub struct EmphasizeAttention {
        /// Factor of the result.
        strength: f32 = 1.0,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for EmphasizeAttention {
    const CARD: Card = Card {
        name: "emphasize-attention",
        family: Family::Dense,
        summary: "Extra attention of the other tokens to those of a reference.",
        equation: "out_i = strength Σ_j softmax_j(scale q_i·k_j) v_j over j in the reference, 0 for i in it",
        paper: "ContextAnyone, 2025",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B Hk L D"),
            InputSpec::real("v", "B Hk L Dv"),
            InputSpec::flag("is_reference", "L"),
        ],
        outputs: &[OutputSpec::float("out", "B H L Dv"), OutputSpec::float("lse", "B H L")],
        forms: &["bidirectional"],
        kernels: &["attend", "diagnose"],
    };
}

impl Variant for EmphasizeAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let reference = plan.input("is_reference")?;
        let keys = hooks::given(reference.lead(4));
        let rows = hooks::hidden(reference.insert(1).lead(4));
        let plain = scratch(plan, "plain", &problem.shape("B H L Dv")?);
        let io = AttendIo::new(&plan.input("q")?, &plan.input("k")?, &plan.input("v")?, &plain);
        let io = io.lse(&plan.output("lse")?);
        plan.attend("attend", Attend::new(default_scale(self.scale, problem)), io, vec![keys, rows])?;
        let out = plan.output("out")?;
        plan.fold("strength", Fold::each().scaled(self.strength), &plain, &out, Vec::new())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let reference = |i: usize| inputs.flag("is_reference", &[i]);
        let (mut out, lse) =
            attention(q, k, v, scale(self.scale, q), &|row, j, s| (reference(j) && !reference(row.i)).then_some(s));
        out.data.iter_mut().for_each(|x| *x *= f64::from(self.strength));
        vec![("out", out), ("lse", lse)]
    }
}
