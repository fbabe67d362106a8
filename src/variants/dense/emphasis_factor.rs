//! Factors of attention weights for the visual tokens that matter, modulated by how much a head looks at the image.
//!
//! ```text
//! selected_j    = visual_j and j among the top_local of local_score or the top_spatial of spatial_score (of visual tokens)
//! s_h           = mean_i Σ_(visual j) A_hij
//! head_factor_h = 1 + head_gain (s_h − mean s) / max |s − mean s|
//! factor_hj     = 1 + gain head_factor_h for selected j, else 1
//! ```
//!
//! K. M. Arif, S. S. Sheikh, T. Tasnim et al., "Fixing Imbalanced Attention to Mitigate In-Context Hallucination of Large
//! Vision-Language Model", 2025, arXiv 2501.12206, abstract. The rule is this library's reading: the published code has
//! no term a head.
//!
//! Kernel `diagnose`: masses, ranks by counting, and the arithmetic. The factor is an input of `token-emphasis-attention`.
//!
//! Limits: O(Lk²) comparisons. Where all heads look alike the head factors are 1. Ties go to the lower index.

use crate::error::Result;
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs, top_k};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::{changed, folded, rank_below, ranks};
use crate::{named, params};

params! {
    /// Factors for visual tokens.
    pub struct EmphasisFactor {
        /// Tokens taken by their local score.
        top_local: usize = 4,
        /// Tokens taken by their spatial score.
        top_spatial: usize = 4,
        /// What a factor adds to 1.
        gain: f32 = 0.5,
        /// How far heads differ.
        head_gain: f32 = 0.3,
    }
}

impl Named for EmphasisFactor {
    const CARD: Card = Card {
        name: "emphasis-factor",
        family: Family::Dense,
        summary: "Factors of attention weights for visual tokens, modulated by how much a head looks at the image.",
        equation: "factor_hj = 1 + gain (1 + head_gain (s_h − mean s) / max |s − mean s|) for selected j",
        paper: "Arif et al., Fixing Imbalanced Attention, 2025, arXiv 2501.12206",
        inputs: &[
            InputSpec::float("weights", "B H Lq Lk"),
            InputSpec::flag("visual", "Lk"),
            InputSpec::float("local_score", "Lk"),
            InputSpec::float("spatial_score", "Lk"),
        ],
        outputs: &[
            OutputSpec::float("factor", "B H 1 Lk"),
            OutputSpec::flag("selected", "Lk"),
            OutputSpec::float("head_factor", "B H"),
        ],
        forms: &["prefill"],
        kernels: &["diagnose"],
    };
}

impl Variant for EmphasisFactor {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let visual = hooks::given(plan.input("visual")?.lead(4));
        let mass = folded(plan, "mass", Fold::sum(), &plan.input("weights")?, vec![visual.clone()])?;
        let looks = folded(plan, "looks", Fold::mean(problem.size("Lq")), &mass.permute(&[0, 1, 3, 2]), Vec::new())?;
        let heads = looks.permute(&[0, 2, 3, 1]);
        let mean = folded(plan, "mean", Fold::mean(problem.size("H")), &heads, Vec::new())?;
        let from_mean = || hooks::plus(&mean, -1.0);
        let most = folded(plan, "most", Fold::max(), &heads, vec![from_mean(), hooks::magnitude()])?;
        let head_factor = plan.output("head_factor")?;
        let chain = vec![from_mean(), hooks::over(most), hooks::times(self.head_gain), hooks::plus(1.0, 1.0)];
        plan.fold("head_factor", Fold::each(), &heads, &head_factor.insert(1).insert(1), chain)?;

        let mut taken = Vec::new();
        for (name, count) in [("local_score", self.top_local), ("spatial_score", self.top_spatial)] {
            let score = plan.input(name)?.insert(0);
            let rank = ranks(plan, name, &score, vec![visual.clone()])?;
            taken.push(changed(plan, "taken", &rank, rank_below(count))?);
        }
        let (factor, selected) = (plan.output("factor")?, plan.output("selected")?);
        let chain = vec![hooks::plus(&taken[1], 1.0), hooks::above(0.5, 0.0), visual];
        plan.fold("selected", Fold::each(), &taken[0], &selected, chain)?;
        let by_head = head_factor.insert(2).insert(3).broadcast(&factor.shape);
        let chain = vec![hooks::times(selected.lead(4)), hooks::plus(1.0, 1.0)];
        plan.fold("factor", Fold::each().scaled(self.gain), &by_head, &factor, chain)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let a = inputs.get("weights");
        let [batch, heads, queries, keys] = a.shape[..] else { panic!("weights have rank 4") };
        let visual: Vec<usize> = (0..keys).filter(|&j| inputs.flag("visual", &[j])).collect();
        let best = |name: &str, count: usize| -> Vec<usize> {
            let score: Vec<f64> = visual.iter().map(|&j| inputs.get(name).get(&[j])).collect();
            top_k(&score, count).into_iter().map(|n| visual[n]).collect()
        };
        let taken = [best("local_score", self.top_local), best("spatial_score", self.top_spatial)].concat();
        let flags = (0..keys).map(|j| f64::from(u8::from(taken.contains(&j)))).collect();
        let selected = Array { shape: vec![keys], data: flags };
        let head_factor = Array::zeros(&[batch, heads]).map_rows(|at, _| {
            let row = |h: usize, i: usize| visual.iter().map(|&j| a.get(&[at[0], h, i, j])).sum::<f64>();
            let s: Vec<f64> =
                (0..heads).map(|h| (0..queries).map(|i| row(h, i)).sum::<f64>() / queries as f64).collect();
            let mean = s.iter().sum::<f64>() / heads as f64;
            let most = s.iter().fold(0.0, |m: f64, s| m.max((s - mean).abs()));
            let share = |s: &f64| if most == 0.0 { 0.0 } else { (s - mean) / most };
            s.iter().map(|s| 1.0 + f64::from(self.head_gain) * share(s)).collect()
        });
        let factor = Array::zeros(&[batch, heads, 1, keys]).map_rows(|at, _| {
            let one = |s: &f64| 1.0 + s * f64::from(self.gain) * head_factor.get(&at[..2]);
            selected.data.iter().map(one).collect()
        });
        vec![("factor", factor), ("selected", selected), ("head_factor", head_factor)]
    }
}
