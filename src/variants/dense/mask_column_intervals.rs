//! Softmax attention under a mask that names, for every key, up to two ranges of rows that do not see it.
//!
//! ```text
//! key j is hidden from rows start_0j ≤ i < end_0j and start_1j ≤ i < end_1j, and with `causal` from rows i < j − (Lk − Lq)
//! out_i = Σ_j e^(scale q_i·k_j − lse_i) v_j   over the j that are not hidden from i
//! ```
//!
//! G. Wang, J. Zeng, X. Xiao, S. Wu, J. Yang, L. Zheng, Z. Chen, J. Bian, D. Yu, H. Wang, "FlashMask: Efficient and Rich
//! Mask Extension of FlashAttention", ICLR 2025, arXiv 2410.01359, section 4.1.
//!
//! Kernel `attend`, softmax weights; mask hook intervals.
//!
//! Limits: a range with start ≥ end hides nothing. Causality skips whole tiles, the ranges are tested pair by pair. A
//! row without keys has out = 0 and lse = −∞.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, bottom_right, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, OUT, Q, V, default_scale, softmax};
use crate::{named, params};

params! {
    /// Softmax attention with rows hidden key by key.
    pub struct MaskColumnIntervals {
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for MaskColumnIntervals {
    const CARD: Card = Card {
        name: "mask-column-intervals",
        family: Family::Dense,
        summary: "Softmax attention under a mask of two ranges of hidden rows a key.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over the j whose two ranges do not hold i",
        paper: "Wang et al., FlashMask, ICLR 2025, arXiv 2410.01359",
        inputs: &[Q, K, V, InputSpec::index("intervals", "Lk 2 2")],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for MaskColumnIntervals {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        let hidden = hooks::intervals(&plan.input("intervals")?);
        softmax(plan, op, vec![hidden])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let intervals = inputs.get("intervals");
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            let hidden = (0..2).any(|n| {
                let [start, end] = intervals.row(&[j, n])[..] else { panic!("a start and an end") };
                start <= row.i as f64 && (row.i as f64) < end
            });
            let later = self.causal && j as i64 > bottom_right(row.i, q, k);
            (!hidden && !later).then_some(s)
        });
        vec![("out", out), ("lse", lse)]
    }
}
