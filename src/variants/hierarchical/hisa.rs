//! Two-level search in place of the lightning indexer: blocks first, then the tokens of the best blocks, then
//! attention.
//!
//! ```text
//! p_n  = mean of k_idx over block n     C_in = Σ_h w_ih max(0, q_idx_ih · p_n)     m = ⌊(i + Lk − Lq) / block_size⌋
//! C_i0 = C_im = +∞, C_in = −∞ for n > m     blocks_i = top block_topk of C_i
//! I_ij = Σ_h w_ih max(0, q_idx_ih · k_idx_j) for tokens of blocks_i, j ≤ i + Lk − Lq     indices_i = top topk of I_i
//! out_i = Σ_j e^(scale q_i·k_j − lse_i) v_j     lse_i = ln Σ_j e^(scale q_i·k_j)     over j in indices_i
//! ```
//!
//! Y. Xu, F. Meng, F. Jiang, Y. Wang, R. Zhou, J. Wu, Z. Pan, Z. Wang, X. Tang, W. Pei, T. Liu, D. Yin, X. Sun,
//! M. Zhang, "HISA: Efficient Hierarchical Indexing for Fine-Grained Sparse Attention", 2026, arXiv 2603.28458, the
//! two-stage search.
//!
//! Kernels `pool` (block means), `select` (blocks), `select` (tokens of blocks), `attend` over a token list.
//!
//! Limits: the first and the current block are always kept and count towards `block_topk`. Both stages rank in full
//! precision. Without `causal` no key is hidden and m is the last block. A plan given as `indices` (−1 padded, no
//! repeats) takes the place of the list that is attended, exactly as it is; the outputs `indices` and `blocks` are
//! those of the search all the same.

use super::indexer::index_heads;
use crate::error::{ErrorKind, Result};
use crate::kernel::attend::{Attend, Keys};
use crate::kernel::pool::Pool;
use crate::kernel::select::{Score, TopK};
use crate::oracle::{
    Array, Inputs, Outputs, attention, bottom_right, index_scores, list_count, padded, pool_blocks, scale, top_k,
};
use crate::plan::{Check, PlanBuilder, Ref};
use crate::problem::Problem;
use crate::tensor::DType;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{K, K_IDX, LSE, OUT, Q, Q_IDX, V, W_IDX, attend_io, default_scale};
use crate::{named, params};

params! {
    /// Attention over the tokens that a two-level search finds.
    pub struct Hisa {
        /// Keys of a block.
        block_size: usize = 128,
        /// Blocks that the first level keeps.
        block_topk: usize = 64,
        /// Tokens that the second level keeps.
        topk: usize = 2048,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = true,
    }
}

impl Named for Hisa {
    const CARD: Card = Card {
        name: "hisa",
        family: Family::Hierarchical,
        summary: "Attention over tokens found by a search over blocks, then over the tokens of the best blocks.",
        equation: "blocks_i = top-k of Σ_h w_ih max(0, q_idx_ih · mean k_idx), indices_i = top-k of the tokens in them",
        paper: "Xu et al., HISA, 2026, arXiv 2603.28458",
        inputs: &[Q, K, V, Q_IDX, K_IDX, W_IDX, InputSpec::index("indices", "B Lq K").optional()],
        outputs: &[
            OUT,
            LSE,
            OutputSpec::index("indices", "B Lq min(topk,Lk)"),
            OutputSpec::index("blocks", "B Lq min(block_topk,ceil(Lk,block_size))"),
        ],
        forms: &["prefill", "decode", "bidirectional"],
        kernels: &["pool", "select", "select", "attend"],
    };
}

impl Variant for Hisa {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        for (name, value) in [("block_size", self.block_size), ("block_topk", self.block_topk), ("topk", self.topk)] {
            if value == 0 {
                return Err(problem.refuse(ErrorKind::Parameter, name, "1 or more", 0));
            }
        }
        let size = self.block_size;
        let [q, k, w] = index_heads(plan)?;
        let (batch, rows, lk) = (q.shape[0], q.shape[2], k.shape[2]);
        let (blocks, indices) = (plan.output("blocks")?.insert(1), plan.output("indices")?.insert(1));
        let count = lk.div_ceil(size);

