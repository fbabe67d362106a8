//! Softmax attention over an explicit list of keys per query: what every token search ends in.
//!
//! ```text
//! out_i = Σ_j e^(scale q_i·k_j − lse_i) v_j     lse_i = ln Σ_j e^(scale q_i·k_j)     over j in indices_i, j ≥ 0
//! ```
//!
//! DeepSeek-AI, "DeepSeek-V3.2: Pushing the Frontier of Open Large Language Models", 2025, arXiv 2512.02556, section
//! 2.1, "DeepSeek Sparse Attention" (fine-grained token selection).
//!
//! Kernel `attend` over a token list, softmax weights.
//!
//! Limits: one list for all heads, or one per key head, or one per query head; where H = Hk the last two are the same.
//! −1 is an empty slot, anywhere in the list, and the order of a list does not matter. A list is meant to be free of
//! repeats: a key listed twice counts twice. There is no causal mask, the list says it all. A row without keys has out
//! = 0 and lse = −∞.

use crate::error::Result;
use crate::kernel::attend::{Attend, Keys};
use crate::oracle::{Inputs, Outputs, Row, attention, list_count, scale};
use crate::plan::{Check, PlanBuilder};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, OUT, Q, V, attend_io, default_scale};
use crate::{named, params};

params! {
    /// Softmax attention over token lists.
    pub struct TokenListAttention {
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for TokenListAttention {
    const CARD: Card = Card {
        name: "token-list-attention",
        family: Family::Hierarchical,
        summary: "Softmax attention over an explicit list of keys per query.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over j in indices_i",
        paper: "DeepSeek-AI, DeepSeek-V3.2, 2025, arXiv 2512.02556",
        inputs: &[Q, K, V, InputSpec::index("indices", "B Lq K | B Hk Lq K | B H Lq K")],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for TokenListAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let indices = plan.input("indices")?;
        plan.check(&indices, Check::IndexBelow(problem.size("Lk")));
        let op = Attend { keys: Keys::Tokens { block: 1 }, ..Attend::new(default_scale(self.scale, problem)) };
        let mut io = attend_io(plan)?;
        io.lse = Some(plan.output("lse")?);
        io.indices = Some(if indices.shape.len() == 3 { indices.insert(1) } else { indices });
        plan.attend("attend", op, io, Vec::new())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let indices = inputs.get("indices");
        let list = |Row { b, h, i }: Row| match indices.shape.len() {
            3 => indices.row(&[b, i]),
            _ => indices.row(&[b, h / (q.shape[1] / indices.shape[1]), i]),
        };
        let (out, lse) =
            attention(q, k, v, scale(self.scale, q), &|row, j, s| list_count(list(row), j).map(|count| s + count.ln()));
        vec![("out", out), ("lse", lse)]
    }
}
