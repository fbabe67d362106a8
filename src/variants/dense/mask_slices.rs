//! Softmax attention under a mask that is a list of disjoint rectangles, each whole or cut along a diagonal.
//!
//! ```text
//! slice (q0, q1, k0, k1, kind): rows q0 ≤ i < q1 and keys k0 ≤ j < k1, where
//!   kind 0 full: all     1 causal: j − k1 ≤ i − q1     2 inverse causal: j − k0 ≥ i − q0     3 both
//! out_i = Σ_j e^(scale q_i·k_j − lse_i) v_j   over the j of a slice that holds (i, j)
//! ```
//!
//! Z. Tao, Y. Huang, et al., "MagiAttention: A Distributed Attention Towards Linear Scalability for Ultra-Long Context,
//! Heterogeneous Mask Training", 2025 (software), the attention slices.
//!
//! Kernel `attend`, softmax weights; mask hook slices, which looks the pair up in the list.
//!
//! Limits: overlapping slices are refused where the list lies on the host; on a device an overlap counts once. Every
//! pair is scored and searched in the list: with hundreds of slices the search costs as much as the scores. A row
//! without keys has out = 0 and lse = −∞.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, scale};
use crate::plan::{Check, PlanBuilder};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, OUT, Q, V, default_scale, softmax};
use crate::{named, params};

params! {
    /// Softmax attention over a list of rectangles.
    pub struct MaskSlices {
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for MaskSlices {
    const CARD: Card = Card {
        name: "mask-slices",
        family: Family::Dense,
        summary: "Softmax attention under a mask that is a list of disjoint rectangles.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over the slices that hold (i, j)",
        paper: "Tao et al., MagiAttention, 2025 (software)",
        inputs: &[Q, K, V, InputSpec::index("slices", "Ns 5")],
        outputs: &[OUT, LSE],
        forms: &["prefill", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for MaskSlices {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let slices = plan.input("slices")?;
        plan.check(&slices, Check::Disjoint { rows: problem.size("Lq"), keys: problem.size("Lk") });
        softmax(plan, Attend::new(default_scale(self.scale, problem)), vec![hooks::slices(&slices)])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let slices = inputs.get("slices");
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            let (i, j) = (row.i as f64, j as f64);
            let holds = (0..slices.shape[0]).any(|n| {
                let [q0, q1, k0, k1, kind] = slices.row(&[n])[..] else { panic!("five numbers a slice") };
                let causal = j - k0 <= (i - q0) + (k1 - k0) - (q1 - q0);
                let inverse = j - k0 >= i - q0;
                let kind = (causal || kind == 0.0 || kind == 2.0) && (inverse || kind == 0.0 || kind == 1.0);
                q0 <= i && i < q1 && k0 <= j && j < k1 && kind
            });
            holds.then_some(s)
        });
        vec![("out", out), ("lse", lse)]
    }
}
