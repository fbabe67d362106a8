//! A tiny scoring head that ranks every earlier token for every query, so that attention needs only the best of them.
//!
//! ```text
//! I_ij = c Σ_h w_ih max(0, q_idx_ih · k_idx_j)     c = score_scale, default (Hi Di)^-1/2
//! causal: I_ij = −∞ for j > i + Lk − Lq
//! indices_i = the min(topk, Lk) keys of largest I_i
//! ```
//!
//! DeepSeek-AI, "DeepSeek-V3.2: Pushing the Frontier of Open Large Language Models", 2025, arXiv 2512.02556, section
//! 2.1, "DeepSeek Sparse Attention".
//!
//! Kernel `select`: index scores, then top-k.
//!
//! Limits: one index key head for all index query heads. Head weights may be negative, and so may scores. Scores of
//! exactly 0 are common (the maximum with 0): ties go to the lower index. Lists are ascending and padded with −1; a
//! key with score −∞ is never listed. Projection, norm, rotary embedding and Hadamard rotation of q_idx and k_idx come
//! before the call.

use crate::error::{ErrorKind, Result};
use crate::kernel::select::{Score, TopK};
use crate::oracle::{Array, Inputs, Outputs, index_scores, padded, top_k};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::variant::{Card, Family, Named, OutputSpec, Variant};
use crate::variants::common::{K_IDX, Q_IDX, W_IDX};
use crate::{named, params};

params! {
    /// Token scores and the best tokens of every query.
    pub struct LightningIndexer {
        /// Keys of a list.
        topk: usize = 2048,
        /// Factor of the scores; default (Hi Di)^-1/2.
        score_scale: Option<f32> = None,
        /// Query i ranks keys up to i + Lk − Lq.
        causal: bool = true,
    }
}

impl Named for LightningIndexer {
    const CARD: Card = Card {
        name: "lightning-indexer",
        family: Family::Hierarchical,
        summary: "A tiny scoring head that ranks every token for every query.",
        equation: "I_ij = c Σ_h w_ih max(0, q_idx_ih · k_idx_j), indices_i = top-k of I_i",
        paper: "DeepSeek-AI, DeepSeek-V3.2, 2025, arXiv 2512.02556",
        inputs: &[Q_IDX, K_IDX, W_IDX],
        outputs: &[OutputSpec::float("scores", "B Lq Lk"), OutputSpec::index("indices", "B Lq min(topk,Lk)")],
        forms: &["prefill", "decode", "bidirectional"],
        kernels: &["select"],
    };
}

impl Variant for LightningIndexer {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if self.topk == 0 {
            return Err(problem.refuse(ErrorKind::Parameter, "topk", "1 or more", 0));
        }
        let [q, k, w] = index_heads(plan)?;
        let (scores, indices) = (plan.output("scores")?.insert(1), plan.output("indices")?.insert(1));
        let width = (q.shape[1] * q.shape[3]) as f64;
        let op = Score {
            scale: self.score_scale.unwrap_or_else(|| width.powf(-0.5) as f32),
            causal: self.causal,
            ..Score::weighted_relu(k.shape[2])
        };
        plan.score("scores", op, vec![("q", q), ("k", k), ("w", w), ("scores", scores.clone())])?;
        // Hidden keys have score −∞, so that the selection needs no order of its own.
        plan.top_k("indices", TopK::plain(), &scores, None, &indices)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [batch, lq, heads, d] = inputs.get("q_idx").shape[..] else { panic!("q_idx has rank 4") };
        let k_idx = inputs.get("k_idx");
        let lk = k_idx.shape[1];
        let c = self.score_scale.map_or_else(|| ((heads * d) as f64).powf(-0.5), f64::from);
        let mut scores = Array::filled(&[batch, lq, lk], f64::NEG_INFINITY);
        let mut indices = Array::zeros(&[batch, lq, self.topk.min(lk)]);
        for b in 0..batch {
            for i in 0..lq {
                for (j, score) in index_scores(inputs, k_idx, b, i).iter().enumerate() {
                    if !self.causal || j + lq <= i + lk {
                        scores.row_mut(&[b, i])[j] = c * score;
                    }
                }
                let best = padded(&top_k(scores.row(&[b, i]), self.topk), self.topk.min(lk));
                indices.row_mut(&[b, i]).copy_from_slice(&best);
            }
        }
        vec![("scores", scores), ("indices", indices)]
    }
}

/// q_idx (B, Hi, Lq, Di), k_idx (B, 1, Lk, Di) and w (B, Hi, Lq), as the score kernel takes them.
pub(super) fn index_heads(plan: &PlanBuilder) -> Result<[Ref; 3]> {
    let q = plan.input("q_idx")?.permute(&[0, 2, 1, 3]);
    Ok([q, plan.input("k_idx")?.insert(1), plan.input("w")?.permute(&[0, 2, 1])])
}
