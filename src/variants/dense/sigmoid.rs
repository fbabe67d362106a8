//! Attention whose weights are independent sigmoids: no row maximum, no row sum, no competition between keys.
//!
//! ```text
//! w_ij  = σ(scale q_i·k_j + bias_ij + b_i)     on allowed pairs, 0 elsewhere
//! out_i = Σ_j w_ij v_j     mass_i = Σ_j w_ij
//! b_i   = −ln Lk (neg_log_len)  |  −ln n_i, n_i the allowed keys of row i (neg_log_row)  |  bias_value (value)
//! ```
//!
//! J. Ramapuram, F. Danieli, E. Dhekane, F. Weers, D. Busbridge, P. Ablin, T. Likhomanenko, J. Digani, Z. Gu,
//! A. Shidani, R. Webb, "Theory, Analysis, and Best Practices for Sigmoid Self-Attention", ICLR 2025, arXiv 2409.04431,
//! section 2.
//!
//! Kernel `attend`, sigmoid weights; score hook bias, mask hooks causal and mask.
//!
//! Limits: there is no lse, partial results over disjoint keys add up. neg_log_len follows the keys at hand: in a
//! decode loop give the model's own length with `bias_rule = value`. neg_log_row counts allowed keys whatever their
//! bias. A row without keys has out = 0 and mass = 0.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::{Attend, Normaliser};
use crate::oracle::{Array, Inputs, Outputs, Row, dot, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, Named, Variant};
use crate::variants::BiasRule;
use crate::variants::common::{
    BIAS, K, MASK, MASS, OUT, Q, V, allowed_keys, attend_io, default_scale, given_bias, given_mask,
};
use crate::{named, params};

params! {
    /// Attention with elementwise sigmoid weights.
    pub struct SigmoidAttention {
        /// Where the bias of every score comes from.
        bias_rule: BiasRule = BiasRule::NegLogLen,
        /// The bias of `bias_rule = value`.
        bias_value: f32 = 0.0,
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for SigmoidAttention {
    const CARD: Card = Card {
        name: "sigmoid-attention",
        family: Family::Dense,
        summary: "Attention whose weights are independent sigmoids of the scores.",
        equation: "out_i = Σ_j σ(scale q_i·k_j + bias_ij − ln Lk) v_j",
        paper: "Ramapuram et al., Theory, Analysis, and Best Practices for Sigmoid Self-Attention, ICLR 2025, \
                arXiv 2409.04431",
        inputs: &[Q, K, V, MASK, BIAS],
        outputs: &[OUT, MASS],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for SigmoidAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let op = Attend {
            normaliser: Normaliser::Weights,
            ..Attend::new(default_scale(self.scale, problem)).causal(self.causal)
        };
        let mut hooks = given_bias(problem, plan)?;
        match self.bias_rule {
            BiasRule::Value => hooks.push(hooks::shift(self.bias_value)),
            BiasRule::NegLogLen => hooks.push(hooks::shift(-(problem.size("Lk") as f64).ln() as f32)),
            BiasRule::NegLogRow => hooks.push(hooks::neg_log(allowed_keys(problem, plan, self.causal)?)),
        }
        hooks.extend(given_mask(problem, plan)?);
        hooks.push(hooks::sigmoid());
        let mut io = attend_io(plan)?;
        io.mass = Some(plan.output("mass")?);
        plan.attend("attend", op, io, hooks)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let [batch, heads, lq, _] = q.shape[..] else { panic!("q has rank 4") };
        let [_, kv_heads, lk, dv] = v.shape[..] else { panic!("v has rank 4") };
        let mut out = Array::zeros(&[batch, heads, lq, dv]);
        let mut mass = Array::zeros(&[batch, heads, lq]);
        for b in 0..batch {
            for h in 0..heads {
                let hk = h / (heads / kv_heads);
                for i in 0..lq {
                    let keys: Vec<usize> =
                        (0..lk).filter(|&j| inputs.allowed(self.causal, Row { b, h, i }, j)).collect();
                    let rule = match self.bias_rule {
                        BiasRule::NegLogLen => -(lk as f64).ln(),
                        BiasRule::NegLogRow => -(keys.len() as f64).ln(),
                        BiasRule::Value => f64::from(self.bias_value),
                    };
                    for j in keys {
                        let s = scale(self.scale, q) * dot(q.row(&[b, h, i]), k.row(&[b, hk, j]));
                        let x = s + inputs.number("bias", &[b, h, i, j], 0.0) + rule;
                        let w = 1.0 / (1.0 + (-x).exp());
                        mass.row_mut(&[b, h])[i] += w;
                        let row = out.row_mut(&[b, h, i]);
                        row.iter_mut().zip(v.row(&[b, hk, j])).for_each(|(o, x)| *o += w * x);
                    }
                }
            }
        }
        vec![("out", out), ("mass", mass)]
    }
}
