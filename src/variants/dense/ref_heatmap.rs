//! Where an image answers to a referring phrase: a heat map over the queries from cross-attention weights, sinks and stop words
//! left out.
//!
//! ```text
//! m_ij    = mean_h A_hij
//! sinks_j = Σ_i m_ij / Σ_ij m_ij > sink_share
//! kept_j  = referring_j and not stop_j and not sinks_j
//! heat_i  = (x_i − min x) / (max x − min x), x_i = Σ_(kept j) m_ij     0 where x is constant or nothing is kept
//! ```
//!
//! A. Kukleva, E. Simsar, A. Tonioni et al., "RefAM: Attention Magnets for Zero-Shot Referral Segmentation", 2025, arXiv
//! 2509.22650. The share of 0.3 and the mean are this library's reading.
//!
//! Kernel `diagnose`: sums over heads, rows and columns, flags, and the scaling.
//!
//! Limits: the mean over the kept tokens differs from their sum by a factor that the scaling removes. Segmentation is outside.

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
    /// Heat map of a referring phrase.
    pub struct RefHeatmap {
        /// Share of the whole mass above which a token is a global sink.
        sink_share: f32 = 0.3,
    }
}

impl Named for RefHeatmap {
    const CARD: Card = Card {
        name: "ref-heatmap",
        family: Family::Dense,
        summary: "Heat map of a referring phrase over the queries, sinks and stop words left out.",
        equation: "heat = minmax_i(mean of the kept j of mean_h A_hij)",
        paper: "Kukleva et al., RefAM, 2025, arXiv 2509.22650",
        inputs: &[
            InputSpec::float("weights", "B H Lq Lk"),
            InputSpec::flag("referring", "Lk"),
            InputSpec::flag("stop", "Lk"),
        ],
        outputs: &[
            OutputSpec::float("heat", "B Lq"),
            OutputSpec::flag("sinks", "B Lk"),
            OutputSpec::flag("kept", "B Lk"),
        ],
        forms: &["cross"],
        kernels: &["diagnose"],
    };
}

impl Variant for RefHeatmap {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let weights = plan.input("weights")?.permute(&[0, 2, 3, 1]);
        let mean = folded(plan, "mean", Fold::mean(problem.size("H")), &weights, Vec::new())?.select(3, 0).insert(1);
        let share = folded(plan, "share", Fold::sum(), &mean.permute(&[0, 1, 3, 2]), Vec::new())?;
        let share = share.permute(&[0, 1, 3, 2]);
        let total = folded(plan, "total", Fold::sum(), &share, Vec::new())?;
        let (sinks, kept) = (plan.output("sinks")?.insert(1).insert(1), plan.output("kept")?.insert(1).insert(1));
        plan.fold("sinks", Fold::each(), &share, &sinks, vec![hooks::over(total), hooks::above(self.sink_share, 0.0)])?;
        let referring = plan.input("referring")?.lead(4).broadcast(&kept.shape);
        let chain = vec![hooks::hidden(plan.input("stop")?.lead(4)), hooks::hidden(sinks)];
        plan.fold("kept", Fold::each(), &referring, &kept, chain)?;

        let raw = folded(plan, "raw", Fold::sum(), &mean, vec![hooks::given(kept)])?.permute(&[0, 1, 3, 2]);
        let minus_low = folded(plan, "minus_low", Fold::max().scaled(-1.0), &raw, Vec::new())?;
        let high = folded(plan, "high", Fold::max(), &raw, Vec::new())?;
        let range = changed(plan, "range", &high, vec![hooks::plus(&minus_low, 1.0)])?;
        let heat = plan.output("heat")?.insert(1).insert(1);
        plan.fold("heat", Fold::each(), &raw, &heat, vec![hooks::plus(minus_low, 1.0), hooks::over(range)])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let a = inputs.get("weights");
        let [batch, heads, queries, keys] = a.shape[..] else { panic!("weights have rank 4") };
        let mean = |b: usize, i: usize, j: usize| (0..heads).map(|h| a.get(&[b, h, i, j])).sum::<f64>() / heads as f64;
        let sinks = Array::zeros(&[batch, keys]).map_rows(|at, _| {
            let mass: Vec<f64> = (0..keys).map(|j| (0..queries).map(|i| mean(at[0], i, j)).sum()).collect();
            let total: f64 = mass.iter().sum();
            mass.iter().map(|m| f64::from(u8::from(m / total > f64::from(self.sink_share)))).collect()
        });
        let kept = sinks.map_rows(|_, sinks| {
            let one = |j: usize| inputs.flag("referring", &[j]) && !inputs.flag("stop", &[j]) && sinks[j] == 0.0;
            (0..keys).map(|j| f64::from(u8::from(one(j)))).collect()
        });
        let heat = Array::zeros(&[batch, queries]).map_rows(|at, _| {
            let list: Vec<usize> = (0..keys).filter(|&j| kept.get(&[at[0], j]) == 1.0).collect();
            let x = |i: usize| list.iter().map(|&j| mean(at[0], i, j)).sum::<f64>() / list.len().max(1) as f64;
            let x: Vec<f64> = (0..queries).map(x).collect();
            let (low, high) = x.iter().fold((f64::MAX, f64::MIN), |(l, h), &x| (x.min(l), x.max(h)));
            x.iter().map(|x| if high == low { 0.0 } else { (x - low) / (high - low) }).collect()
        });
        vec![("heat", heat), ("sinks", sinks), ("kept", kept)]
    }
}
