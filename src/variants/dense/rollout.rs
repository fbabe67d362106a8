//! How attention of a stack of layers adds up, with the residual connections counted in.
//!
//! ```text
//! M_l = rows of ((1 − r) mean_h A_l + r I) divided by their sums
//! R   = M_L … M_2 M_1
//! ```
//!
//! S. Abnar, W. Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, arXiv 2005.00928, section 3.
//!
//! Kernels a layer: `diagnose` for the mean over the heads, the row sums and M; `attend` as the product of matrices.
//!
//! Limits: dense maps, for lengths up to 512 (the widest values of `attend`). A row that sums to 0 gives zeros.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::{folded, product, scratch};
use crate::{named, params};

params! {
    /// Product of the attention maps of a stack of layers.
    pub struct AttentionRollout {
        /// Weight of the residual connection, 0 to 1.
        residual: f32 = 0.5,
    }
}

impl Named for AttentionRollout {
    const CARD: Card = Card {
        name: "attention-rollout",
        family: Family::Dense,
        summary: "Product of the attention maps of a stack of layers, residual connections counted in.",
        equation: "R = Π_l M_l, M_l = normalise((1 − r) mean_h A_l + r I)",
        paper: "Abnar, Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, arXiv 2005.00928",
        inputs: &[InputSpec::float("weights", "Nl B H L L")],
        outputs: &[OutputSpec::float("rollout", "B L L")],
        forms: &["prefill", "bidirectional"],
        kernels: &["diagnose", "attend"],
    };
}

impl Variant for AttentionRollout {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if !(0.0..=1.0).contains(&self.residual) {
            return Err(problem.refuse(ErrorKind::Parameter, "residual", "a number from 0 to 1", self.residual));
        }
        let (layers, shape) = (problem.size("Nl"), problem.shape("B 1 L L")?);
        let weights = plan.input("weights")?;
        let output = plan.output("rollout")?.insert(1);
        let mut rollout: Option<crate::plan::Ref> = None;
        for layer in 0..layers {
            let heads = weights.select(0, layer).permute(&[0, 2, 3, 1]);
            let mean = folded(plan, "mean", Fold::mean(problem.size("H")), &heads, Vec::new())?.select(3, 0).insert(1);
            let mixed = || vec![hooks::times(1.0 - self.residual), hooks::diagonal(self.residual)];
            let total = folded(plan, "total", Fold::sum(), &mean, mixed())?;
            let mut chain = mixed();
            chain.push(hooks::over(total));
            let last = layer + 1 == layers;
            let map = if last && layer == 0 { output.clone() } else { scratch(plan, "map", &shape) };
            plan.fold("normalise", Fold::each(), &mean, &map, chain)?;
            rollout = Some(match rollout {
                None => map,
                Some(before) => {
                    let next = if last { output.clone() } else { scratch(plan, "product", &shape) };
                    product(plan, "product", &map, &before, 1.0, &next, None)?;
                    next
                }
            });
        }
        Ok(())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let a = inputs.get("weights");
        let [layers, batch, heads, length, _] = a.shape[..] else { panic!("weights have rank 5") };
        let r = f64::from(self.residual);
        let mut rollout = Array::zeros(&[batch, length, length]);
        for layer in 0..layers {
            let map = rollout.map_rows(|at, row| {
                let mean =
                    |j: usize| (0..heads).map(|h| a.get(&[layer, at[0], h, at[1], j])).sum::<f64>() / heads as f64;
                let one = |j: usize| (1.0 - r) * mean(j) + if j == at[1] { r } else { 0.0 };
                let total: f64 = (0..row.len()).map(one).sum();
                (0..row.len()).map(|j| if total == 0.0 { 0.0 } else { one(j) / total }).collect()
            });
            rollout = if layer == 0 { map } else { multiply(&map, &rollout) };
        }
        vec![("rollout", rollout)]
    }
}

/// The products of matrices a (B, L, L) and b (B, L, L).
pub(super) fn multiply(a: &Array, b: &Array) -> Array {
    a.map_rows(|at, row| (0..row.len()).map(|j| (0..row.len()).map(|m| row[m] * b.get(&[at[0], m, j])).sum()).collect())
}
