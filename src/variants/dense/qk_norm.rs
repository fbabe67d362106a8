//! Softmax attention on normalised queries and keys, so that scores are bounded.
//!
//! ```text
//! l2:  x → x / max(|x|, eps)          rms: x → x / √(mean x² + eps)          then x ⊙ gain
//! s_ij = scale q_i·k_j     out_i = Σ_j e^(s_ij − lse_i) v_j     lse_i = ln Σ_j e^(s_ij)     over the allowed j
//! ```
//!
//! A. Henry, P. R. Dachapally, S. Pawar, Y. Chen, "Query-Key Normalization for Transformers", Findings of EMNLP 2020, arXiv
//! 2010.04245, section 3; the rms form is that of M. Dehghani et al., "Scaling Vision Transformers to 22 Billion
//! Parameters", ICML 2023, arXiv 2302.05442, section 2, without its bias.
//!
//! Kernels `diagnose` (norms), `attend`, softmax weights; mask hooks causal and mask.
//!
//! Limits: with l2 and scale s no score leaves [−s, s] but for gains. Where rotary embedding follows, the norm comes
//! first: gains do not commute with it. Normalised q and k are f32, also of f16 inputs. A row without keys has out = 0
//! and lse = −∞.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs, attention, dot};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::QkNorm;
use crate::variants::common::{K, LSE, MASK, OUT, Q, V, attend_io, given_mask, of_keys};
use crate::variants::steps::{changed, folded};
use crate::{named, params};

params! {
    /// Softmax attention on normalised queries and keys.
    pub struct QkNormAttention {
        /// What queries and keys are divided by.
        kind: QkNorm = QkNorm::L2,
        /// Factor of q·k.
        scale: f32 = 1.0,
        /// Least length (l2), or what joins the mean square (rms).
        eps: f32 = 1e-6,
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
    }
}

impl Named for QkNormAttention {
    const CARD: Card = Card {
        name: "qk-norm-attention",
        family: Family::Dense,
        summary: "Softmax attention on normalised queries and keys.",
        equation: "s_ij = scale norm(q_i)·norm(k_j)",
        paper: "Henry et al., Query-Key Normalization for Transformers, Findings of EMNLP 2020, arXiv 2010.04245",
        inputs: &[
            Q,
            K,
            V,
            MASK,
            InputSpec::float("gain_q", "D").optional(),
            InputSpec::float("gain_k", "D").optional(),
        ],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["diagnose", "diagnose", "diagnose", "diagnose", "diagnose", "diagnose", "attend"],
    };
}

impl QkNormAttention {
    fn normalised(&self, plan: &mut PlanBuilder, name: &str, gain: &str, x: &Ref) -> Result<Ref> {
        let count = if self.kind == QkNorm::Rms { x.shape[3] } else { 1 };
        let square = folded(plan, &format!("{name}_square"), Fold::sum(), x, vec![hooks::times(x)])?;
        let mean = hooks::times(1.0 / count as f32);
        let inverse = match self.kind {
            QkNorm::Rms => vec![mean, hooks::plus(self.eps, 1.0), hooks::power(-0.5)],
            QkNorm::L2 => vec![hooks::power(0.5), hooks::at_least(self.eps), hooks::power(-1.0)],
        };
        let inverse = changed(plan, &format!("{name}_inverse"), &square, inverse)?;
        let mut chain = vec![hooks::times(inverse)];
        chain.extend(plan.optional(gain).map(|gain| hooks::times(of_keys(&gain))));
        changed(plan, &format!("{name}_norm"), x, chain)
    }
}

impl Variant for QkNormAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if self.eps < 0.0 || (self.eps == 0.0 && self.kind == QkNorm::L2) {
            return Err(problem.refuse(ErrorKind::Parameter, "eps", "a number above 0 (rms: or 0)", self.eps));
        }
        let mut io = attend_io(plan)?;
        io.q = self.normalised(plan, "q", "gain_q", &io.q)?;
        io.k = self.normalised(plan, "k", "gain_k", &io.k)?;
        io.lse = Some(plan.output("lse")?);
        let mask = given_mask(problem, plan)?;
        plan.attend("attend", Attend::new(self.scale).causal(self.causal), io, mask)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let eps = f64::from(self.eps);
        let normalised = |x: &Array, gain: &str| {
            x.map_rows(|_, row| {
                let length = match self.kind {
                    QkNorm::L2 => dot(row, row).sqrt().max(eps),
                    QkNorm::Rms => (dot(row, row) / row.len() as f64 + eps).sqrt(),
                };
                row.iter().enumerate().map(|(d, x)| x / length * inputs.number(gain, &[d], 1.0)).collect()
            })
        };
        let (q_norm, k_norm) = (normalised(q, "gain_q"), normalised(k, "gain_k"));
        let (out, lse) = attention(&q_norm, &k_norm, v, f64::from(self.scale), &|row, j, s| {
            inputs.allowed(self.causal, row, j).then_some(s)
        });
        vec![("out", out), ("lse", lse)]
    }
}
