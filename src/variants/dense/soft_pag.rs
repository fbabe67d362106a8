//! Self-attention with its map pulled towards the identity in chosen heads: the weak branch of perturbation guidance.
//!
//! ```text
//! A'    = (1 − u_h) A + u_h I     A_ij = softmax_j(scale q_i·k_j)     in the perturbed rows; A' = A in the others
//! out_i = (1 − u_h) Σ_j A_ij v_j + u_h v_i
//! ```
//!
//! D. Ahn, J. Kang, S. Lee et al., "Fine-Grained Perturbation Guidance via Attention Head Selection", 2025, arXiv
//! 2506.10978, section 4 (SoftPAG); u = 1 is PAG.
//!
//! Kernels `attend`, softmax weights, mask hook alone with `perturbed_block`; `diagnose`, the mix with v of the KV head.
//!
//! Limits: Lq = Lk, noncausal. With `perturbed_block` = n, A itself is masked: the tokens below n (an image before its
//! text) see themselves and the tokens from n on, but not each other. The guidance step is outside.

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
    /// Softmax attention mixed with the identity.
    pub struct SoftPagAttention {
        /// Tokens below it see only themselves among themselves; absent: no mask.
        perturbed_block: Option<usize> = None,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for SoftPagAttention {
    const CARD: Card = Card {
        name: "soft-pag-attention",
        family: Family::Dense,
        summary: "Self-attention with its map pulled towards the identity in chosen heads.",
        equation: "out_i = (1 − u_h) Σ_j softmax_j(scale q_i·k_j) v_j + u_h v_i",
        paper: "Ahn et al., Fine-Grained Perturbation Guidance via Attention Head Selection, 2025, arXiv 2506.10978",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B Hk L D"),
            InputSpec::real("v", "B Hk L Dv"),
            InputSpec::float("strength", "H"),
            InputSpec::flag("rows", "L").optional(),
        ],
        outputs: &[OutputSpec::float("out", "B H L Dv")],
        forms: &["bidirectional"],
        kernels: &["attend", "diagnose"],
    };
}

impl Variant for SoftPagAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (q, k, v) = (plan.input("q")?, plan.input("k")?, plan.input("v")?);
        let plain = scratch(plan, "plain", &problem.shape("B H L Dv")?);
        let mask = self.perturbed_block.map(hooks::alone).into_iter().collect();
        let op = Attend::new(default_scale(self.scale, problem));
        plan.attend("attend", op, AttendIo::new(&q, &k, &v, &plain), mask)?;
        // plain + u (v − plain), in this order: u = 0 gives plain itself.
        let mut mix =
            vec![hooks::plus(&plain, -1.0), hooks::times(plan.input("strength")?.insert(1).insert(1).lead(4))];
        mix.extend(plan.optional("rows").map(|rows| hooks::times(rows.insert(1).lead(4))));
        mix.push(hooks::plus(&plain, 1.0));
        let out = plan.output("out")?;
        plan.fold("mix", Fold::each(), &v, &out, mix)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let group = q.shape[1] / k.shape[1];
        let block = self.perturbed_block.unwrap_or(0);
        let (out, _) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            (row.i >= block || j >= block || row.i == j).then_some(s)
        });
        let out = out.map_rows(|at, plain| {
            let u = inputs.get("strength").get(&[at[1]]) * f64::from(u8::from(inputs.flag("rows", &[at[2]])));
            let own = v.row(&[at[0], at[1] / group, at[2]]);
            plain.iter().zip(own).map(|(o, v)| (1.0 - u) * o + u * v).collect()
        });
        vec![("out", out)]
    }
}
