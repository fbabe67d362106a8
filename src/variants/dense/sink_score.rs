//! Which tokens are attention sinks, from maps: the mean weight on a token of the rows that see it.
//!
//! ```text
//! importance_t = Σ_(i ≥ t) A_it / (L − t)     a head and token
//! sink_rate_t  = share of the heads with importance_t > epsilon
//! ```
//!
//! "On the Existence and Behaviour of Secondary Attention Sinks", 2025; the score is the usual one of X. Gu, T. Pang, C. Du
//! et al., "When Attention Sink Emerges in Language Models: An Empirical View", ICLR 2025, arXiv 2410.10781, section 3.1.
//!
//! Kernel `diagnose`: a sum along the rows with the mask hook later, and a sum over the heads.
//!
//! Limits: weights above the diagonal are not looked at. Columns near the end are short, hence noisy; the last is
//! A_(L−1)(L−1). Without a stored map: `attention-calibration` gives the same score as `column_score`.

use crate::error::Result;
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::{named, params};

params! {
    /// Mean weight on every token, and the share of heads for which it is a sink.
    pub struct SinkScore {
        /// Mean weight above which a token is a head's sink.
        epsilon: f32 = 0.3,
    }
}

impl Named for SinkScore {
    const CARD: Card = Card {
        name: "sink-score",
        family: Family::Dense,
        summary: "Mean weight on every token, and the share of heads for which it is a sink.",
        equation: "importance_t = Σ_(i ≥ t) A_it / (L − t), sink_rate_t = mean_h [importance_ht > epsilon]",
        paper: "On the Existence and Behaviour of Secondary Attention Sinks, 2025",
        inputs: &[InputSpec::float("weights", "B H L L")],
        outputs: &[OutputSpec::float("importance", "B H L"), OutputSpec::float("sink_rate", "B L")],
        forms: &["prefill"],
        kernels: &["diagnose", "diagnose"],
    };
}

impl Variant for SinkScore {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let length = problem.size("L");
        let share = HostTensor::from_fn(&[1, 1, length, 1], |t| 1.0 / (length - t) as f32);
        let share = plan.constant("inverse_rows", share);
        let (importance, rate) = (plan.output("importance")?, plan.output("sink_rate")?);
        let columns = plan.input("weights")?.permute(&[0, 1, 3, 2]);
        let chain = vec![hooks::times(share), hooks::later()];
        plan.fold("importance", Fold::sum(), &columns, &importance.insert(3), chain)?;
        let (heads, one) = (importance.permute(&[0, 2, 1]).insert(1), 1.0 / problem.size("H") as f32);
        let chain = vec![hooks::above(self.epsilon, 0.0), hooks::times(one)];
        plan.fold("sink_rate", Fold::sum(), &heads, &rate.insert(1).insert(3), chain)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let a = inputs.get("weights");
        let [batch, heads, length, _] = a.shape[..] else { panic!("weights have rank 4") };
        let importance = Array::zeros(&[batch, heads, length]).map_rows(|at, _| {
            let sum = |t: usize| (t..length).map(|i| a.get(&[at[0], at[1], i, t])).sum::<f64>();
            (0..length).map(|t| sum(t) / (length - t) as f64).collect()
        });
        let rate = Array::zeros(&[batch, length]).map_rows(|at, _| {
            let sinks =
                |t: usize| (0..heads).filter(|&h| importance.get(&[at[0], h, t]) > f64::from(self.epsilon)).count();
            (0..length).map(|t| sinks(t) as f64 / heads as f64).collect()
        });
        vec![("importance", importance), ("sink_rate", rate)]
    }
}
