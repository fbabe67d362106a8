//! Softmax attention whose heads are weighted token by token, as a router says.
//!
//! ```text
//! out_hi = gate_ih Σ_j e^(scale q_i·k_j − lse_i) v_j     over the allowed j     a gate of 0 drops the head for the token
//! ```
//!
//! P. Jin, B. Zhu, L. Yuan, S. Yan, "MoH: Multi-Head Attention as Mixture-of-Head Attention", ICML 2025, arXiv 2410.11842,
//! section 3.2. The gates of its routers are those of `moh-gates`.
//!
//! Kernels `attend`, softmax weights, and `combine` (the gates); mask hooks causal and mask.
//!
//! Limits: `lse` is that of each head, whatever its gate. Rows with gate 0 are still computed: the saving of the paper needs
//! a compaction of rows that is not made here. A row without keys has out = 0 and lse = −∞.

use crate::error::Result;
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, MASK, OUT, Q, V, attend_io, default_scale, given_mask};
use crate::variants::steps::scratch;
use crate::{named, params};

params! {
    /// Softmax attention with a gate for every head and token.
    pub struct MohAttention {
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for MohAttention {
    const CARD: Card = Card {
        name: "moh-attention",
        family: Family::Dense,
        summary: "Softmax attention whose heads are weighted token by token.",
        equation: "out_hi = gate_ih Σ_j softmax_j(scale q_i·k_j) v_j",
        paper: "Jin et al., MoH: Multi-Head Attention as Mixture-of-Head Attention, ICML 2025, arXiv 2410.11842",
        inputs: &[Q, K, V, MASK, InputSpec::float("gates", "B Lq H")],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend", "combine"],
    };
}

impl Variant for MohAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let mut io = attend_io(plan)?;
        let out = io.out.clone();
        io.out = scratch(plan, "heads", &out.shape);
        io.lse = Some(plan.output("lse")?);
        let (heads, mask) = (io.out.clone(), given_mask(problem, plan)?);
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        plan.attend("attend", op, io, mask)?;
        let gates = plan.input("gates")?.permute(&[0, 2, 1]).insert(3);
        plan.weigh("gate", &heads, &gates, &out)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let pairs = |row, j, s| inputs.allowed(self.causal, row, j).then_some(s);
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &pairs);
        let gates = inputs.get("gates");
        let out = out.map_rows(|at, row| row.iter().map(|x| gates.get(&[at[0], at[2], at[1]]) * x).collect());
        vec![("out", out), ("lse", lse)]
    }
}
