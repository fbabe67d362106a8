//! Attention between channels: tokens are the feature axis, so that the cost is linear in their number.
//!
//! ```text
//! A_cc'  = softmax_c'(scale Σ_n k_nc v_nc')
//! out_nc = Σ_c' A_cc' q_nc'
//! ```
//!
//! M. Ding, B. Xiao, N. Codella, P. Luo, J. Wang, L. Yuan, "DaViT: Dual Attention Vision Transformers", ECCV 2022, arXiv
//! 2204.03645, section 3.2. The scale is that of the first published version; later ports use N^-1/2.
//!
//! Kernels: `attend` as a product kᵀv (weights from a table), `transform` softmax, `diagnose` transpose, `attend` as a product.
//! It is dense attention with queries kᵀ, keys vᵀ and values qᵀ, in O(N D²).
//!
//! Limits: noncausal; padded tokens must be 0 in k and v; H counts channel groups, D up to 512.

use crate::error::Result;
use crate::oracle::{Array, Inputs, Outputs, dot, features, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::default_scale;
use crate::variants::steps::{mix_channels, product, scratch};
use crate::{named, params};

params! {
    /// Attention between channels.
    pub struct ChannelAttention {
        /// Factor of the scores; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for ChannelAttention {
    const CARD: Card = Card {
        name: "channel-attention",
        family: Family::Dense,
        summary: "Attention between channels, linear in the number of tokens.",
        equation: "out_nc = Σ_c' softmax_c'(scale Σ_m k_mc v_mc') q_nc'",
        paper: "Ding et al., DaViT: Dual Attention Vision Transformers, ECCV 2022, arXiv 2204.03645",
        inputs: &[InputSpec::real("q", "B H L D"), InputSpec::real("k", "B H L D"), InputSpec::real("v", "B H L D")],
        outputs: &[OutputSpec::float("out", "B H L D")],
        forms: &["bidirectional"],
        kernels: &["attend", "transform", "diagnose", "attend"],
    };
}

impl Variant for ChannelAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (q, k, v) = (plan.input("q")?, plan.input("k")?, plan.input("v")?);
        let scores = scratch(plan, "scores", &problem.shape("B H D D")?);
        let factor = default_scale(self.scale, problem);
        product(plan, "scores", &k.permute(&[0, 1, 3, 2]), &v, factor, &scores, None)?;
        let out = plan.output("out")?;
        mix_channels(plan, &scores, &q, &out)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let [batch, heads, length, depth] = q.shape[..] else { panic!("q has rank 4") };
        let scale = scale(self.scale, q);
        let map = Array::zeros(&[batch, heads, depth, depth]).map_rows(|at, _| {
            let sum = |e: usize| -> f64 {
                let of = |n: usize| k.get(&[at[0], at[1], n, at[2]]) * v.get(&[at[0], at[1], n, e]);
                (0..length).map(of).sum()
            };
            features::softmax(&(0..depth).map(|e| scale * sum(e)).collect::<Vec<_>>())
        });
        let out = q.map_rows(|at, row| (0..depth).map(|c| dot(map.row(&[at[0], at[1], c]), row)).collect());
        vec![("out", out)]
    }
}
