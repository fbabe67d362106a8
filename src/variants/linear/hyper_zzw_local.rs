//! Context-dependent kernels over a neighbourhood: a depthwise correlation whose taps differ by sample.
//!
//! ```text
//! out_byx = Σ_uv kernel_uv z(y + u − (K − 1)/2, x + v − (K − 1)/2)     z is 0 outside the image; kernel of the sample and channel
//! ```
//!
//! H. Zhang, "HyperZ·Z·W Operator Connects Slow-Fast Networks for Full Context Interaction", 2024, arXiv 2401.17948, section 3
//! (local form).
//!
//! Kernel `diagnose` (correlation).
//!
//! Limits: K is odd. The slow network that makes the kernels, and their product with the activations, are outside. Not causal.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Inputs, Outputs};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::{named, params};

params! {
    /// The local HyperZZW operator.
    pub struct HyperZzwLocal {}
}

impl Named for HyperZzwLocal {
    const CARD: Card = Card {
        name: "hyper-zzw-local",
        family: Family::Linear,
        summary: "Context-dependent kernels over a neighbourhood of an image.",
        equation: "out_yx = Σ_uv kernel_uv z(y + u − (K − 1)/2, x + v − (K − 1)/2)",
        paper: "Zhang, HyperZ·Z·W Operator Connects Slow-Fast Networks, 2024, arXiv 2401.17948",
        inputs: &[InputSpec::real("z", "B Ch Y X"), InputSpec::float("kernel", "B Ch K K")],
        outputs: &[OutputSpec::float("out", "B Ch Y X")],
        forms: &["bidirectional"],
        kernels: &["diagnose"],
    };
}

impl Variant for HyperZzwLocal {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (z, kernel, out) = (plan.input("z")?, plan.input("kernel")?, plan.output("out")?);
        let taps = kernel.shape[3];
        if taps.is_multiple_of(2) {
            return Err(problem.refuse(ErrorKind::Shape, "kernel", "an odd K", taps));
        }
        let around = hooks::correlation(&z, &kernel, [taps / 2; 2]);
        plan.fold("correlate", Fold::each(), &z, &out, vec![around])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let (z, kernel) = (inputs.get("z"), inputs.get("kernel"));
        let [_, _, rows, columns] = z.shape[..] else { panic!("z has rank 4") };
        let taps = kernel.shape[3];
        let inside = |at: usize, tap: usize, size: usize| (at + tap).checked_sub(taps / 2).filter(|&n| n < size);
        let out = z.map_rows(|at, _| {
            let [b, c, y] = at[..] else { panic!("rows of rank 3") };
            let of = |x: usize| {
                let mut sum = 0.0;
                for (u, v) in (0..taps * taps).map(|n| (n / taps, n % taps)) {
                    if let (Some(i), Some(j)) = (inside(y, u, rows), inside(x, v, columns)) {
                        sum += kernel.get(&[b, c, u, v]) * z.get(&[b, c, i, j]);
                    }
                }
                sum
            };
            (0..columns).map(of).collect()
        });
        vec![("out", out)]
    }
}
