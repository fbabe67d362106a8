//! Softmax attention over the last few keys and some keys that every query sees: the window layers of hybrid models.
//!
//! ```text
//! out_i = Σ_j softmax_j(scale q_i·k_j) v_j     over j in i − window + 1 .. i and all extra keys; lse of the same scores
//! ```
//!
//! S. Arora et al., "Simple linear attention language models balance the recall-throughput tradeoff", ICML 2024, arXiv
//! 2402.18668, section 4.2.
//!
//! Kernels `attend` (window), and with extra keys `attend` (all of them) and `combine` (merge).
//!
//! Limits: `causal = false` is refused: a window of the last keys has a past. Extra keys have the heads of q.

use crate::error::{ErrorKind, Result};
use crate::oracle::{Inputs, Outputs, attention, merge, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{Window, default_scale};
use crate::{named, params};

params! {
    /// Based, the window layer.
    pub struct BasedWindow {
        /// Keys of the window, the query's own included.
        window: usize = 64,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
        /// The window ends at the query.
        causal: bool = true,
    }
}

impl Named for BasedWindow {
    const CARD: Card = Card {
        name: "based-window",
        family: Family::Linear,
        summary: "Softmax attention over the last few keys and some that every query sees.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over i − window < j ≤ i and the extra keys",
        paper: "Arora et al., Simple linear attention language models (Based), ICML 2024, arXiv 2402.18668",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B Hk L D"),
            InputSpec::real("v", "B Hk L Dv"),
            InputSpec::float("k_extra", "B H M D").optional(),
            InputSpec::float("v_extra", "B H M Dv").optional(),
        ],
        outputs: &[OutputSpec::float("out", "B H L Dv"), OutputSpec::float("lse", "B H L")],
        forms: &["prefill"],
        kernels: &["attend", "attend", "combine"],
    };
}

impl Variant for BasedWindow {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if !self.causal {
            return Err(problem.refuse(ErrorKind::Unsupported, "causal", "true", false));
        }
        let extra = match (plan.optional("k_extra"), plan.optional("v_extra")) {
            (Some(k), Some(v)) => Some([k, v]),
            (None, None) => None,
            _ => return Err(problem.refuse(ErrorKind::MissingInput, "v_extra", "k_extra and v_extra together", "one")),
        };
        let qkv = [plan.input("q")?, plan.input("k")?, plan.input("v")?];
        let scale = default_scale(self.scale, problem);
        let (out, lse) = (plan.output("out")?, plan.output("lse")?);
        Window { size: self.window, scale, qkv, extra }.stages(problem, plan, &out, &lse)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let scale = scale(self.scale, q);
        let window = attention(q, k, v, scale, &|row, j, s| (j <= row.i && j + self.window > row.i).then_some(s));
        let (out, lse) = match (inputs.find("k_extra"), inputs.find("v_extra")) {
            (Some(k), Some(v)) => merge(&[window, attention(q, k, v, scale, &|_, _, s| Some(s))]),
            _ => window,
        };
        vec![("out", out), ("lse", lse)]
    }
}
