//! Softmax attention over every allowed pair: the baseline that everything else is checked against.
//!
//! ```text
//! s_ij  = cap · tanh(scale q_i·k_j / cap) + bias_ij           the cap only with `softcap`, the bias only with `bias`
//! out_i = Σ_j e^(s_ij − lse_i) v_j     lse_i = ln Σ_j e^(s_ij)     over the allowed j
//! causal: j ≤ i'     window: i' − left ≤ j ≤ i' + right     i' = i + Lk − Lq (bottom right) or i (top left)
//! sink:   lse'_i = ln(e^lse_i + Σ_s e^sink_hs)     out'_i = e^(lse_i − lse'_i) out_i
//! ```
//!
//! A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez, Ł. Kaiser, I. Polosukhin, "Attention Is All
//! You Need", NeurIPS 2017, arXiv 1706.03762, section 3.2.1. The four patterns: J. Zhang, S. Jiang, J. Feng, L. Zheng,
//! L. Kong, "CAB: Comprehensive Attention Benchmarking on Long Sequence Modeling", ICML 2023, arXiv 2210.07661.
//!
//! Kernel `attend`, softmax weights; score hooks softcap and bias, mask hooks causal, window, rows, positions, mask
//! and lengths.
//!
//! Limits: every restriction that is given holds at once. `pos_q` and `pos_k` take the place of i' and j (each
//! defaults to them), and giving one makes the attention causal. Keys at or beyond `lengths[b]` are not allowed, and
//! bottom right then means `i + lengths[b] − Lq`. A row without keys has out = 0 and lse = −∞ (lse = sink with sinks).

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, Row, attention, scale, with_sink};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{BIAS, K, LENGTHS, LSE, MASK, OUT, Q, V, attend_io, default_scale, lengths, softcap};
use crate::variants::{Align, Pattern};
use crate::{named, params};

params! {
    /// Softmax attention with every option of the dense family.
    pub struct DenseAttention {
        /// Self or cross attention, causal or not.
        pattern: Pattern = Pattern::NoncausalCross,
        /// Where query i sits on the axis of the keys.
        align: Align = Align::BottomRight,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
        /// Scores are bounded to (−softcap, softcap) before bias and mask; absent: unbounded.
        softcap: Option<f32> = None,
        /// Keys seen before the query's own place; absent: all.
        window_left: Option<usize> = None,
        /// Keys seen after the query's own place; absent: all.
        window_right: Option<usize> = None,
    }
}

impl Named for DenseAttention {
    const CARD: Card = Card {
        name: "dense-attention",
        family: Family::Dense,
        summary: "Softmax attention over every allowed pair.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j + bias_ij) v_j",
        paper: "Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv 1706.03762",
        inputs: &[
            Q,
            K,
            V,
            MASK,
            BIAS,
            InputSpec::float("sink", "H | H S").optional(),
            InputSpec::index("row_start", "Lq").optional(),
            InputSpec::index("row_end", "Lq").optional(),
            InputSpec::index("pos_q", "Lq").optional(),
            InputSpec::index("pos_k", "Lk").optional(),
            LENGTHS,
        ],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for DenseAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let full = problem.shape("B H Lq Lk")?;
        let (pos_q, pos_k) = (plan.optional("pos_q"), plan.optional("pos_k"));
        let by_position = pos_q.is_some() || pos_k.is_some();
        let mut hooks = Vec::new();
        if let Some(cap) = self.softcap {
            hooks.push(softcap(problem, "softcap", cap)?);
        }
        hooks.extend(plan.optional("bias").map(|bias| hooks::bias(bias.broadcast(&full))));
        hooks.extend(plan.optional("mask").map(|mask| hooks::given(mask.broadcast(&full))));
        if by_position {
            let pos_q = pos_q.map(|r| r.insert(1).insert(0).insert(0));
            let pos_k = pos_k.map(|r| r.insert(0).insert(0).insert(0));
            hooks.push(hooks::positions(pos_q, pos_k, self.window_left, self.window_right));
        }
        let op = Attend {
            bottom_right: self.align == Align::BottomRight,
            causal: self.pattern.is_causal() && !by_position,
            window_left: self.window_left.filter(|_| !by_position),
            window_right: self.window_right.filter(|_| !by_position),
            ..Attend::new(default_scale(self.scale, problem))
        };
        let mut io = attend_io(plan)?;
        io.lse = Some(plan.output("lse")?);
        io.sink = plan.optional("sink");
        io.row_start = plan.optional("row_start").map(|r| r.insert(1).insert(0).insert(0));
        io.row_end = plan.optional("row_end").map(|r| r.insert(1).insert(0).insert(0));
        io.lengths = lengths(problem, plan);
        plan.attend("attend", op, io, hooks)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (lq, lk) = (q.shape[2] as f64, k.shape[2] as f64);
        let causal = self.pattern.is_causal() || inputs.find("pos_q").is_some() || inputs.find("pos_k").is_some();
        let left = self.window_left.map_or(f64::INFINITY, |n| n as f64);
        let right = self.window_right.map_or(f64::INFINITY, |n| n as f64);
        let cap = self.softcap.map(f64::from);
        let pairs = |Row { b, h, i }: Row, j: usize, s: f64| {
            let keys = inputs.number("lengths", &[b], lk);
            let shift = if self.align == Align::BottomRight { keys - lq } else { 0.0 };
            let p = inputs.number("pos_q", &[i], i as f64 + shift);
            let t = inputs.number("pos_k", &[j], j as f64);
            let start = inputs.number("row_start", &[i], 0.0);
            let end = inputs.number("row_end", &[i], lk).min(keys);
            let ordered = (!causal || t <= p) && p - left <= t && t <= p + right;
            let listed = start <= j as f64 && (j as f64) < end;
            let s = cap.map_or(s, |cap| cap * (s / cap).tanh()) + inputs.number("bias", &[b, h, i, j], 0.0);
            (ordered && listed && inputs.flag("mask", &[b, h, i, j])).then_some(s)
        };
        let result = attention(q, k, v, scale(self.scale, q), &pairs);
        let (out, lse) = with_sink(result, inputs.find("sink"));
        vec![("out", out), ("lse", lse)]
    }
}
