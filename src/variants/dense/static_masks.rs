//! Softmax self-attention under one of the twelve static masks that long-context training meets.
//!
//! ```text
//! full                  every key                          causal                 j ≤ i
//! sliding_window        |i − j| ≤ window                   sliding_window_causal  i − window ≤ j ≤ i
//! full_document         the row's segment                  causal_document        the row's segment, j ≤ i
//! share_question        causal in the row's segment, and all of segment 0
//! causal_blockwise      causal in the row's segment; rows of the last segment see every earlier key
//! prefix_lm_causal      j ≤ i or j < prefix                prefix_lm_document     the same inside each segment
//! global_sliding_window |i − j| ≤ window, or i or j < n_global
//! block_causal_document the row's segment up to the end of the row's block of `block` tokens
//! out_i = Σ_j e^(scale q_i·k_j − lse_i) v_j   over those j
//! ```
//!
//! T. Bu, Q. Wang, B. Zeng, H. Sun, Y. Huang, C. Cao, J. Xu, "Long-Context Attention Benchmark: From Kernel Efficiency to
//! Distributed Context Parallelism", ICLR 2026, arXiv 2510.17896, its static mask patterns. The number of global tokens is
//! a parameter here.
//!
//! Kernel `attend`, softmax weights. Each pattern is one range of keys a row, made with the plan, and a prefix that all
//! rows see: no pair is masked one by one, and tiles outside the ranges are not touched.
//!
//! Limits: `lengths` sum to L; absent, all tokens are one segment. Segments of length 0 are allowed.

use crate::error::{ErrorKind, Result};
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, Named, Variant};
use crate::variants::MaskPattern;
use crate::variants::common::{K_SELF, LSE_SELF, OUT_SELF, Q_SELF, V_SELF, default_scale, segments, softmax_within};
use crate::{named, params};
use std::ops::Range;

params! {
    /// Softmax attention under a static mask.
    pub struct StaticMaskPatterns {
        /// The mask.
        pattern: MaskPattern = MaskPattern::Causal,
        /// Lengths of the segments, in order; absent: one segment.
        lengths: Option<Vec<usize>> = None,
        /// Keys seen on each side, the own one excluded.
        window: usize = 4,
        /// First tokens that see all and are seen by all.
        n_global: usize = 2,
        /// First tokens, of all or of each segment, that are seen whatever the order.
        prefix: usize = 3,
        /// Tokens of a block.
        block: usize = 4,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for StaticMaskPatterns {
    const CARD: Card = Card {
        name: "static-mask-patterns",
        family: Family::Dense,
        summary: "Softmax attention under one of twelve static masks.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over a prefix and start_i ≤ j < end_i",
        paper: "Bu et al., Long-Context Attention Benchmark, ICLR 2026, arXiv 2510.17896",
        inputs: &[Q_SELF, K_SELF, V_SELF],
        outputs: &[OUT_SELF, LSE_SELF],
        forms: &["prefill", "bidirectional"],
        kernels: &["attend"],
    };
}

impl StaticMaskPatterns {
    fn of(&self, length: usize) -> Vec<usize> {
        self.lengths.clone().unwrap_or_else(|| vec![length])
    }
}

impl Variant for StaticMaskPatterns {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        use MaskPattern as P;
        let length = problem.size("L");
        if self.block == 0 {
            return Err(problem.refuse(ErrorKind::Parameter, "block", "1 or more", 0));
        }
        let list = segments(problem, "lengths", &self.of(length), length)?;
        let own: Vec<usize> = list.iter().enumerate().flat_map(|(n, s)| s.clone().map(move |_| n)).collect();
        let of = |i: usize| list[own[i]].clone();
        let until = |i: usize, keys: Range<usize>| keys.start..keys.end.min(i + 1);
        let near =
            |i: usize| i.saturating_sub(self.window)..i.saturating_add(self.window).saturating_add(1).min(length);
        let op = Attend {
            // A prefix is still cut by causality: the question's own rows see it causally.
            causal: self.pattern == P::ShareQuestion,
            prefix: match self.pattern {
                P::ShareQuestion => list.first().map_or(0, |question| question.end),
                P::GlobalSlidingWindow => self.n_global,
                _ => 0,
            },
            ..Attend::new(default_scale(self.scale, problem))
        };
        softmax_within(plan, op, length, |i| match self.pattern {
            P::Full => 0..length,
            P::Causal => 0..i + 1,
            P::SlidingWindow => near(i),
            P::SlidingWindowCausal => until(i, near(i)),
            P::FullDocument => of(i),
            P::CausalDocument | P::ShareQuestion => until(i, of(i)),
            P::CausalBlockwise if own[i] + 1 == list.len() => 0..i + 1,
            P::CausalBlockwise => until(i, of(i)),
            P::PrefixLmCausal => 0..self.prefix.clamp(i + 1, length.max(i + 1)),
            P::PrefixLmDocument => {
                let open = of(i).start.saturating_add(self.prefix).min(of(i).end);
                of(i).start..open.max(i + 1)
            }
            P::GlobalSlidingWindow if i < self.n_global => 0..length,
            P::GlobalSlidingWindow => near(i),
            P::BlockCausalDocument => {
                let blocks = (i - of(i).start) / self.block + 1;
                of(i).start..of(i).start.saturating_add(blocks.saturating_mul(self.block)).min(of(i).end)
            }
        })
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        use MaskPattern as P;
        let [q, k, v] = inputs.qkv();
        let lengths = self.of(q.shape[2]);
        // Segment of every token, and its place in it.
        let places: Vec<(usize, usize)> =
            lengths.iter().enumerate().flat_map(|(n, &length)| (0..length).map(move |at| (n, at))).collect();
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            let i = row.i;
            let ((segment, place), (of_key, key_place)) = (places[i], places[j]);
            let (causal, same, near) = (j <= i, segment == of_key, i.abs_diff(j) <= self.window);
            let allowed = match self.pattern {
                P::Full => true,
                P::Causal => causal,
                P::SlidingWindow => near,
                P::SlidingWindowCausal => causal && near,
                P::FullDocument => same,
                P::CausalDocument => causal && same,
                P::ShareQuestion => causal && (same || of_key == 0),
                P::CausalBlockwise => causal && (same || segment == lengths.len() - 1),
                P::PrefixLmCausal => causal || j < self.prefix,
                P::PrefixLmDocument => same && (causal || key_place < self.prefix),
                P::GlobalSlidingWindow => near || i < self.n_global || j < self.n_global,
                P::BlockCausalDocument => same && key_place / self.block <= place / self.block,
            };
            allowed.then_some(s)
        });
        vec![("out", out), ("lse", lse)]
    }
}
