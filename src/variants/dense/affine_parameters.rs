//! The scale and shift of affine-scaled attention, from the layer's input.
//!
//! ```text
//! alpha = clip(0.1 x W + 0.5, 0, 1)     beta = (moving_average_h − alpha) / count_i
//! ```
//!
//! J. Bae, B. Park, G. Park, M. Kim, J. Lee, J. Yoo, S. Woo, J. Ryu, S. J. Kwon, D. Lee, "Affine-Scaled Attention: Towards
//! Flexible and Stable Transformer Attention", 2026, arXiv 2602.23057, section 3; linear clipping is its choice over a
//! sigmoid.
//!
//! Kernels `attend` (the product x W: weights that are a table), `diagnose`.
//!
//! Limits: `moving_average` is the running mean of alpha, frozen at inference. `count` is the number of keys a row may
//! see, so that the weights of a row sum to it; a count of 0 gives beta = 0. H up to 512.

use crate::error::Result;
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::of_rows;
use crate::variants::steps::{product, scratch};
use crate::{named, params};

params! {
    /// Scale and shift of affine-scaled attention.
    pub struct AffineParameters {}
}

impl Named for AffineParameters {
    const CARD: Card = Card {
        name: "affine-parameters",
        family: Family::Dense,
        summary: "The scale and shift of affine-scaled attention, from the layer's input.",
        equation: "alpha = clip(0.1 x W + 0.5, 0, 1), beta = (moving_average_h − alpha) / count_i",
        paper: "Bae et al., Affine-Scaled Attention, 2026, arXiv 2602.23057",
        inputs: &[
            InputSpec::float("x", "B L Cx"),
            InputSpec::float("w_alpha", "Cx H"),
            InputSpec::float("moving_average", "H"),
            InputSpec::float("count", "L"),
        ],
        outputs: &[OutputSpec::float("alpha", "B H L"), OutputSpec::float("beta", "B H L")],
        forms: &["prefill", "decode"],
        kernels: &["attend", "diagnose", "diagnose"],
    };
}

impl Variant for AffineParameters {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [batch, width, heads] = [problem.size("B"), problem.size("Cx"), problem.size("H")];
        let (x, w) = (plan.input("x")?.insert(1), plan.input("w_alpha")?.insert(0).insert(0));
        let projected = scratch(plan, "projected", &[batch, 1, problem.size("L"), heads]);
        product(plan, "project", &x, &w.broadcast(&[batch, 1, width, heads]), 0.1, &projected, None)?;
        let (alpha, beta) = (plan.output("alpha")?.insert(3), plan.output("beta")?.insert(3));
        // max(x, 0), then min(x, 1) as −max(−x, −1).
        let minus = || hooks::times(-1.0);
        let clip = vec![hooks::plus(0.5, 1.0), hooks::at_least(0.0), minus(), hooks::at_least(-1.0), minus()];
        plan.fold("alpha", Fold::each(), &projected.permute(&[0, 3, 2, 1]), &alpha, clip)?;
        let average = plan.input("moving_average")?.insert(1).insert(1).insert(0);
        let shift = vec![minus(), hooks::plus(average, 1.0), hooks::over(of_rows(&plan.input("count")?))];
        plan.fold("beta", Fold::each(), &alpha, &beta, shift)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let (x, w) = (inputs.get("x"), inputs.get("w_alpha"));
        let [batch, length, width] = x.shape[..] else { panic!("x has rank 3") };
        let heads = w.shape[1];
        let mut alpha = Array::zeros(&[batch, heads, length]);
        let mut beta = alpha.clone();
        for (b, h, i) in (0..batch * heads * length).map(|n| (n / (heads * length), n / length % heads, n % length)) {
            let projected: f64 = (0..width).map(|c| x.get(&[b, i, c]) * w.get(&[c, h])).sum();
            let a = (0.1 * projected + 0.5).clamp(0.0, 1.0);
            let count = inputs.get("count").get(&[i]);
            alpha.set(&[b, h, i], a);
            let share = (inputs.get("moving_average").get(&[h]) - a) / count;
            beta.set(&[b, h, i], if count == 0.0 { 0.0 } else { share });
        }
        vec![("alpha", alpha), ("beta", beta)]
    }
}
