//! One pass over a context and many candidate continuations that do not see each other.
//!
//! ```text
//! layout [context | candidate 1 | candidate 2 ..], bidirectional
//! arrow:  rows of the context see all keys, rows of a candidate the context and that candidate
//! diag:   context and candidates each see only themselves     square: all see all
//! positions: 0 .. c − 1 in the context, every candidate starts again at c
//! out_i = Σ_j e^(scale q_i·k_j − lse_i) v_j   over the j that i sees
//! ```
//!
//! C. Song, H. He, H. Yu, P. Fang, L. Cui, Z. Lan, "Uni-Encoder: A Fast and Accurate Response Selection Paradigm for
//! Generation-Based Dialogue Systems", Findings of ACL 2023, arXiv 2106.01263, section 3.
//!
//! Kernel `attend`, softmax weights: one range of keys a row and a prefix that all see; `diagnose` writes the positions.
//!
//! Limits: position embeddings belong into q and k; `positions` tells which. In one layer a candidate's rows do not depend
//! on the other candidates; in deeper ones they do, through the rows of the context (arrow). The lengths sum to L.

use crate::error::Result;
use crate::kernel::attend::Attend;
use crate::oracle::{Array, Inputs, Outputs, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, Named, OutputSpec, Variant};
use crate::variants::CandidateMode;
use crate::variants::common::{
    K_SELF, LSE_SELF, OUT_SELF, Q_SELF, V_SELF, default_scale, index_output, segments, softmax_within,
};
use crate::{named, params};

params! {
    /// Softmax attention over a context and candidates.
    pub struct CandidateIsolation {
        /// Tokens of the context.
        context_len: usize = 8,
        /// Tokens of each candidate.
        candidate_lengths: Vec<usize> = vec![3, 3],
        /// Who sees whom.
        mode: CandidateMode = CandidateMode::Arrow,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for CandidateIsolation {
    const CARD: Card = Card {
        name: "candidate-isolation",
        family: Family::Dense,
        summary: "Softmax attention over a context and candidates that do not see each other.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over the context and i's own candidate",
        paper: "Song et al., Uni-Encoder, Findings of ACL 2023, arXiv 2106.01263",
        inputs: &[Q_SELF, K_SELF, V_SELF],
        outputs: &[OUT_SELF, LSE_SELF, OutputSpec::index("positions", "L")],
        forms: &["bidirectional"],
        kernels: &["attend", "diagnose"],
    };
}

impl Variant for CandidateIsolation {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (length, context) = (problem.size("L"), self.context_len);
        let lengths = [&[context], &self.candidate_lengths[..]].concat();
        let list = segments(problem, "candidate_lengths", &lengths, length)?;
        let own: Vec<usize> = list.iter().enumerate().flat_map(|(n, s)| s.clone().map(move |_| n)).collect();
        let arrow = self.mode == CandidateMode::Arrow;
        let op = Attend { prefix: if arrow { context } else { 0 }, ..Attend::new(default_scale(self.scale, problem)) };
        softmax_within(plan, op, length, |i| match self.mode {
            CandidateMode::Square => 0..length,
            CandidateMode::Arrow if own[i] == 0 => 0..length,
            _ => list[own[i]].clone(),
        })?;
        let place = |i: usize| if own[i] == 0 { i } else { context + i - list[own[i]].start };
        index_output(plan, "positions", (0..length).map(place))
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let mut owner = vec![0; self.context_len];
        let mut positions: Vec<f64> = (0..self.context_len).map(|i| i as f64).collect();
        for (n, &length) in self.candidate_lengths.iter().enumerate() {
            owner.extend(vec![n + 1; length]);
            positions.extend((0..length).map(|i| (self.context_len + i) as f64));
        }
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            let (mine, theirs) = (owner[row.i], owner[j]);
            let sees = match self.mode {
                CandidateMode::Arrow => mine == 0 || theirs == 0 || mine == theirs,
                CandidateMode::Diag => mine == theirs,
                CandidateMode::Square => true,
            };
            sees.then_some(s)
        });
        vec![("out", out), ("lse", lse), ("positions", Array { shape: vec![positions.len()], data: positions })]
    }
}
