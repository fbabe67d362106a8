//! Softmax attention over sequences of different length packed along the token axis, so that nothing is spent on
//! padding.
//!
//! ```text
//! sequence n: rows cu_q[n] ≤ i < cu_q[n+1] see keys cu_k[n] ≤ j < cu_k[n+1]
//! causal:     j − cu_k[n] ≤ i − cu_q[n] + Lk_n − Lq_n (bottom right) or i − cu_q[n] (top left)
//! out_i = Σ_j e^(scale q_i·k_j − lse_i) v_j     lse_i = ln Σ_j e^(scale q_i·k_j)
//! ```
//!
//! No paper defines it; the packed call is that of the FlashAttention library (T. Dao, D. Y. Fu, S. Ermon, A. Rudra,
//! C. Ré, "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", NeurIPS 2022, arXiv
//! 2205.14135).
//!
//! Kernel `attend`, softmax weights; mask hooks sequence and causal.
//!
//! Limits: `cu_q` and `cu_k` start at 0, do not fall and end at most at Tq and Tk. A sequence without queries gives
//! nothing; rows of a sequence without keys, and rows beyond the last sequence, have out = 0 and lse = −∞.

use crate::error::Result;
use crate::kernel::attend::Attend;
use crate::kernel::select::Segments;
use crate::oracle::{Array, Inputs, Outputs, attention, scale};
use crate::plan::{AttendIo, Check, PlanBuilder};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::Align;
use crate::variants::common::default_scale;
use crate::{named, params};

params! {
    /// Softmax attention over packed sequences.
    pub struct VarlenAttention {
        /// Queries see no later keys of their sequence.
        causal: bool = false,
        /// Where a query sits on the axis of its sequence's keys.
        align: Align = Align::BottomRight,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for VarlenAttention {
    const CARD: Card = Card {
        name: "varlen-attention",
        family: Family::Dense,
        summary: "Softmax attention over sequences of different length packed along the token axis.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over the keys of i's sequence",
        paper: "no paper of its own; packed call of Dao et al., FlashAttention, NeurIPS 2022, arXiv 2205.14135",
        inputs: &[
            InputSpec::real("q", "H Tq D"),
            InputSpec::real("k", "Hk Tk D"),
            InputSpec::real("v", "Hk Tk Dv"),
            InputSpec::index("cu_q", "Ns+1"),
            InputSpec::index("cu_k", "Ns+1"),
        ],
        outputs: &[OutputSpec::float("out", "H Tq Dv"), OutputSpec::float("lse", "H Tq")],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for VarlenAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [q, k, v] = [plan.input("q")?, plan.input("k")?, plan.input("v")?].map(|r| r.insert(0));
        let [out, lse] = [plan.output("out")?, plan.output("lse")?].map(|r| r.insert(0));
        let (cu_q, cu_k) = (plan.input("cu_q")?, plan.input("cu_k")?);
        plan.check(&cu_q, Check::Cumulative(problem.size("Tq")));
        plan.check(&cu_k, Check::Cumulative(problem.size("Tk")));
        let op = Segments { causal: self.causal, bottom_right: self.align == Align::BottomRight };
        let (start, end) = plan.segments(op, &cu_q, &cu_k, problem.size("Tq"))?;
        let mut io = AttendIo::new(&q, &k, &v, &out).lse(&lse);
        io.row_start = Some(start.insert(1).insert(0).insert(0));
        io.row_end = Some(end.insert(1).insert(0).insert(0));
        plan.attend("attend", Attend::new(default_scale(self.scale, problem)), io, Vec::new())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv().map(|x| Array { shape: [&[1], &x.shape[..]].concat(), data: x.data.clone() });
        let (cu_q, cu_k) = (&inputs.get("cu_q").data, &inputs.get("cu_k").data);
        let (mut out, mut lse) = attention(&q, &k, &v, scale(self.scale, &q), &|row, j, s| {
            let (i, j) = (row.i as f64, j as f64);
            let n = (1..cu_q.len()).find(|&n| cu_q[n - 1] <= i && i < cu_q[n])?;
            let (lq, lk) = (cu_q[n] - cu_q[n - 1], cu_k[n] - cu_k[n - 1]);
            let shift = if self.align == Align::BottomRight { lk - lq } else { 0.0 };
            let (i, j) = (i - cu_q[n - 1], j - cu_k[n - 1]);
            (0.0 <= j && j < lk && (!self.causal || j <= i + shift)).then_some(s)
        });
        out.shape.remove(0);
        lse.shape.remove(0);
        vec![("out", out), ("lse", lse)]
    }
}
