//! Linear attention with rotary positions, one exponential decay per head and a norm per head: the retentive network.
//!
//! ```text
//! q̂_t = D^-1/2 R(t + offset) q_t     k̂_t = R(t + offset) k_t     R turns channels 2c, 2c+1 by position · θ_c
//! S_t = γ_h S_{t−1} + k̂_t v_tᵀ     raw_t = q̂_tᵀ S_t              γ_h = 1 − 2^(−5−h)
//! out_t = raw_t / √(mean raw_t² + eps) ⊙ silu(gate_t)
//! ```
//!
//! Y. Sun, L. Dong, S. Huang, S. Ma, Y. Xia, J. Xue, J. Wang, F. Wei, "Retentive Network: A Successor to Transformer
//! for Large Language Models", 2023, arXiv 2307.08621, sections 2.1 and 2.2.
//!
//! Kernels `transform` (rotary), `scan` with decay per head, `transform` (norm and gate).
//!
//! Limits: always causal. The norm is the root mean square of a head's row, without weights and without removing the
//! mean (the paper has a group norm). The three normalisations of the scores in the paper cancel in it as eps → 0 and
//! are left out. Without `gate` the last factor is 1. With D odd the last channel is not rotated. q, k and v may each
//! have fewer heads than the state.

use crate::error::{Error, ErrorKind, Result};
use crate::oracle::{Inputs, Outputs, frequencies, rotate, scan};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::STATE;
use crate::{named, params};

params! {
    /// Multi-scale retention.
    pub struct Retention {
        /// Position of the first token.
        offset: usize = 0,
        /// Added to the mean square in the norm.
        eps: f32 = 1e-6,
    }
}

impl Named for Retention {
    const CARD: Card = Card {
        name: "retention",
        family: Family::Linear,
        summary: "Linear attention with rotary positions, a decay per head and a norm per head.",
        equation: "S_t = γ_h S_{t−1} + R_t k_t v_tᵀ, out_t = norm((R_t q_t)ᵀ S_t / √D) ⊙ silu(gate_t)",
        paper: "Sun et al., Retentive Network, 2023, arXiv 2307.08621",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::float("log_decay", "H").optional(),
            InputSpec::float("gate", "B H L Dv").optional(),
            InputSpec::float("theta", "D//2").optional(),
            STATE,
        ],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("state", "B H D Dv"),
            OutputSpec::float("raw", "B H L Dv"),
        ],
        forms: &["prefill", "chunked", "recurrent", "step"],
        kernels: &["transform", "scan", "transform"],
    };
}

impl Variant for Retention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let _ = (problem, plan);
        Err(Error::new(ErrorKind::Unsupported, "PLAN-MISSING"))
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let heads = q.shape[1].max(k.shape[1]).max(v.shape[1]);
        let d = q.shape[3];
        let theta = inputs.find("theta").map_or_else(|| frequencies(10000.0, d), |given| given.data.clone());
        let log_decay = inputs.find("log_decay").map_or_else(
            || (0..heads).map(|h| (-(-5.0 - h as f64).exp2()).ln_1p()).collect(),
            |given| given.data.clone(),
        );
        let turned = |at: &[usize], x: &[f64]| rotate(x, &theta, (at[2] + self.offset) as f64, |c| (2 * c, 2 * c + 1));
        let q = q.map_rows(|at, x| turned(at, x).iter().map(|x| x / (d as f64).sqrt()).collect());
        let (raw, state) = scan(&q, &k.map_rows(turned), v, &log_decay, inputs.find("state"));
        let out = raw.map_rows(|at, y| {
            let rms = (y.iter().map(|y| y * y).sum::<f64>() / y.len() as f64 + f64::from(self.eps)).sqrt();
            let gate = |e: usize| inputs.find("gate").map_or(1.0, |g| g.row(at)[e] / (1.0 + (-g.row(at)[e]).exp()));
            y.iter().enumerate().map(|(e, y)| y / rms * gate(e)).collect()
        });
        vec![("out", out), ("state", state), ("raw", raw)]
    }
}
