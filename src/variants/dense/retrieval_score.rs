//! Which heads copy a planted answer out of the context while it is generated.
//!
//! ```text
//! hit at step t of head h: one of the top_k keys j of the row, needle_start ≤ j < needle_end, has context_j = generated_t
//! hits_h = Σ_t hit_th     score_h = hits_h / (needle_end − needle_start)
//! ```
//!
//! W. Wu, Y. Wang, G. Xiao, H. Peng, Y. Fu, "Retrieval Head Mechanistically Explains Long-Context Factuality", ICLR 2025,
//! arXiv 2404.15574, section 2.1.
//!
//! Kernels: `select` for the largest weights of each row (ties to the lower index), `diagnose` for matches and sums.
//!
//! Limits: at most one hit a step and head, as the release has it; averaging over runs and leaving out those that do not
//! recall the needle are outside. Token numbers below 2²⁴.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::select::TopK;
use crate::oracle::{Array, Inputs, Outputs, top_k};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::folded;
use crate::{named, params};

params! {
    /// Retrieval score of heads.
    pub struct RetrievalScore {
        /// First token of the needle.
        needle_start: usize = 4,
        /// One past its last token.
        needle_end: usize = 9,
        /// Keys of a row that count, 1 or more.
        top_k: usize = 1,
    }
}

impl Named for RetrievalScore {
    const CARD: Card = Card {
        name: "retrieval-score",
        family: Family::Dense,
        summary: "How much of a planted answer each head copies out of the context.",
        equation: "score_h = Σ_t [a top key of row t lies in the needle and is the generated token] / length",
        paper: "Wu et al., Retrieval Head, ICLR 2025, arXiv 2404.15574",
        inputs: &[
            InputSpec::float("weights", "T H Lk"),
            InputSpec::index("context_ids", "Lk"),
            InputSpec::index("generated_ids", "T"),
        ],
        outputs: &[OutputSpec::float("score", "H"), OutputSpec::float("hits", "H")],
        forms: &["decode"],
        kernels: &["select", "diagnose"],
    };
}

impl Variant for RetrievalScore {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (keys, start, end) = (problem.size("Lk"), self.needle_start, self.needle_end);
        if start >= end || end > keys {
            let expected = format!("needle_start < needle_end <= Lk = {keys}");
            return Err(problem.refuse(ErrorKind::Parameter, "needle_end", expected, format!("{start} and {end}")));
        }
        if self.top_k == 0 {
            return Err(problem.refuse(ErrorKind::Parameter, "top_k", "1 or more", 0));
        }
        let (steps, heads, needle) = (problem.size("T"), problem.size("H"), end - start);
        let places = self.top_k.min(keys);
        let top = plan.scratch("top", DType::I32, &[steps, heads, 1, places]);
        plan.top_k("top", TopK::plain(), &plan.input("weights")?.insert(2), None, &top)?;

        let generated = plan.input("generated_ids")?.insert(1).insert(1).insert(1);
        let context = plan.input("context_ids")?.narrow(0, start, needle).lead(4).permute(&[0, 1, 3, 2]);
        // A match of the token, (T, 1, needle, 1), and of the place.
        let same = crate::variants::steps::changed(
            plan,
            "same",
            &context.broadcast(&[steps, 1, needle, 1]),
            vec![hooks::equals(generated)],
        )?;
        let place = HostTensor::from_fn(&[1, 1, needle, 1], |n| (start + n) as f32);
        let place = plan.constant("place", place);
        let chain = vec![hooks::equals(place), hooks::times(same)];
        let found = folded(plan, "found", Fold::max(), &top.broadcast(&[steps, heads, needle, places]), chain)?;
        let hit = folded(plan, "hit", Fold::max(), &found.permute(&[0, 1, 3, 2]), Vec::new())?;
        let (score, hits) = (plan.output("score")?, plan.output("hits")?);
        plan.fold("hits", Fold::sum(), &hit.permute(&[2, 3, 1, 0]), &hits.insert(1), Vec::new())?;
        plan.fold("score", Fold::each().scaled(1.0 / needle as f32), &hits, &score, Vec::new())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let (a, context, generated) = (inputs.get("weights"), inputs.get("context_ids"), inputs.get("generated_ids"));
        let [steps, heads, _] = a.shape[..] else { panic!("weights have rank 3") };
        let hit = |t: usize, h: usize| {
            let inside = |j: &usize| (self.needle_start..self.needle_end).contains(j);
            let same = |j: usize| context.get(&[j]) == generated.get(&[t]);
            top_k(a.row(&[t, h]), self.top_k).into_iter().filter(inside).any(same)
        };
        let hits: Vec<f64> = (0..heads).map(|h| (0..steps).filter(|&t| hit(t, h)).count() as f64).collect();
        let length = (self.needle_end - self.needle_start) as f64;
        let score = Array { shape: vec![heads], data: hits.iter().map(|n| n / length).collect() };
        vec![("score", score), ("hits", Array { shape: vec![heads], data: hits })]
    }
}
