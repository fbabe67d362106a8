//! Attention over an instruction, documents that do not see each other, and a query that ranks them.
//!
//! ```text
//! layout [instruction | document 1 .. M | query], causal in each; documents also see the instruction, the query sees all before it
//! positions: a document starts again after the instruction, the query at 16384
//! w_hij = softmax over document tokens j of scale q_i·k_j, for the signal rows i
//! doc_score_d = mean over heads and signal rows of Σ_{j in d} w_hij     ranking: by falling score, ties by index
//! ```
//!
//! N. Gupta, C. You, S. Bhojanapalli, S. Kumar, I. Dhillon, F. Yu, "Scalable In-context Ranking with Generative Models"
//! (BlockRank), NeurIPS 2025, arXiv 2510.05396, section 4.
//!
//! Kernels `attend` (ranges of keys a row and the instruction as prefix), `diagnose` (weights of the signal rows, sums,
//! ranking). The read of the scores needs one middle layer only.
//!
//! Limits: lengths may differ and sum to L; at least one document; signal rows are rows of the query. Without signal rows
//! all scores are 0. `temperature` belongs to the training loss and changes nothing. The weights of the signal rows are stored: B · H · rows · document tokens numbers.

use crate::error::{ErrorKind, Result};
use crate::hooks::{self, Bound};
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::{Fold, Of};
use crate::oracle::{Array, Inputs, Outputs, attention, dot, scale, shared_head};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use crate::variant::{Card, Family, Named, OutputSpec, Variant};
use crate::variants::common::{
    K_SELF, LSE_SELF, OUT_SELF, Q_SELF, V_SELF, default_scale, index_output, segments, softmax_within,
};
use crate::variants::steps::{row_lse, scratch};
use crate::{named, params};
use std::ops::Range;

/// Position of the query's first token.
const QUERY_AT: usize = 16384;

