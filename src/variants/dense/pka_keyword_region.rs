//! The region of an image that a keyword of the prompt attends to.
//!
//! ```text
//! m_p = mean over heads and the keyword's tokens of weights_p     region_p = (m_p − min m)/(max m − min m) > epsilon
//! ```
//!
//! C. Zhou, T. Wei, Y. Chen, W. Zhou, N. Yu, "Rethinking Multi-Condition DiTs: Eliminating Redundant Attention via
//! Position-Alignment and Keyword-Scoping" (PKA), 2026, arXiv 2602.06850, the section on keyword-scoped attention.
//!
//! Kernel `diagnose`: means, extremes and the comparison.
//!
//! Limits: the region of one denoising step serves the next. Where all means are equal the region is empty.

use crate::error::Result;
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::{changed, folded};
use crate::{named, params};

params! {
    /// The region of a keyword.
    pub struct PkaKeywordRegion {
        /// Share of the range of the means from which on a place belongs to the region.
        epsilon: f32 = 0.4,
    }
}

impl Named for PkaKeywordRegion {
    const CARD: Card = Card {
        name: "pka-keyword-region",
        family: Family::Dense,
        summary: "The region of an image that a keyword of the prompt attends to.",
        equation: "region_p = (m_p − min m)/(max m − min m) > epsilon, m_p = mean_ht weights_hpt",
        paper: "Zhou et al., Rethinking Multi-Condition DiTs, 2026, arXiv 2602.06850",
        inputs: &[InputSpec::float("weights", "B H Nn Nk")],
        outputs: &[OutputSpec::flag("region", "B Nn")],
        forms: &["cross"],
        kernels: &["diagnose", "diagnose", "diagnose", "diagnose", "diagnose", "diagnose"],
    };
}

impl Variant for PkaKeywordRegion {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let weights = plan.input("weights")?;
        let of_tokens = folded(plan, "token_mean", Fold::mean(problem.size("Nk")), &weights, Vec::new())?;
        let by_head = of_tokens.permute(&[0, 3, 2, 1]);
        let mean = folded(plan, "mean", Fold::mean(problem.size("H")), &by_head, Vec::new())?.permute(&[0, 1, 3, 2]);
        let high = folded(plan, "high", Fold::max(), &mean, Vec::new())?;
        let minus_low = folded(plan, "minus_low", Fold::max().scaled(-1.0), &mean, Vec::new())?;
        let range = changed(plan, "range", &high, vec![hooks::plus(&minus_low, 1.0)])?;
        let region = plan.output("region")?.insert(1).insert(1);
        let chain = vec![hooks::plus(&minus_low, 1.0), hooks::over(range), hooks::above(self.epsilon, 0.0)];
        plan.fold("region", Fold::each(), &mean, &region, chain)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let weights = inputs.get("weights");
        let [batch, heads, places, tokens] = weights.shape[..] else { panic!("weights have rank 4") };
        let region = Array::zeros(&[batch, places]).map_rows(|at, _| {
            let mean = |p: usize| {
                let sum: f64 = (0..heads).map(|h| weights.row(&[at[0], h, p]).iter().sum::<f64>()).sum();
                sum / (heads * tokens) as f64
            };
            let means: Vec<f64> = (0..places).map(mean).collect();
            let low = means.iter().fold(f64::INFINITY, |low, &m| low.min(m));
            let high = means.iter().fold(f64::NEG_INFINITY, |high, &m| high.max(m));
            let scaled = |m: f64| if high == low { 0.0 } else { (m - low) / (high - low) };
            means.iter().map(|&m| f64::from(u8::from(scaled(m) > f64::from(self.epsilon)))).collect()
        });
        vec![("region", region)]
    }
}
