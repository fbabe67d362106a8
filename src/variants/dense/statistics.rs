//! What an attention map looks like without storing it: column sums, row maxima, entropies.
//!
//! ```text
//! p_ij         = e^(s_ij − lse_i)     s_ij = scale q_i·k_j over the allowed j
//! column_sum_j = Σ_i p_ij     row_max_i = max_j p_ij
//! entropy_i    = −Σ_j p_ij ln p_ij = lse_i − scale q_i·k̄_i     k̄_i = Σ_j p_ij k_j
//! normalised_entropy_i = entropy_i / ln n_i     n_i allowed keys; 0 for fewer than two
//! ```
//!
//! Entropy as a sign of where a model looks: "Visual Funnel: Resolving Contextual Blindness in Multimodal Large Language
//! Models", 2025; the identity with lse is that of the softmax.
//!
//! Kernels `attend` with the keys as values (k̄ and lse), `attend` with roles swapped for the columns, `diagnose` for maxima,
//! counts and the rest: O(Lq Lk D) time, no map in memory.
//!
//! Limits: v is taken for the sake of one signature and not looked at. The entropy of a peaked row is a difference of
//! similar numbers: its absolute error is about 1e-6 of the largest score. A row without keys has lse = −∞, else zeros.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::{Fold, Of};
use crate::oracle::{Array, Inputs, Outputs, Row, attention, attention_map, scale};
use crate::plan::{AttendIo, PlanBuilder};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, Named, OutputSpec, Variant};
use crate::variants::common::{K, LSE, MASK, Q, V, default_scale, given_mask};
use crate::variants::steps::{Columns, folded, scratch};
use crate::{named, params};

params! {
    /// Statistics of softmax attention.
    pub struct AttentionStatistics {
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for AttentionStatistics {
    const CARD: Card = Card {
        name: "attention-statistics",
        family: Family::Dense,
        summary: "Column sums, row maxima and entropies of an attention map that is never stored.",
        equation: "entropy_i = −Σ_j p_ij ln p_ij, column_sum_j = Σ_i p_ij, row_max_i = max_j p_ij",
        paper: "Visual Funnel, 2025 (entropy as a sign)",
        inputs: &[Q, K, V, MASK],
        outputs: &[
            OutputSpec::float("column_sum", "B H Lk"),
            OutputSpec::float("row_max", "B H Lq"),
            OutputSpec::float("entropy", "B H Lq"),
            OutputSpec::float("normalised_entropy", "B H Lq"),
            LSE,
        ],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend", "attend", "diagnose"],
    };
}

impl Variant for AttentionStatistics {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let full = problem.shape("B H Lq Lk")?;
        let (q, k, lse) = (plan.input("q")?, plan.input("k")?, plan.output("lse")?);
        let mask = given_mask(problem, plan)?;
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        let mean_key = scratch(plan, "mean_key", &q.shape);
        plan.attend("mean_key", op, AttendIo::new(&q, &k, &k, &mean_key).lse(&lse), mask.clone())?;

        let column_sum = plan.output("column_sum")?;
        let swapped = plan.optional("mask").map(|mask| mask.broadcast(&full));
        let columns = Columns {
            op,
            q: &q,
            k: &k,
            v: None,
            lse: &lse,
            mask: swapped,
            message: None,
            out: None,
            mass: &column_sum,
        };
        columns.stage(plan, "column_sum")?;

        let row = |r: &crate::plan::Ref| r.insert(3);
        let mut chain = mask.clone();
        chain.push(hooks::probability(row(&lse)));
        let (row_max, entropy) = (plan.output("row_max")?, plan.output("entropy")?);
        let max = Fold::max().of(Of::Dot).scaled(op.scale).causal(self.causal);
        plan.fold_pairs("row_max", max, [&q, &k, &row(&row_max)], None, chain)?;

        let minus = folded(plan, "mean_score", Fold::sum().scaled(-op.scale), &mean_key, vec![hooks::times(&q)])?;
        // The lse of an empty row is −∞; entropies are not negative.
        let chain = vec![hooks::at_least(-1e30), hooks::plus(minus, 1.0), hooks::at_least(0.0)];
        plan.fold("entropy", Fold::each(), &row(&lse), &row(&entropy), chain)?;
        let one = plan.constant("one", HostTensor::from_fn(&[1], |_| 1.0)).broadcast(&full);
        let count = folded(plan, "count", Fold::sum().causal(self.causal), &one, mask)?;
        let normalised = plan.output("normalised_entropy")?;
        let chain = vec![hooks::inverse_log(), hooks::times(row(&entropy))];
        plan.fold("normalise", Fold::each(), &count, &row(&normalised), chain)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let [batch, heads, queries, _] = q.shape[..] else { panic!("q has rank 4") };
        let pairs = |row, j, s| inputs.allowed(self.causal, row, j).then_some(s);
        let (_, lse) = attention(q, k, v, scale(self.scale, q), &pairs);
        let p = attention_map(q, k, scale(self.scale, q), &pairs);
        let rows = |of: &dyn Fn(Row, &[f64]) -> f64| {
            let one = |b, h, i| of(Row { b, h, i }, p.row(&[b, h, i]));
            Array::zeros(&[batch, heads, queries])
                .map_rows(|at, _| (0..queries).map(|i| one(at[0], at[1], i)).collect())
        };
        let information = |p: &[f64]| p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum::<f64>();
        let column_sum = Array::zeros(&[batch, heads, k.shape[2]]).map_rows(|at, row| {
            (0..row.len()).map(|j| (0..queries).map(|i| p.get(&[at[0], at[1], i, j])).sum()).collect()
        });
        let normalised = rows(&|row, p| {
            let count = (0..p.len()).filter(|&j| inputs.allowed(self.causal, row, j)).count();
            if count < 2 { 0.0 } else { information(p) / (count as f64).ln() }
        });
        vec![
            ("column_sum", column_sum),
            ("row_max", rows(&|_, p| p.iter().fold(0.0, |m, &p| p.max(m)))),
            ("entropy", rows(&|_, p| information(p))),
            ("normalised_entropy", normalised),
            ("lse", lse),
        ]
    }
}
