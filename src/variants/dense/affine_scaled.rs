//! Softmax attention whose weights are scaled and shifted per query and head, so that they need not sum to 1.
//!
//! ```text
//! w_ij = alpha_i p_ij + beta_i     p_ij = e^(scale q_i·k_j − lse_i)     on the allowed j, 0 elsewhere
//! out_i = Σ_j w_ij v_j = alpha_i softmax_out_i + beta_i Σ_j v_j
//! ```
//!
//! J. Bae, B. Park, G. Park, M. Kim, J. Lee, J. Yoo, S. Woo, J. Ryu, S. J. Kwon, D. Lee, "Affine-Scaled Attention: Towards
//! Flexible and Stable Transformer Attention", 2026, arXiv 2602.23057, section 3.
//!
//! Kernel `attend` twice: softmax weights, and beta as the weight of every allowed key; `diagnose` adds. Mask hooks causal
//! and mask.
//!
//! Limits: `lse` is that of the softmax. Weights may be negative. The second pass scores pairs only to mask them; where the
//! mask is none or causal, a running sum of v would do. A row without keys has out = 0 and lse = −∞.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::{Attend, Normaliser};
use crate::kernel::diagnose::Fold;
use crate::oracle::{Inputs, Outputs, Row, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, MASK, OUT, Q, V, attend_io, default_scale, given_mask};
use crate::variants::steps::scratch;
use crate::{named, params};

params! {
    /// Softmax attention with scaled and shifted weights.
    pub struct AffineScaledAttention {
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for AffineScaledAttention {
    const CARD: Card = Card {
        name: "affine-scaled-attention",
        family: Family::Dense,
        summary: "Softmax attention whose weights are scaled and shifted per query and head.",
        equation: "out_i = alpha_i Σ_j p_ij v_j + beta_i Σ_j v_j",
        paper: "Bae et al., Affine-Scaled Attention, 2026, arXiv 2602.23057",
        inputs: &[Q, K, V, MASK, InputSpec::float("alpha", "B H Lq"), InputSpec::float("beta", "B H Lq")],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend", "attend", "diagnose"],
    };
}

impl Variant for AffineScaledAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let shape = problem.shape("B H Lq Dv")?;
        let (alpha, beta) = (plan.input("alpha")?.insert(3), plan.input("beta")?.insert(3));
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        let mut io = attend_io(plan)?;
        let out = io.out.clone();
        io.out = scratch(plan, "softmax_out", &shape);
        io.lse = Some(plan.output("lse")?);
        let (raw, mask) = (io.out.clone(), given_mask(problem, plan)?);
        plan.attend("softmax", op, io.clone(), mask.clone())?;
        io.out = scratch(plan, "shift", &shape);
        io.lse = None;
        let (shift, weights) = (io.out.clone(), Attend { normaliser: Normaliser::Weights, ..op });
        plan.attend("shift", weights, io, [vec![hooks::take(beta, 1.0)], mask].concat())?;
        plan.fold("sum", Fold::each(), &raw, &out, vec![hooks::times(alpha), hooks::plus(shift, 1.0)])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let pairs = |row, j, s| inputs.allowed(self.causal, row, j).then_some(s);
        let (mut out, lse) = attention(q, k, v, scale(self.scale, q), &pairs);
        let [batch, heads, lq, _] = out.shape[..] else { panic!("out has rank 4") };
        let share = heads / v.shape[1];
        for (b, h, i) in (0..batch * heads * lq).map(|n| (n / (heads * lq), n / lq % heads, n % lq)) {
            let (alpha, beta) = (inputs.get("alpha").get(&[b, h, i]), inputs.get("beta").get(&[b, h, i]));
            let row = out.row_mut(&[b, h, i]);
            row.iter_mut().for_each(|o| *o *= alpha);
            for j in (0..v.shape[2]).filter(|&j| inputs.allowed(self.causal, Row { b, h, i }, j)) {
                row.iter_mut().zip(v.row(&[b, h / share, j])).for_each(|(o, x)| *o += beta * x);
            }
        }
        vec![("out", out), ("lse", lse)]
    }
}
