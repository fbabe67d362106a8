//! Attention propagated through a stack of layers with weighted heads, corrected for what causality does to early tokens.
//!
//! ```text
//! w_h = mean_i max_j A_hij
//! S_j = (j + 1)/L · mean_h w_h A_hij      the factor of column j only with `regularise`: 1 − (l0 − 1)/L, l0 = L − j
//! R  ← (I + S)(I + R)                     R = 0 before the first layer
//! ```
//!
//! Z. Lin, Y. Wang, Z. Tang, "Training-Free Open-Ended Object Detection and Segmentation via Attention as Prompts", NeurIPS
//! 2024, arXiv 2410.05963, section 3.3 (VL-SAM). That R starts at 0 and the factor acts on S is this library's reading.
//!
//! Kernels a layer: `diagnose` for w, S and I + R; `attend` as the product of matrices.
//!
//! Limits: dense maps, for lengths up to 512 (the widest values of `attend`). Which rows and columns are read is outside.

use super::rollout::multiply;
use crate::error::Result;
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::{changed, folded, product, scratch};
use crate::{named, params};

params! {
    /// Attention propagated through a stack of layers.
    pub struct AttentionFlow {
        /// Columns are weighted by the share of rows that can not see them, plus one.
        regularise: bool = true,
    }
}

impl Named for AttentionFlow {
    const CARD: Card = Card {
        name: "attention-flow",
        family: Family::Dense,
        summary: "Attention propagated through a stack of layers with weighted heads.",
        equation: "R ← (I + S)(I + R), S = mean_h w_h A_h · (j + 1)/L, w_h = mean_i max_j A_hij",
        paper: "Lin, Wang, Tang, Attention as Prompts, NeurIPS 2024, arXiv 2410.05963",
        inputs: &[InputSpec::float("weights", "Nl B H L L")],
        outputs: &[OutputSpec::float("flow", "B L L"), OutputSpec::float("head_weight", "Nl B H")],
        forms: &["prefill"],
        kernels: &["diagnose", "attend"],
    };
}

impl Variant for AttentionFlow {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (layers, length, shape) = (problem.size("Nl"), problem.size("L"), problem.shape("B 1 L L")?);
        let weights = plan.input("weights")?;
        let (output, head_weight) = (plan.output("flow")?.insert(1), plan.output("head_weight")?);
        let seen = HostTensor::from_fn(&[1, 1, 1, length], |j| (j + 1) as f32 / length as f32);
        let factor = self.regularise.then(|| plan.constant("factor", seen));
        let mut flow: Option<Ref> = None;
        for layer in 0..layers {
            let map = weights.select(0, layer);
            let weight = head_weight.select(0, layer);
            let top = folded(plan, "top", Fold::max(), &map, Vec::new())?;
            let mean = Fold::mean(length);
            plan.fold("head_weight", mean, &top.permute(&[0, 1, 3, 2]), &weight.insert(2).insert(3), Vec::new())?;
            let by_head = vec![hooks::times(weight.insert(1).insert(1))];
            let heads = Fold::mean(problem.size("H"));
            let sum = folded(plan, "sum", heads, &map.permute(&[0, 2, 3, 1]), by_head)?.select(3, 0).insert(1);
            let chain: Vec<_> = factor.iter().map(hooks::times).chain([hooks::diagonal(1.0)]).collect();
            let last = layer + 1 == layers;
            flow = Some(match flow {
                None => {
                    let first = if last { output.clone() } else { scratch(plan, "flow", &shape) };
                    plan.fold("step", Fold::each(), &sum, &first, chain)?;
                    first
                }
                Some(before) => {
                    let step = changed(plan, "step", &sum, chain)?;
                    let before = changed(plan, "before", &before, vec![hooks::diagonal(1.0)])?;
                    let next = if last { output.clone() } else { scratch(plan, "flow", &shape) };
                    product(plan, "product", &step, &before, 1.0, &next, None)?;
                    next
                }
            });
        }
        Ok(())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let a = inputs.get("weights");
        let [layers, batch, heads, length, _] = a.shape[..] else { panic!("weights have rank 5") };
        let weight = Array::zeros(&[layers, batch, heads]).map_rows(|at, _| {
            let top = |h: usize, i: usize| a.row(&[at[0], at[1], h, i]).iter().fold(0.0, |m: f64, x| m.max(*x));
            (0..heads).map(|h| (0..length).map(|i| top(h, i)).sum::<f64>() / length as f64).collect()
        });
        let one = |mut x: Array| {
            (0..x.data.len()).filter(|n| n / length % length == n % length).for_each(|n| x.data[n] += 1.0);
            x
        };
        let mut flow = Array::zeros(&[batch, length, length]);
        for layer in 0..layers {
            let sum = flow.map_rows(|at, _| {
                let value = |j: usize| {
                    let of = |h: usize| weight.get(&[layer, at[0], h]) * a.get(&[layer, at[0], h, at[1], j]);
                    let seen = if self.regularise { 1.0 - ((length - j) as f64 - 1.0) / length as f64 } else { 1.0 };
                    seen * (0..heads).map(of).sum::<f64>() / heads as f64
                };
                (0..length).map(value).collect()
            });
            flow = multiply(&one(sum), &one(flow));
        }
        vec![("flow", flow), ("head_weight", weight)]
    }
}
