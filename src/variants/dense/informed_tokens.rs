//! Which image tokens inform: outliers of a late layer (summary) and the strongest of the first layer (local).
//!
//! ```text
//! x_j       = Σ_h late_hj     summary_j = x_j > Q3 + 1.5 (Q3 − Q1)     quartiles with linear interpolation
//! y_j       = Σ_h first_hj    local_j   = y_j among the ⌊local_ratio Ni⌋ largest, and not summary_j
//! ```
//!
//! K. M. Arif, S. S. Sheikh, T. Tasnim et al., "Fixing Imbalanced Attention to Mitigate In-Context Hallucination of Large
//! Vision-Language Model", 2025, arXiv 2501.12206, section 3; inputs are the class token's attention in the vision encoder.
//!
//! Kernel `diagnose`: sums over heads; ranks by counting; a quartile is a sum of the numbers, weighted by how near their
//! ranks are to its place.
//!
//! Limits: O(Ni²) comparisons, hundreds of tokens. Ties go to the lower index.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs, top_k};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::{changed, folded, rank_below, ranks};
use crate::{named, params};

params! {
    /// Selection of informed tokens.
    pub struct InformedTokens {
        /// Share of the tokens that may be local, 0 to 1.
        local_ratio: f32 = 0.25,
    }
}

impl Named for InformedTokens {
    const CARD: Card = Card {
        name: "informed-tokens",
        family: Family::Dense,
        summary: "Summary tokens (outliers of a late layer) and local tokens (strongest of the first layer) of an image.",
        equation: "summary = x > Q3 + 1.5 (Q3 − Q1), local = top ⌊ratio Ni⌋ of y without summary",
        paper: "Arif et al., Fixing Imbalanced Attention, 2025, arXiv 2501.12206",
        inputs: &[InputSpec::float("first_layer", "B Hv Ni"), InputSpec::float("late_layer", "B Hv Ni")],
        outputs: &[OutputSpec::flag("local", "B Ni"), OutputSpec::flag("summary", "B Ni")],
        forms: &["prefill"],
        kernels: &["diagnose"],
    };
}

impl Variant for InformedTokens {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if !(0.0..=1.0).contains(&self.local_ratio) {
            return Err(problem.refuse(ErrorKind::Parameter, "local_ratio", "a number from 0 to 1", self.local_ratio));
        }
        let count = problem.size("Ni");
        // (B, 1, 1, Ni) of both layers, summed over the heads.
        let sum = |plan: &mut PlanBuilder, name: &str| -> Result<Ref> {
            let heads = plan.input(name)?.permute(&[0, 2, 1]).insert(1);
            Ok(folded(plan, name, Fold::sum(), &heads, Vec::new())?.permute(&[0, 1, 3, 2]))
        };
        let (late, first) = (sum(plan, "late_layer")?, sum(plan, "first_layer")?);
        let flat = |x: &Ref| x.select(1, 0).select(1, 0);
        let (late_rank, first_rank) = (
            ranks(plan, "late_rank", &flat(&late), Vec::new())?,
            ranks(plan, "first_rank", &flat(&first), Vec::new())?,
        );
        let quartile = |plan: &mut PlanBuilder, name, from_top: f32| {
            let place = from_top * (count - 1) as f32;
            folded(
                plan,
                name,
                Fold::sum(),
                &late_rank,
                vec![hooks::plus(-place, 1.0), hooks::hat(), hooks::times(&late)],
            )
        };
        let (upper, lower) = (quartile(plan, "q3", 0.25)?, quartile(plan, "q1", 0.75)?);
        let fence = changed(plan, "fence", &upper, vec![hooks::times(2.5), hooks::plus(lower, -1.5)])?;
        let (local, summary) = (plan.output("local")?.insert(1).insert(1), plan.output("summary")?.insert(1).insert(1));
        plan.fold("summary", Fold::each(), &late, &summary, vec![hooks::above(fence, 0.0)])?;
        let mut chain = rank_below(self.places(count));
        chain.push(hooks::hidden(summary));
        plan.fold("local", Fold::each(), &first_rank, &local, chain)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let sum = |name: &str| {
            let x = inputs.get(name);
            let [batch, heads, count] = x.shape[..] else { panic!("layers have rank 3") };
            Array::zeros(&[batch, count])
                .map_rows(|at, row| (0..row.len()).map(|j| (0..heads).map(|h| x.get(&[at[0], h, j])).sum()).collect())
        };
        let summary = sum("late_layer").map_rows(|_, x| {
            let mut order = x.to_vec();
            order.sort_by(f64::total_cmp);
            let quartile = |share: f64| {
                let place = share * (x.len() - 1) as f64;
                let (low, high) = (place.floor() as usize, place.ceil() as usize);
                order[low] + (place - place.floor()) * (order[high] - order[low])
            };
            let fence = quartile(0.75) + 1.5 * (quartile(0.75) - quartile(0.25));
            x.iter().map(|x| f64::from(u8::from(*x > fence))).collect()
        });
        let local = sum("first_layer").map_rows(|at, y| {
            let best = top_k(y, self.places(y.len()));
            let one = |j: usize| best.contains(&j) && summary.get(&[at[0], j]) == 0.0;
            (0..y.len()).map(|j| f64::from(u8::from(one(j)))).collect()
        });
        vec![("local", local), ("summary", summary)]
    }
}

impl InformedTokens {
    /// ⌊local_ratio · count⌋, of the ratio as it is written: 0.7 is not 0.69999999.
    fn places(&self, count: usize) -> usize {
        let ratio: f64 = format!("{}", self.local_ratio).parse().unwrap_or(f64::from(self.local_ratio));
        (ratio * count as f64).floor() as usize
    }
}
