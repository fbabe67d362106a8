//! Attention with the weight on later sinks cut and given to the other keys: a repair without training.
//!
//! ```text
//! c_t   = Σ_(i ≥ t) A_it / (L − t)     A_ij = softmax_j(scale q_i·k_j), j ≤ i
//! S     = {t : c_t > threshold} without its smallest element, the ordinary first sink
//! a_i   = Σ_(t in S) A_it
//! A'_it = beta A_it for t in S,     A'_ij = A_ij (1 + (1 − beta) a_i / (1 − a_i)) else     in the chosen heads
//! ```
//!
//! Z. Yu, Z. Wang, Y. Fu, H. Shi, K. Shaikh, Y. C. Lin, "Unveiling and Harnessing Hidden Attention Sinks: Enhancing
//! Large Language Models without Training through Attention Calibration", ICML 2024, arXiv 2406.15765, section 4 (ACT).
//!
//! Kernels: `attend` for lse, `attend` with roles swapped for c, `diagnose` for S, `attend` over S and over the rest, and
//! `diagnose` for `out_i = beta a_i O_S + (1 − beta a_i) O_rest` with a_i = σ(lse_S − lse_rest). No map in memory.
//!
//! Limits: causal self-attention, prefill. Key 0 is never in S, so that every row keeps a key. The comparison c_t >
//! threshold is discontinuous: results near it may differ between engines.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs, attention_map, scale};
use crate::plan::{AttendIo, PlanBuilder};
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::default_scale;
use crate::variants::steps::{Columns, row_lse, scratch};
use crate::{named, params};

params! {
    /// Causal attention with calibrated sinks.
    pub struct AttentionCalibration {
        /// Heads that are calibrated.
        heads: Vec<usize> = vec![0],
        /// What is left of the weight on a later sink.
        beta: f32 = 0.4,
        /// Mean weight above which a key is a sink.
        threshold: f32 = 0.1,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for AttentionCalibration {
    const CARD: Card = Card {
        name: "attention-calibration",
        family: Family::Dense,
        summary: "Attention with the weight on later sinks cut and given to the other keys.",
        equation: "out_i = beta a_i O_S + (1 − beta a_i) O_rest, S = {t : mean_i A_it > threshold} without the first",
        paper: "Yu et al., Unveiling and Harnessing Hidden Attention Sinks, ICML 2024, arXiv 2406.15765",
        inputs: &[InputSpec::real("q", "B H L D"), InputSpec::real("k", "B Hk L D"), InputSpec::real("v", "B Hk L Dv")],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("column_score", "B H L"),
            OutputSpec::flag("sinks", "B H L"),
        ],
        forms: &["prefill"],
        kernels: &["attend", "attend", "diagnose", "attend", "attend", "diagnose"],
    };
}

impl Variant for AttentionCalibration {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (heads, length) = (problem.size("H"), problem.size("L"));
        if let Some(head) = self.heads.iter().find(|&&h| h >= heads) {
            return Err(problem.refuse(ErrorKind::Parameter, "heads", format!("heads below H = {heads}"), head));
        }
        let rows = problem.shape("B H L")?;
        let (q, k, v) = (plan.input("q")?, plan.input("k")?, plan.input("v")?);
        let op = Attend::new(default_scale(self.scale, problem)).causal(true);
        let (lse, mass) = (scratch(plan, "lse", &rows), scratch(plan, "mass", &rows));
        row_lse(plan, op, [&q, &k], &lse, Vec::new())?;
        Columns { op, q: &q, k: &k, v: None, lse: &lse, mask: None, message: None, out: None, mass: &mass }
            .stage(plan, "columns")?;

        let seen = HostTensor::from_fn(&[1, 1, 1, length], |t| 1.0 / (length - t) as f32);
        let seen = plan.constant("inverse_rows", seen);
        let (score, sinks) = (plan.output("column_score")?.insert(2), plan.output("sinks")?.insert(2));
        plan.fold("column_score", Fold::each(), &mass.insert(2), &score, vec![hooks::times(seen)])?;
        let first = plan.scratch("first", DType::I32, &problem.shape("B H 1 1")?);
        let above = || hooks::above(self.threshold, 0.0);
        plan.fold("first", Fold::arg_max(), &score, &first, vec![above()])?;
        plan.fold("sinks", Fold::each(), &score, &sinks, vec![above(), hooks::except(first)])?;

        let mut parts = Vec::new();
        for (name, mask) in [("in_sinks", hooks::given(sinks.clone())), ("rest", hooks::hidden(sinks.clone()))] {
            let (out, lse) = (scratch(plan, name, &problem.shape("B H L Dv")?), scratch(plan, "part_lse", &rows));
            plan.attend(name, op, AttendIo::new(&q, &k, &v, &out).lse(&lse), vec![mask])?;
            parts.push((out, lse.insert(3)));
        }
        let beta = HostTensor::from_fn(&[1, heads, 1, 1], |h| if self.heads.contains(&h) { self.beta } else { 1.0 });
        let beta = plan.constant("beta", beta);
        let [(sunk, sunk_lse), (rest, rest_lse)] = &parts[..] else { unreachable!("two parts") };
        let share = scratch(plan, "share", &sunk_lse.shape);
        // The lse over S is −∞ where a row sees none of it.
        let logit = [hooks::at_least(-1e30), hooks::plus(rest_lse, -1.0), hooks::logistic(), hooks::times(beta)];
        plan.fold("share", Fold::each(), sunk_lse, &share, logit.to_vec())?;
        let mix = vec![hooks::plus(rest, -1.0), hooks::times(share), hooks::plus(rest, 1.0)];
        let out = plan.output("out")?;
        plan.fold("mix", Fold::each(), sunk, &out, mix)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let [batch, heads, length, _] = q.shape[..] else { panic!("q has rank 4") };
        let group = heads / k.shape[1];
        let map = attention_map(q, k, scale(self.scale, q), &|row, j, s| (j <= row.i).then_some(s));
        let score = Array::zeros(&[batch, heads, length]).map_rows(|at, _| {
            let mean =
                |t: usize| (t..length).map(|i| map.get(&[at[0], at[1], i, t])).sum::<f64>() / (length - t) as f64;
            (0..length).map(mean).collect()
        });
        let sinks = score.map_rows(|_, c| {
            let first = c.iter().position(|&c| c > f64::from(self.threshold));
            let sink = |(t, &c): (usize, &f64)| f64::from(u8::from(c > f64::from(self.threshold) && first != Some(t)));
            c.iter().enumerate().map(sink).collect()
        });
        let out = Array::zeros(&[batch, heads, length, v.shape[3]]).map_rows(|at, row| {
            let (sinks, a) = (sinks.row(&at[..2]), map.row(at));
            let sunk: f64 = a.iter().zip(sinks).map(|(a, s)| a * s).sum();
            let beta = if self.heads.contains(&at[1]) && sunk < 1.0 { f64::from(self.beta) } else { 1.0 };
            let rest = 1.0 + (1.0 - beta) * sunk / (1.0 - sunk).max(f64::MIN_POSITIVE);
            let weight = |t: usize| a[t] * if sinks[t] == 1.0 { beta } else { rest };
            let value = |d: usize| (0..=at[2]).map(|t| weight(t) * v.get(&[at[0], at[1] / group, t, d])).sum();
            (0..row.len()).map(value).collect()
        });
        vec![("out", out), ("column_score", score), ("sinks", sinks)]
    }
}
