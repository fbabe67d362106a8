//! Attention whose weights are the positive scores over the number of keys: no exponential, no row maximum.
//!
//! ```text
//! w_ij  = max(scale q_i·k_j, 0) / n_i     n_i the allowed keys of row i, 1 where there are none; or 1
//! out_i = Σ_j w_ij v_j     mass_i = Σ_j w_ij     over the allowed j
//! ```
//!
//! M. Wortsman, J. Lee, J. Gilmer, S. Kornblith, "Replacing softmax with ReLU in Vision Transformers", 2023, arXiv
//! 2309.08586, section 3.
//!
//! Kernel `attend`, relu weights; mask hooks causal and mask. With a mask a first pass counts the allowed keys.
//!
//! Limits: there is no lse, partial results over disjoint keys add up. A row without keys has out = 0 and mass = 0.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::{Attend, Normaliser};
use crate::oracle::{Array, Inputs, Outputs, Row, dot, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, Named, Variant};
use crate::variants::common::{K, MASK, MASS, OUT, Q, V, allowed_keys, attend_io, default_scale, given_mask};
use crate::{named, params};

params! {
    /// Attention with the positive scores as weights.
    pub struct ReluAttention {
        /// Weights are over the number of allowed keys.
        divide_by_keys: bool = true,
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for ReluAttention {
    const CARD: Card = Card {
        name: "relu-attention",
        family: Family::Dense,
        summary: "Attention whose weights are the positive scores over the number of keys.",
        equation: "out_i = Σ_j max(scale q_i·k_j, 0) v_j / n_i",
        paper: "Wortsman et al., Replacing softmax with ReLU in Vision Transformers, 2023, arXiv 2309.08586",
        inputs: &[Q, K, V, MASK],
        outputs: &[OUT, MASS],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for ReluAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let count = self.divide_by_keys.then(|| allowed_keys(problem, plan, self.causal)).transpose()?;
        let mut hooks = given_mask(problem, plan)?;
        hooks.push(hooks::relu(count));
        let mut io = attend_io(plan)?;
        io.mass = Some(plan.output("mass")?);
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        plan.attend("attend", Attend { normaliser: Normaliser::Weights, ..op }, io, hooks)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let [batch, heads, lq, _] = q.shape[..] else { panic!("q has rank 4") };
        let [_, kv_heads, lk, dv] = v.shape[..] else { panic!("v has rank 4") };
        let (mut out, mut mass) = (Array::zeros(&[batch, heads, lq, dv]), Array::zeros(&[batch, heads, lq]));
        for (b, h, i) in (0..batch * heads * lq).map(|n| (n / (heads * lq), n / lq % heads, n % lq)) {
            let hk = h / (heads / kv_heads);
            let keys: Vec<usize> = (0..lk).filter(|&j| inputs.allowed(self.causal, Row { b, h, i }, j)).collect();
            let n = if self.divide_by_keys { keys.len().max(1) as f64 } else { 1.0 };
            for j in keys {
                let w = (scale(self.scale, q) * dot(q.row(&[b, h, i]), k.row(&[b, hk, j]))).max(0.0) / n;
                mass.row_mut(&[b, h])[i] += w;
                out.row_mut(&[b, h, i]).iter_mut().zip(v.row(&[b, hk, j])).for_each(|(o, x)| *o += w * x);
            }
        }
        vec![("out", out), ("mass", mass)]
    }
}