        let means = plan.scratch("means", DType::F32, &[batch, 1, count, k.shape[3]]);
        let mean = Pool { size, stride: size, offset: 0, mean: true };
        plan.pool("means", mean, &k.insert(0), None, &means.insert(0))?;
        let coarse = plan.scratch("block_scores", DType::F32, &[batch, 1, rows, count]);
        let score = Score { causal: self.causal, unit: size, ..Score::weighted_relu(lk) };
        let heads = |k: &Ref, scores: &Ref| {
            vec![("q", q.clone()), ("k", k.clone()), ("w", w.clone()), ("scores", scores.clone())]
        };
        plan.score("block scores", score, heads(&means, &coarse))?;
        let best = TopK { causal: self.causal, tokens: lk, unit: size, force_first: 1, force_last: 1, ..TopK::plain() };
        plan.top_k("blocks", best, &coarse, None, &blocks)?;

        let fine = plan.scratch("scores", DType::F32, &[batch, 1, rows, blocks.shape[3] * size]);
        let score = Score { causal: self.causal, list_block: size, ..Score::weighted_relu(lk) };
        let list = [("list", blocks.clone())];
        plan.score("scores", score, heads(&k, &fine).into_iter().chain(list).collect())?;
        plan.top_k("indices", TopK { list_block: size, ..TopK::plain() }, &fine, Some(&blocks), &indices)?;

        let given = plan.optional("indices");
        given.iter().for_each(|list| plan.check(list, Check::IndexBelow(lk)));
        let op = Attend { keys: Keys::Tokens { block: 1 }, ..Attend::new(default_scale(self.scale, problem)) };
        let mut io = attend_io(plan)?;
        io.lse = Some(plan.output("lse")?);
        io.indices = Some(given.map_or(indices, |list| list.insert(1)));
        plan.attend("attend", op, io, Vec::new())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (blocks, indices) = self.search(inputs);
        let list = inputs.find("indices").unwrap_or(&indices);
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            list_count(list.row(&[row.b, row.i]), j).map(|count| s + count.ln())
        });
        vec![("out", out), ("lse", lse), ("indices", indices), ("blocks", blocks)]
    }
}

impl Hisa {
    /// The blocks and the tokens that every query keeps.
    fn search(&self, inputs: &Inputs) -> (Array, Array) {
        let [q, k, _] = inputs.qkv();
        let k_idx = inputs.get("k_idx");
        let (batch, lq, lk, size) = (q.shape[0], q.shape[2], k.shape[2], self.block_size);
        let pooled = pool_blocks(k_idx, size);
        let count = pooled.shape[1];
        let mut blocks = Array::zeros(&[batch, lq, self.block_topk.min(count)]);
        let mut indices = Array::zeros(&[batch, lq, self.topk.min(lk)]);
        for b in 0..batch {
            for i in 0..lq {
                let last = if self.causal { bottom_right(i, q, k) } else { lk as i64 - 1 };
                let current = last.div_euclid(size as i64);
                let coarse: Vec<f64> = (0..)
                    .zip(index_scores(inputs, &pooled, b, i))
                    .map(|(n, score)| match n {
                        n if n > current => f64::NEG_INFINITY,
                        n if n == 0 || n == current => f64::INFINITY,
                        _ => score,
                    })
                    .collect();
                let kept = top_k(&coarse, self.block_topk);
                let fine: Vec<f64> = index_scores(inputs, k_idx, b, i)
                    .iter()
                    .enumerate()
                    .map(|(j, &s)| if kept.contains(&(j / size)) && j as i64 <= last { s } else { f64::NEG_INFINITY })
                    .collect();
                let slots = padded(&kept, self.block_topk.min(count));
                blocks.row_mut(&[b, i]).copy_from_slice(&slots);
                let slots = padded(&top_k(&fine, self.topk), self.topk.min(lk));
                indices.row_mut(&[b, i]).copy_from_slice(&slots);
            }
        }
        (blocks, indices)
    }
}
