//! Relative attention on queries, keys and values that a short convolution has mixed with their neighbours.
//!
//! ```text
//! x'_t = Σ_m conv_m ⊙ x_(t − K + 1 + m)     of q, k and v, a channel and head at a time; zeros outside
//! s_ij = scale ((q'_i + u_h)·k'_j + (q'_i + w_h)·r_h(i' − j))     i' = i + Lk − Lq
//! ```
//!
//! H. Sugiharto, Aradea, H. Mubarok, "RCMHA: Relative Convolutional Multi-Head Attention for Natural Language Modelling",
//! 2023, arXiv 2308.03429, section 3; left padding and three taps as in the multi-dconv-head attention that it builds on.
//!
//! Kernels `pool` (windows with a weight a head, channel and tap) and `diagnose` (their transposes), then those of
//! `transformer-xl-attention`.
//!
//! Limits: without `causal` the windows are centred, (K − 1)/2 taps before the token, rounded down. A decode step takes the
//! last K − 1 inputs beside its own.

use super::transformer_xl;
use crate::error::Result;
use crate::kernel::pool::Pool;
use crate::oracle::{Array, Inputs, Outputs, scale};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, OUT, Q, V, default_scale};
use crate::variants::steps::{changed, scratch};
use crate::{named, params};

params! {
    /// Convolutions, then relative attention.
    pub struct RcmhaAttention {
        /// Query i sees keys up to i + Lk − Lq; the convolutions see no later token.
        causal: bool = true,
        /// Factor of the products; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for RcmhaAttention {
    const CARD: Card = Card {
        name: "rcmha-attention",
        family: Family::Dense,
        summary: "Relative attention on queries, keys and values that a short convolution has mixed.",
        equation: "s_ij = scale ((q'_i + u_h)·k'_j + (q'_i + w_h)·r_h(i' − j)), x'_t = Σ_m conv_m ⊙ x_(t − K + 1 + m)",
        paper: "Sugiharto, Aradea, Mubarok, RCMHA, 2023, arXiv 2308.03429",
        inputs: &[
            Q,
            K,
            V,
            InputSpec::float("conv_q", "H D K"),
            InputSpec::float("conv_k", "Hk D K"),
            InputSpec::float("conv_v", "Hk Dv K"),
            InputSpec::float("rel", "H Lq+Lk-1 D"),
            InputSpec::float("u", "H D"),
            InputSpec::float("w", "H D"),
        ],
        outputs: &[OUT, LSE],
        forms: &["prefill", "bidirectional", "cross"],
        kernels: &["pool", "diagnose", "diagnose", "attend"],
    };
}

impl Variant for RcmhaAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let taps = problem.size("K");
        let offset = if self.causal { taps - 1 } else { (taps - 1) / 2 };
        let mut mixed = |input: &'static str, taps_of: &'static str| -> Result<Ref> {
            let (x, weight) = (plan.input(input)?.permute(&[0, 1, 3, 2]), plan.input(taps_of)?);
            // Channels are rows here: a window runs along the tokens of one channel.
            let out = scratch(plan, "windows", &x.shape);
            let op = Pool { size: taps, stride: 1, offset, mean: false };
            plan.pool(taps_of, op, &x.insert(4), Some(&weight), &out.insert(4))?;
            changed(plan, input, &out.permute(&[0, 1, 3, 2]), Vec::new())
        };
        let (q, k, v) = (mixed("q", "conv_q")?, mixed("k", "conv_k")?, mixed("v", "conv_v")?);
        transformer_xl::attend(problem, plan, default_scale(self.scale, problem), self.causal, [&q, &k, &v])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let mixed = |x: &Array, weight: &Array| {
            let taps = weight.shape[2] as i64;
            let first = if self.causal { taps - 1 } else { (taps - 1) / 2 };
            x.map_rows(|at, row| {
                let tap = |c: usize, m: i64| match at[2] as i64 + m - first {
                    t if t < 0 || t >= x.shape[2] as i64 => 0.0,
                    t => weight.get(&[at[1], c, m as usize]) * x.get(&[at[0], at[1], t as usize, c]),
                };
                (0..row.len()).map(|c| (0..taps).map(|m| tap(c, m)).sum()).collect()
            })
        };
        let [q, k, v] = inputs.qkv();
        let [q, k, v] = [(q, "conv_q"), (k, "conv_k"), (v, "conv_v")].map(|(x, name)| mixed(x, inputs.get(name)));
        let factor = scale(self.scale, &q);
        transformer_xl::definition(inputs, [&q, &k, &v], factor, self.causal)
    }
}
