//! A token sends its value to the tokens it attends to instead of collecting from them.
//!
//! ```text
//! P_ij       = e^(scale q_i·k_j − lse_i)     lse_i = ln Σ_j e^(scale q_i·k_j)
//! out_j      = Σ_i P_ij m_i v_i
//! received_j = Σ_i P_ij m_i
//! ```
//!
//! M. Ding, Y. Shen, L. Fan, Z. Chen, Z. Chen, P. Luo, J. B. Tenenbaum, C. Gan, "Visual Dependency Transformers:
//! Dependency Tree Emerges from Reversed Attention", CVPR 2023, arXiv 2304.03282, section 3.2.
//!
//! Kernel `attend` twice: for lse, then with roles swapped (keys ask, queries answer) and weights e^(s − lse_i) m_i. The
//! exponents are at most 0: no running maximum.
//!
//! Limits: self-attention, H = Hk. A row without keys sends nothing. `reversed-message` makes the messages m.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::oracle::{Array, Inputs, Outputs, attention, attention_map, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::default_scale;
use crate::variants::steps::{Columns, row_lse};
use crate::{named, params};

params! {
    /// Attention from keys to queries.
    pub struct ReversedAttention {
        /// Query i sees keys up to i.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for ReversedAttention {
    const CARD: Card = Card {
        name: "reversed-attention",
        family: Family::Dense,
        summary: "A token sends its value to the tokens it attends to.",
        equation: "out_j = Σ_i softmax_j(scale q_i·k_j) m_i v_i",
        paper: "Ding et al., Visual Dependency Transformers, CVPR 2023, arXiv 2304.03282",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::float("message", "B H L").optional(),
            InputSpec::flag("mask", "broadcastable to B H L L").optional(),
        ],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("lse", "B H L"),
            OutputSpec::float("received", "B H L"),
        ],
        forms: &["prefill", "bidirectional"],
        kernels: &["attend", "attend"],
    };
}

impl Variant for ReversedAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let full = problem.shape("B H L L")?;
        let (q, k, v) = (plan.input("q")?, plan.input("k")?, plan.input("v")?);
        let (out, lse, received) = (plan.output("out")?, plan.output("lse")?, plan.output("received")?);
        let mask = plan.optional("mask").map(|mask| mask.broadcast(&full));
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        row_lse(plan, op, [&q, &k], &lse, mask.iter().cloned().map(hooks::given).collect())?;
        let message = plan.optional("message");
        let (v, out) = (Some(&v), Some(&out));
        Columns { op, q: &q, k: &k, v, lse: &lse, mask, message, out, mass: &received }.stage(plan, "send")
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let [batch, heads, length, _] = q.shape[..] else { panic!("q has rank 4") };
        let pairs = |row, j, s| inputs.allowed(self.causal, row, j).then_some(s);
        let (_, lse) = attention(q, k, v, scale(self.scale, q), &pairs);
        let map = attention_map(q, k, scale(self.scale, q), &pairs);
        let sent = |b, h, i, j| map.get(&[b, h, i, j]) * inputs.number("message", &[b, h, i], 1.0);
        let received = Array::zeros(&[batch, heads, length])
            .map_rows(|at, _| (0..length).map(|j| (0..length).map(|i| sent(at[0], at[1], i, j)).sum()).collect());
        let out = Array::zeros(&v.shape).map_rows(|at, row| {
            let value =
                |d: usize| (0..length).map(|i| sent(at[0], at[1], i, at[2]) * v.get(&[at[0], at[1], i, d])).sum();
            (0..row.len()).map(value).collect()
        });
        vec![("out", out), ("lse", lse), ("received", received)]
    }
}
