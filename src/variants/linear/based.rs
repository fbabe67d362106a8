//! Linear attention whose weights are the second-order Taylor polynomial of the exponential, on narrow queries and keys.
//!
//! ```text
//! weight_ij = 1 + s + s²/2, s = q_i·k_j / √D     out_i = Σ_j weight_ij v_j / (Σ_j weight_ij + eps)     j ≤ i if causal
//! weight = φ(q)·φ(k), φ(x) = [1, x / D^¼, x_i² / √(2D), x_i x_j / √D (i < j)]
//! ```
//!
//! S. Arora, S. Eyuboglu, M. Zhang, A. Timalsina, S. Alberti, D. Zinsley, J. Zou, A. Rudra, C. Ré, "Simple linear attention
//! language models balance the recall-throughput tradeoff", ICML 2024, arXiv 2402.18668, section 4.1.
//!
//! Kernels `transform` (compact Taylor map), then `scan` with normaliser sum.
//!
//! Limits: causal needs Lq = Lk. The map has 1 + D + D(D + 1)/2 features: 153 for D = 16. The state is not returned. The
//! window layers that alternate with this one are `based-window`.

use crate::error::{ErrorKind, Result};
use crate::kernel::scan::{Divide, Scan};
use crate::oracle::{Array, Inputs, Outputs, dot, shared_head};
use crate::plan::{PlanBuilder, ScanIo};
use crate::problem::Problem;
use crate::tensor::DType;
use crate::variant::{Card, Family, Named, Variant};
use crate::variants::FeatureMap;
use crate::variants::common::{K, OUT, Q, V, mapped};
use crate::{named, params};

params! {
    /// Based, the linear layer.
    pub struct Based {
        /// Query t sees keys up to t.
        causal: bool = true,
        /// Added to the sum of the weights.
        eps: f32 = 1e-12,
    }
}

impl Named for Based {
    const CARD: Card = Card {
        name: "based",
        family: Family::Linear,
        summary: "Linear attention with the second-order Taylor polynomial of the exponential.",
        equation: "out_i = Σ_j (1 + s_ij + s_ij²/2) v_j / (Σ_j (1 + s_ij + s_ij²/2) + eps), s = q·k / √D",
        paper: "Arora et al., Simple linear attention language models (Based), ICML 2024, arXiv 2402.18668",
        inputs: &[Q, K, V],
        outputs: &[OUT],
        forms: &["prefill", "chunked", "bidirectional", "cross"],
        kernels: &["transform", "scan"],
    };
}

impl Variant for Based {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [lq, lk] = ["Lq", "Lk"].map(|letter| problem.size(letter));
        if self.causal && lq != lk {
            return Err(problem.refuse(ErrorKind::Shape, "k", format!("Lk = Lq = {lq}, being causal"), lk));
        }
        if self.eps < 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "eps", "0 or more", self.eps));
        }
        let [q, k] = ["q", "k"].map(|name| mapped(plan, name, FeatureMap::TaylorCompact));
        let (q, k, out) = (q?, k?, plan.output("out")?);
        let state = [out.shape[0], out.shape[1], k.shape[3], out.shape[3]];
        let state = plan.scratch("state", DType::F32, &state);
        let io = ScanIo::new(&q, &k, &plan.input("v")?, &out, &state);
        let divide = Divide::Sum(self.eps);
        plan.scan("scan", Scan { divide, bidirectional: !self.causal, ..Scan::new(1.0) }, io)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let heads = q.shape[1].max(k.shape[1]).max(v.shape[1]);
        let d = q.shape[3] as f64;
        let mut out = Array::zeros(&[q.shape[0], heads, q.shape[2], v.shape[3]]);
        for (b, h, i) in
            (0..q.shape[0]).flat_map(|b| (0..heads).flat_map(move |h| (0..q.shape[2]).map(move |i| (b, h, i))))
        {
            let head = |x| shared_head(h, heads, x);
            let mut sum = f64::from(self.eps);
            let keys = if self.causal { i + 1 } else { k.shape[2] };
            for j in 0..keys {
                let s = dot(q.row(&[b, head(q), i]), k.row(&[b, head(k), j])) / d.sqrt();
                let weight = 1.0 + s + s * s / 2.0;
                sum += weight;
                let v = v.row(&[b, head(v), j]);
                out.row_mut(&[b, h, i]).iter_mut().zip(v).for_each(|(o, v)| *o += weight * v);
            }
            out.row_mut(&[b, h, i]).iter_mut().for_each(|o| *o /= sum);
        }
        vec![("out", out)]
    }
}
