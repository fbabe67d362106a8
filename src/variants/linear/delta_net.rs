//! Linear attention that replaces the value a key holds instead of adding to it: one step of gradient descent per token.
//!
//! ```text
//! e_t = v_t − S_{t−1}ᵀ k_t     S_t = S_{t−1} + β_t k_t e_tᵀ     out_t = scale q_tᵀ S_t
//! with qk_l2norm: q and k are x / √(Σ x² + 1e-6) first
//! ```
//!
//! S. Yang, B. Wang, Y. Zhang, Y. Shen, Y. Kim, "Parallelizing Linear Transformers with the Delta Rule over Sequence
//! Length", NeurIPS 2024, arXiv 2406.06484, sections 2.2 and 3.
//!
//! Kernels `transform` (unit length), then `scan` with write weight β and erase by the key itself.
//!
//! Limits: always causal. Stable while |k| = 1 and 0 ≤ β ≤ 2; β is used as given, no sigmoid is taken. q, k and v may
//! each have fewer heads than the state.

use crate::error::Result;
use crate::kernel::scan::Scan;
use crate::oracle::{Array, Inputs, Outputs, Recurrence, scale, shared_head, unit};
use crate::plan::{PlanBuilder, ScanIo};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K_SELF, LAST_STATE, OUT_SELF, Q_SELF, STATE, V_SELF, default_scale, unit_rows};
use crate::{named, params};

params! {
    /// The delta rule.
    pub struct DeltaNet {
        /// Factor of q; default D^-1/2.
        scale: Option<f32> = None,
        /// q and k are made unit length.
        qk_l2norm: bool = true,
    }
}

impl Named for DeltaNet {
    const CARD: Card = Card {
        name: "delta-net",
        family: Family::Linear,
        summary: "Linear attention that replaces the value a key holds.",
        equation: "S_t = S_{t−1} + β_t k_t (v_t − S_{t−1}ᵀ k_t)ᵀ, out_t = scale q_tᵀ S_t",
        paper: "Yang et al., Parallelizing Linear Transformers with the Delta Rule, NeurIPS 2024, arXiv 2406.06484",
        inputs: &[Q_SELF, K_SELF, V_SELF, InputSpec::float("beta", "B H L"), STATE],
        outputs: &[OUT_SELF, LAST_STATE],
        forms: &["prefill", "recurrent", "step"],
        kernels: &["transform", "scan"],
    };
}

/// The scan of both delta rules: q and k of unit length if asked for, β, the state.
pub(super) fn roles(plan: &mut PlanBuilder, unit: bool) -> Result<ScanIo> {
    let [q, k] = ["q", "k"].map(|name| unit_rows(plan, name, unit));
    let (out, state) = (plan.output("out")?, plan.output("state")?);
    let io = ScanIo::new(&q?, &k?, &plan.input("v")?, &out, &state);
    Ok(ScanIo { state_in: plan.optional("state"), w: Some(plan.input("beta")?.insert(3)), ..io })
}

/// q and k of the definitions.
pub(super) fn directions(inputs: &Inputs, normed: bool) -> [Array; 2] {
    let row = |_: &[usize], x: &[f64]| if normed { unit(x, 1e-6) } else { x.to_vec() };
    ["q", "k"].map(|name| inputs.get(name).map_rows(row))
}

impl Variant for DeltaNet {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let io = roles(plan, self.qk_l2norm)?;
        plan.scan("scan", Scan { delta: true, ..Scan::new(default_scale(self.scale, problem)) }, io)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k] = directions(inputs, self.qk_l2norm);
        let plain = Recurrence::new([&q, &k, inputs.get("v")], scale(self.scale, &q));
        let beta = |at: [usize; 3]| inputs.get("beta").get(&at);
        let erase = |[b, h, t]: [usize; 3]| {
            let key = k.row(&[b, shared_head(h, plain.heads, &k), t]).to_vec();
            let right = key.iter().map(|x| -beta([b, h, t]) * x).collect();
            [key, right]
        };
        let state = inputs.find("state");
        let [out, state, _] = Recurrence { write: &beta, erase: Some(&erase), state, ..plain }.run();
        vec![("out", out), ("state", state)]
    }
}
