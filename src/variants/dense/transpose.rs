//! Cross-covariance attention: the channel half of dual attention, with queries and keys normalised along the tokens.
//!
//! ```text
//! A_cc'  = softmax_c'(Σ_n q̂_nc k̂_nc' / temperature)     q̂_c = q_c / |q_c|₂, k̂_c = k_c / |k_c|₂ (with l2)
//! out_nc = Σ_c' A_cc' v_nc'
//! ```
//!
//! A. El-Nouby, H. Touvron, M. Caron et al., "XCiT: Cross-Covariance Image Transformers", NeurIPS 2021, arXiv 2106.09681,
//! section 3.2; as one half of B. Azad, P. Adibfar, K. Fu, "TransDAE: Dual Attention Mechanism in a Hierarchical
//! Transformer for Efficient Medical Image Segmentation", 2024, arXiv 2409.02018.
//!
//! Kernels: `attend` as a product qᵀk (weights from a table), `diagnose` norms, `transform` softmax, `diagnose` transpose, `attend`
//! as a product. Dense attention on transposed roles, in O(N D²).
//!
//! Limits: noncausal, D up to 512. Published code multiplies by a learned factor a head: 1 / temperature. Norms are at
//! least 1e-12.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs, dot, features};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::{changed, folded, mix_channels, product, scratch};
use crate::{named, params};

params! {
    /// Attention between normalised channels.
    pub struct TransposeAttention {
        /// Divides the scores; above 0.
        temperature: f32 = 1.0,
        /// Queries and keys have norm 1 along the tokens.
        l2: bool = true,
    }
}

impl Named for TransposeAttention {
    const CARD: Card = Card {
        name: "transpose-attention",
        family: Family::Dense,
        summary: "Attention between channels by their cross-covariance.",
        equation: "out_nc = Σ_c' softmax_c'(Σ_m q̂_mc k̂_mc' / temperature) v_nc'",
        paper: "El-Nouby et al., XCiT, NeurIPS 2021, arXiv 2106.09681",
        inputs: &[InputSpec::real("q", "B H L D"), InputSpec::real("k", "B H L D"), InputSpec::real("v", "B H L D")],
        outputs: &[OutputSpec::float("out", "B H L D")],
        forms: &["bidirectional"],
        kernels: &["attend", "diagnose", "transform", "diagnose", "attend"],
    };
}

impl Variant for TransposeAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if self.temperature <= 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "temperature", "a number above 0", self.temperature));
        }
        let (k, v) = (plan.input("k")?, plan.input("v")?);
        let channels = plan.input("q")?.permute(&[0, 1, 3, 2]);
        let mut scores = scratch(plan, "scores", &problem.shape("B H D D")?);
        product(plan, "scores", &channels, &k, 1.0 / self.temperature, &scores, None)?;
        if self.l2 {
            let norm = |plan: &mut PlanBuilder, name, x: &crate::plan::Ref| {
                let squares = folded(plan, name, Fold::sum(), x, vec![hooks::times(x)])?;
                changed(plan, name, &squares, vec![hooks::at_least(1e-24), hooks::power(-0.5)])
            };
            let q_norm = norm(plan, "q_norm", &channels)?;
            let k_norm = norm(plan, "k_norm", &k.permute(&[0, 1, 3, 2]))?;
            let chain = vec![hooks::times(q_norm), hooks::times(k_norm.permute(&[0, 1, 3, 2]))];
            scores = changed(plan, "cosines", &scores, chain)?;
        }
        let out = plan.output("out")?;
        mix_channels(plan, &scores, &v, &out)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let [batch, heads, length, depth] = q.shape[..] else { panic!("q has rank 4") };
        let channel = |x: &Array, at: &[usize], c: usize| -> Vec<f64> {
            let x: Vec<f64> = (0..length).map(|n| x.get(&[at[0], at[1], n, c])).collect();
            let norm = if self.l2 { dot(&x, &x).sqrt().max(1e-12) } else { 1.0 };
            x.iter().map(|x| x / norm).collect()
        };
        let map = Array::zeros(&[batch, heads, depth, depth]).map_rows(|at, _| {
            let own = channel(q, at, at[2]);
            let score = |e: usize| dot(&own, &channel(k, at, e)) / f64::from(self.temperature);
            features::softmax(&(0..depth).map(score).collect::<Vec<_>>())
        });
        let out = v.map_rows(|at, row| (0..depth).map(|c| dot(map.row(&[at[0], at[1], c]), row)).collect());
        vec![("out", out)]
    }
}