params! {
    /// Attention that isolates documents and ranks them.
    pub struct BlockrankAttention {
        /// Tokens of the instruction, of each document and of the query.
        lengths: Vec<usize> = vec![4, 8, 8, 4],
        /// Rows of the query, as indices of tokens, that rank the documents.
        signal_rows: Vec<usize> = Vec::new(),
        /// Divides the scores in the training loss; no result here depends on it.
        temperature: f32 = 0.05,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for BlockrankAttention {
    const CARD: Card = Card {
        name: "blockrank-attention",
        family: Family::Dense,
        summary: "Attention over documents that do not see each other, and their ranking by the query.",
        equation: "out_i over instruction and own document; score_d = mean_hi Σ_{j in d} softmax_j(scale q_i·k_j)",
        paper: "Gupta et al., Scalable In-context Ranking with Generative Models, NeurIPS 2025, arXiv 2510.05396",
        inputs: &[Q_SELF, K_SELF, V_SELF],
        outputs: &[
            OUT_SELF,
            LSE_SELF,
            OutputSpec::float("doc_scores", "B n_docs"),
            OutputSpec::index("ranking", "B n_docs"),
            OutputSpec::index("positions", "L"),
        ],
        forms: &["prefill"],
        kernels: &["attend", "diagnose", "attend", "diagnose", "diagnose", "diagnose", "diagnose"],
    };
}

impl BlockrankAttention {
    fn rank(&self, problem: &Problem, plan: &mut PlanBuilder, list: &[Range<usize>], scale: f32) -> Result<()> {
        let (batch, heads, depth) = (problem.size("B"), problem.size("H"), problem.size("D"));
        let documents = &list[1..list.len() - 1];
        let (first, tokens) = (documents[0].start, documents[documents.len() - 1].end - documents[0].start);
        let (scores, ranking) = (
            plan.output_as("doc_scores", &[batch, documents.len()])?,
            plan.output_as("ranking", &[batch, documents.len()])?,
        );
        let of_documents = |plan: &mut PlanBuilder, name: &str, of: &dyn Fn(&Range<usize>) -> usize| -> Result<Ref> {
            let list: Vec<i32> = documents.iter().map(|d| (of(d) - first) as i32).collect();
            Ok(plan.constant(name, HostTensor::new(&[1, 1, 1, documents.len()], list)?))
        };
        let zero = plan.constant("zero", HostTensor::zeros(&[1, 1, 1, 1]));
        let mut sums = Vec::new();
        let rows = self.signal_rows.len();
        if rows > 0 {
            let (q, keys) = (plan.input("q")?, plan.input("k")?.narrow(2, first, tokens));
            // The signal rows, gathered: a row as the key of a lookup would be, so with rows and heads exchanged.
            let signal = scratch(plan, "signal", &[batch, rows, heads, depth]);
            let row =
                HostTensor::new(&[1, rows, 1, 1], self.signal_rows.iter().map(|&i| i as i32).collect::<Vec<_>>())?;
            let row = plan.constant("signal_rows", row);
            let by_row = q.permute(&[0, 2, 1, 3]);
            plan.fold(
                "signal",
                Fold::each(),
                &zero.broadcast(&signal.shape),
                &signal,
                vec![hooks::pick(&by_row, row)],
            )?;
            let signal = signal.permute(&[0, 2, 1, 3]);
            let lse = scratch(plan, "signal_lse", &[batch, heads, rows]);
            row_lse(plan, Attend::new(scale), [&signal, &keys], &lse, Vec::new())?;
            let weights = scratch(plan, "weights", &[batch, heads, rows, tokens]);
            let op = Fold::each().of(Of::Dot).scaled(scale);
            plan.fold_pairs("weights", op, [&signal, &keys, &weights], None, vec![hooks::probability(lse.insert(3))])?;
            let [start, end] =
                [of_documents(plan, "document_start", &|d| d.start)?, of_documents(plan, "document_end", &|d| d.end)?];
            let all = |n: usize| [Bound::At(0), Bound::At(n)];
            sums.push(hooks::box_sum(&weights, [all(heads), all(rows), [Bound::Table(start), Bound::Table(end)]]));
            sums.push(hooks::times(1.0 / (heads * rows) as f32));
        }
        let shape = [batch, 1, 1, documents.len()];
        plan.fold("scores", Fold::each(), &zero.broadcast(&shape), &scores.insert(1).insert(1), sums)?;
        let scores = scores.insert(1).insert(1);
        let only = plan.constant("only_row", HostTensor::zeros_of(DType::I32, &[1, 1, 1, 1]));
        let ranked = hooks::ranked(&scores, only);
        plan.fold("ranking", Fold::each(), &zero.broadcast(&shape), &ranking.insert(1).insert(1), vec![ranked])
    }
}

impl Variant for BlockrankAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let length = problem.size("L");
        let list = segments(problem, "lengths", &self.lengths, length)?;
        if list.len() < 3 || list[1..list.len() - 1].iter().all(|d| d.is_empty()) {
            let expected = "an instruction, documents and a query";
            return Err(problem.refuse(ErrorKind::Parameter, "lengths", expected, format!("{:?}", self.lengths)));
        }
        let last = list.len() - 1;
        if let Some(row) = self.signal_rows.iter().find(|row| !list[last].contains(row)) {
            let expected = format!("rows of the query, {:?}", list[last]);
            return Err(problem.refuse(ErrorKind::Parameter, "signal_rows", expected, row));
        }
        let scale = default_scale(self.scale, problem);
        let own: Vec<usize> = list.iter().enumerate().flat_map(|(n, s)| s.clone().map(move |_| n)).collect();
        let op = Attend { causal: true, prefix: list[0].end, ..Attend::new(scale) };
        let start = |i: usize| if own[i] == last { 0 } else { list[own[i]].start };
        softmax_within(plan, op, length, |i| start(i)..i + 1)?;
        let place = |i: usize| match own[i] {
            0 => i,
            n if n == last => QUERY_AT + i - list[n].start,
            n => list[0].end + i - list[n].start,
        };
        self.rank(problem, plan, &list, scale)?;
        index_output(plan, "positions", (0..length).map(place))
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (last, docs) = (self.lengths.len() - 1, self.lengths.len() - 2);
        let mut block = Vec::new();
        let mut positions = Vec::new();
        for (n, &length) in self.lengths.iter().enumerate() {
            let start = if n == 0 {
                0
            } else if n == last {
                16384
            } else {
                self.lengths[0]
            };
            block.extend(vec![n; length]);
            positions.extend((0..length).map(|i| (start + i) as f64));
        }
        let factor = scale(self.scale, q);
        let (out, lse) = attention(q, k, v, factor, &|row, j, s| {
            let (mine, theirs) = (block[row.i], block[j]);
            (j <= row.i && (mine == theirs || theirs == 0 || mine == last)).then_some(s)
        });
        let (batch, heads, rows) = (q.shape[0], q.shape[1], self.signal_rows.len());
        let (mut scores, mut ranking) = (Array::zeros(&[batch, docs]), Array::zeros(&[batch, docs]));
        for b in 0..batch {
            for (h, &i) in (0..heads).flat_map(|h| self.signal_rows.iter().map(move |i| (h, i))) {
                let s: Vec<(usize, f64)> = (0..block.len())
                    .filter(|&j| (1..last).contains(&block[j]))
                    .map(|j| {
                        let key = k.row(&[b, shared_head(h, heads, k), j]);
                        (block[j] - 1, factor * dot(q.row(&[b, h, i]), key))
                    })
                    .collect();
                let m = s.iter().fold(f64::NEG_INFINITY, |m, x| m.max(x.1));
                let total: f64 = s.iter().map(|x| (x.1 - m).exp()).sum();
                for (d, x) in s {
                    scores.row_mut(&[b])[d] += (x - m).exp() / total / (heads * rows) as f64;
                }
            }
            let mut order: Vec<usize> = (0..docs).collect();
            order.sort_by(|&x, &y| scores.get(&[b, y]).total_cmp(&scores.get(&[b, x])).then(x.cmp(&y)));
            ranking.row_mut(&[b]).iter_mut().zip(order).for_each(|(r, d)| *r = d as f64);
        }
        let positions = Array { shape: vec![positions.len()], data: positions };
        vec![("out", out), ("lse", lse), ("doc_scores", scores), ("ranking", ranking), ("positions", positions)]
    }
}
