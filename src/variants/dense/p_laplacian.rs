//! One step of p-Laplacian message passing after attention: its map, re-normalised by how far the features are apart.
//!
//! ```text
//! g_ij  = |√(A_ij + eps) (F_j − F_i) + eps|₂     eps added to every channel
//! W_ij  = A_ij g_ij^(p − 2)
//! α_i   = 1 / (Σ_j W_ij + 2 mu / p)
//! out_i = α_i Σ_j W_ij F_j + α_i (2 mu / p) F_i
//! ```
//!
//! H. Wu, Z. Huang, Y. Zhang et al., "p-Laplacian Adaptation for Generative Pre-trained Vision-Language Models", AAAI
//! 2024, arXiv 2312.10613, section 4.
//!
//! Kernels: `diagnose` for W (differences, not an expansion of the square), `attend` as the product W F, `diagnose` for α.
//!
//! Limits: A is given, so O(n²) memory is there already; W is another. p and eps above 0. For p < 2 the diagonal weighs
//! A_ii (eps √Df)^(p − 2), about 1e4 of a common edge at p = 1.5: eps matters. Tolerance 1e-4.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::{Fold, Of};
use crate::named;
use crate::oracle::{Array, Inputs, Outputs};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::{product, scratch};

/// A form of the message passing: both have the same parameters.
macro_rules! laplacian {
    ($(#[$meta:meta])* $name:ident) => {
        $crate::params! {
            $(#[$meta])*
            pub struct $name {
                /// Exponent of the Laplacian; above 0.
                p: f32 = 1.5,
                /// Weight of a token's own feature.
                mu: f32 = 10.0,
                /// Keeps differences from 0; above 0.
                eps: f32 = 1e-8,
            }
        }
    };
}
pub(super) use laplacian;

laplacian! {
    /// p-Laplacian message passing on a given attention map.
    PLaplacianAttention
}

impl Named for PLaplacianAttention {
    const CARD: Card = Card {
        name: "p-laplacian-attention",
        family: Family::Dense,
        summary: "One step of p-Laplacian message passing on a given attention map.",
        equation: "out_i = α_i (Σ_j W_ij F_j + (2 mu / p) F_i), W_ij = A_ij |√A_ij (F_j − F_i)|^(p − 2)",
        paper: "Wu et al., p-Laplacian Adaptation, AAAI 2024, arXiv 2312.10613",
        inputs: &[InputSpec::float("attn", "B H L L"), InputSpec::float("features", "B H L Df")],
        outputs: &[OutputSpec::float("out", "B H L Df"), OutputSpec::float("alpha", "B H L")],
        forms: &["bidirectional"],
        kernels: &["diagnose", "attend", "diagnose", "diagnose"],
    };
}

/// The step of both forms: features of the rows and of the columns, and whether a row keeps its own.
pub(super) fn step(
    problem: &Problem,
    plan: &mut PlanBuilder,
    [p, mu, eps]: [f32; 3],
    [rows, columns]: [&Ref; 2],
    own: bool,
) -> Result<()> {
    for (name, value) in [("p", p), ("eps", eps)] {
        if value <= 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, name, "a number above 0", value));
        }
    }
    let attn = plan.input("attn")?;
    let weights = scratch(plan, "weights", &attn.shape);
    let chain = match p {
        2.0 => vec![hooks::take(&attn, 1.0)],
        p => vec![hooks::power((p - 2.0) / 2.0), hooks::times(&attn)],
    };
    let square = Fold { eps, ..Fold::each().of(Of::Distance) };
    plan.fold_pairs("weights", square, [rows, columns, &weights], Some(("edge", attn)), chain)?;
    let (out, alpha) = (plan.output("out")?, plan.output("alpha")?);
    let (sent, mass) = (scratch(plan, "sent", &rows.shape), scratch(plan, "mass", &alpha.shape));
    product(plan, "send", &weights, columns, 1.0, &sent, Some(&mass))?;
    let pull = 2.0 * mu / p;
    plan.fold("alpha", Fold::each(), &mass, &alpha, vec![hooks::plus(pull, 1.0), hooks::power(-1.0)])?;
    let mut chain = vec![hooks::times(alpha.insert(3))];
    if own {
        chain.insert(0, hooks::plus(rows, pull));
    }
    plan.fold("out", Fold::each(), &sent, &out, chain)
}

/// The definition of both forms: A, the features of its rows and of its columns.
pub(super) fn definition([p, mu, eps]: [f32; 3], [a, rows, columns]: [&Array; 3], own: bool) -> Outputs {
    let [p, mu, eps] = [p, mu, eps].map(|x| format!("{x:e}").parse::<f64>().expect("a number"));
    let weight = |b: usize, h: usize, i: usize, j: usize| {
        let a = a.get(&[b, h, i, j]);
        let both = rows.row(&[b, h, i]).iter().zip(columns.row(&[b, h, j]));
        let g = both.map(|(x, y)| ((a + eps).sqrt() * (y - x) + eps).powi(2)).sum::<f64>().sqrt();
        a * g.powf(p - 2.0)
    };
    let count = columns.shape[2];
    let alpha = Array::zeros(&rows.shape[..3]).map_rows(|at, row| {
        let one = |i: usize| 1.0 / ((0..count).map(|j| weight(at[0], at[1], i, j)).sum::<f64>() + 2.0 * mu / p);
        (0..row.len()).map(one).collect()
    });
    let out = rows.map_rows(|at, row| {
        let w: Vec<f64> = (0..count).map(|j| weight(at[0], at[1], at[2], j)).collect();
        let sent = |d: usize| (0..count).map(|j| w[j] * columns.get(&[at[0], at[1], j, d])).sum::<f64>();
        let kept = if own { 2.0 * mu / p } else { 0.0 };
        (0..row.len()).map(|d| alpha.get(at) * (sent(d) + kept * row[d])).collect()
    });
    vec![("out", out), ("alpha", alpha)]
}

impl Variant for PLaplacianAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let features = plan.input("features")?;
        step(problem, plan, [self.p, self.mu, self.eps], [&features, &features], true)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let (attn, features) = (inputs.get("attn"), inputs.get("features"));
        definition([self.p, self.mu, self.eps], [attn, features, features], true)
    }
}
