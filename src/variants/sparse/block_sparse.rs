//! Softmax attention over the blocks of a given pattern: the common carrier of static and computed block patterns.
//!
//! ```text
//! allowed(i, j) = block_mask[⌊i / block_q⌋, ⌊j / block_k⌋] and (not causal or j ≤ i + Lk − Lq)
//! out_i = Σ_j e^(scale q_i·k_j − lse_i) v_j     lse_i = ln Σ_j e^(scale q_i·k_j)     over the allowed j
//! CSR: row r of head h lists the key blocks indices[h, indptr[h, r] .. indptr[h, r+1]]
//! ```
//!
//! T. Dao, D. Y. Fu, S. Ermon, A. Rudra, C. Ré, "FlashAttention: Fast and Memory-Efficient Exact Attention with
//! IO-Awareness", NeurIPS 2022, arXiv 2205.14135, section 3.3 (block-sparse FlashAttention). The pattern itself is the
//! caller's.
//!
//! Kernel `attend` over a block list, softmax weights; mask hook causal.
//!
//! Limits: exactly one of `block_mask` and the pair `indptr`, `indices` is given. Query blocks count the rows at hand,
//! not their place on the axis of the keys. Last blocks may be short. A list is ascending in a row, without repeats. A
//! row without keys has out = 0 and lse = −∞.

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::attend::{Attend, Keys};
use crate::oracle::{Inputs, Outputs, Row, attention, scale};
use crate::plan::{Check, PlanBuilder};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, OUT, Q, V, attend_io, default_scale};
use crate::{named, params};

params! {
    /// Softmax attention over a block pattern.
    pub struct BlockSparseAttention {
        /// Queries of a block.
        block_q: usize = 64,
        /// Keys of a block.
        block_k: usize = 64,
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for BlockSparseAttention {
    const CARD: Card = Card {
        name: "block-sparse-attention",
        family: Family::Sparse,
        summary: "Softmax attention over the blocks of a given pattern, a mask or CSR lists.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over blocks with block_mask[⌊i/block_q⌋, ⌊j/block_k⌋] = 1",
        paper: "Dao et al., FlashAttention, NeurIPS 2022, arXiv 2205.14135, section 3.3",
        inputs: &[
            Q,
            K,
            V,
            InputSpec::flag("block_mask", "H nq nk | 1 nq nk | B H nq nk").optional(),
            InputSpec::index("indptr", "H nq+1").optional(),
            InputSpec::index("indices", "H nnz").optional(),
        ],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for BlockSparseAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        for (name, size) in [("block_q", self.block_q), ("block_k", self.block_k)] {
            if size == 0 {
                return Err(problem.refuse(ErrorKind::Parameter, name, "a size of 1 or more", size));
            }
        }
        let (nq, nk) = (problem.size("Lq").div_ceil(self.block_q), problem.size("Lk").div_ceil(self.block_k));
        let mut io = attend_io(plan)?;
        io.lse = Some(plan.output("lse")?);
        match (plan.optional("block_mask"), plan.optional("indptr"), plan.optional("indices")) {
            (Some(mask), None, None) => {
                let blocks = &mask.shape[mask.shape.len() - 2..];
                if blocks != [nq, nk] {
                    return Err(problem.refuse(
                        ErrorKind::Shape,
                        "block_mask",
                        format!("{nq} x {nk} blocks"),
                        format!("{blocks:?}"),
                    ));
                }
                let mask = if mask.shape.len() == 3 { mask.insert(0) } else { mask };
                io.indices = Some(mask);
            }
            (None, Some(indptr), Some(indices)) => {
                if indptr.shape[1] != nq + 1 {
                    return Err(problem.refuse(
                        ErrorKind::Shape,
                        "indptr",
                        format!("{} entries a head", nq + 1),
                        indptr.shape[1],
                    ));
                }
                plan.check(&indptr, Check::Cumulative(indices.shape[1]));
                plan.check(&indices, Check::IndexBelow(nk));
                io.indptr = Some(indptr.insert(0));
                io.indices = Some(indices.insert(0));
            }
            _ => {
                let message = "block-sparse-attention: give either `block_mask` or both `indptr` and `indices`";
                return Err(Error::new(ErrorKind::MissingInput, message));
            }
        }
        let keys = Keys::Blocks { queries: self.block_q, keys: self.block_k };
        let op = Attend { keys, ..Attend::new(default_scale(self.scale, problem)).causal(self.causal) };
        plan.attend("attend", op, io, Vec::new())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let listed = |h: usize, block_row: usize, block: usize| {
            let Some(indptr) = inputs.find("indptr") else { return true };
            let (from, to) = (indptr.get(&[h, block_row]) as usize, indptr.get(&[h, block_row + 1]) as usize);
            inputs.get("indices").row(&[h])[from..to].contains(&(block as f64))
        };
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            let Row { b, h, i } = row;
            let (r, c) = (i / self.block_q, j / self.block_k);
            let attended = inputs.flag("block_mask", &[b, h, r, c]) && listed(h, r, c);
            (attended && inputs.allowed(self.causal, row, j)).then_some(s)
        });
        vec![("out", out), ("lse", lse)]
    }
}
