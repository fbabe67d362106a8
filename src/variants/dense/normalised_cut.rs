//! Tokens split in foreground and background by the normalised cut of their similarity graph.
//!
//! ```text
//! A_ij = 1 if cos(x_i, x_j) > tau, else eps     D = diag(Σ_j A_ij)
//! (D − A) y = λ D y, λ the second smallest eigenvalue     yᵀ D y = 1
//! seed = argmax |y|     the sign of y is such that the seed is foreground     foreground_i = y_i > mean(y)
//! ```
//!
//! Y. Wang, X. Shen, S. X. Hu, Y. Yuan, J. L. Crowley, D. Vaufreydaz, "Self-Supervised Transformers for Unsupervised Object
//! Discovery using Normalized Cut", CVPR 2022, arXiv 2202.11539, section 3.2 (TokenCut).
//!
//! Kernels: `diagnose` for the graph; 200 steps of the power iteration y ← y + D⁻¹ A y, an `attend` as a product and a
//! `diagnose` each; every eighth takes the known first vector out (the D-weighted mean) and normalises.
//!
//! Limits: L of 2 or more; O(L²) memory for the graph. The iteration starts from (t mod 7) − 3 and has a fixed number of
//! steps: it is right to about (1 − (λ₃ − λ₂)/2)²⁰⁰. A degenerate λ has no unique y. Connected components are outside.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::{Fold, Of};
use crate::oracle::{Array, Inputs, Outputs, dot, eigen};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::{changed, folded, product, scratch};
use crate::{named, params};

/// Steps of the iteration, and how many go by between two normalisations: lengths at most double in each.
const STEPS: usize = 200;
const BETWEEN: usize = 8;

params! {
    /// The second eigenvector of a token graph.
    pub struct NormalisedCut {
        /// Cosine above which two tokens are joined.
        tau: f32 = 0.2,
        /// Weight of all other pairs; above 0.
        eps: f32 = 1e-5,
    }
}

impl Named for NormalisedCut {
    const CARD: Card = Card {
        name: "normalised-cut",
        family: Family::Dense,
        summary: "Tokens split in foreground and background by the normalised cut of their similarity graph.",
        equation: "(D − A) y = λ₂ D y, A_ij = 1 if cos(x_i, x_j) > tau else eps, foreground = y > mean(y)",
        paper: "Wang et al., TokenCut, CVPR 2022, arXiv 2202.11539",
        inputs: &[InputSpec::float("features", "B L Cx")],
        outputs: &[
            OutputSpec::float("eigenvector", "B L"),
            OutputSpec::flag("foreground", "B L"),
            OutputSpec::index("seed", "B"),
            OutputSpec::float("eigenvalue", "B"),
        ],
        forms: &["bidirectional"],
        kernels: &["diagnose", "attend", "diagnose"],
    };
}

impl Variant for NormalisedCut {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (batch, length) = (problem.size("B"), problem.size("L"));
        if length < 2 {
            return Err(problem.refuse(ErrorKind::Shape, "features", "two tokens or more", length));
        }
        if self.eps <= 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "eps", "a number above 0", self.eps));
        }
        let x = plan.input("features")?.insert(1);
        let root = || vec![hooks::at_least(1e-30), hooks::power(-0.5)];
        let squares = folded(plan, "squares", Fold::sum(), &x, vec![hooks::times(&x)])?;
        let norm = changed(plan, "norm", &squares, root())?;
        let unit = changed(plan, "unit", &x, vec![hooks::times(norm)])?;
        let graph = scratch(plan, "graph", &[batch, 1, length, length]);
        let cosines = Fold::each().of(Of::Dot);
        plan.fold_pairs("graph", cosines, [&unit, &unit, &graph], None, vec![hooks::above(self.tau, self.eps)])?;
        // Vectors are (B, 1, L, 1); seen along their tokens they are rows.
        let row = |r: &Ref| r.permute(&[0, 1, 3, 2]);
        let degree = folded(plan, "degree", Fold::sum(), &graph, Vec::new())?;
        let inverse = changed(plan, "inverse", &degree, vec![hooks::power(-1.0)])?;
        let volume = folded(plan, "volume", Fold::sum(), &row(&degree), Vec::new())?;
        let share = changed(plan, "share", &degree, vec![hooks::over(volume)])?;

        // Two vectors in turn, and one number of each kind: the plan repeats itself, its memory does not.
        let (sum, vectors) =
            (scratch(plan, "sum", &degree.shape), ["even", "odd"].map(|n| scratch(plan, n, &degree.shape)));
        let [mean, square, factor] = ["mean", "square", "factor"].map(|name| scratch(plan, name, &[batch, 1, 1, 1]));
        let centre = |plan: &mut PlanBuilder, y: &Ref, to: &Ref| -> Result<()> {
            plan.fold("mean", Fold::sum(), &row(y), &mean, vec![hooks::times(row(&share))])?;
            let squares = vec![hooks::times(row(y)), hooks::times(row(&degree))];
            plan.fold("square", Fold::sum(), &row(y), &square, squares)?;
            plan.fold("factor", Fold::each(), &square, &factor, root())?;
            plan.fold("centre", Fold::each(), y, to, vec![hooks::plus(&mean, -1.0), hooks::times(&factor)])
        };
        let start = HostTensor::from_fn(&[length, 1], |t| (t % 7) as f32 - 3.0);
        let start = plan.constant("start", start).broadcast(&[batch, 1, length, 1]);
        let [mut y, mut other] = vectors;
        centre(plan, &start, &y)?;
        for step in 1..=STEPS {
            product(plan, "step", &graph, &y, 1.0, &sum, None)?;
            plan.fold("next", Fold::each(), &sum, &other, vec![hooks::times(&inverse), hooks::plus(&y, 1.0)])?;
            std::mem::swap(&mut y, &mut other);
            if step % BETWEEN == 0 {
                centre(plan, &y, &other)?;
                std::mem::swap(&mut y, &mut other);
            }
        }

        let (eigenvector, foreground) = (plan.output("eigenvector")?, plan.output("foreground")?);
        let (seed, eigenvalue) = (plan.output("seed")?, plan.output("eigenvalue")?);
        let one = |r: &Ref| r.insert(1).insert(2).insert(3);
        plan.fold("seed", Fold::arg_max(), &row(&y), &one(&seed), vec![hooks::magnitude()])?;
        let places =
            plan.constant("places", HostTensor::from_fn(&[length], |t| t as f32)).broadcast(&[batch, 1, 1, length]);
        let at_seed = vec![hooks::equals(one(&seed)), hooks::times(row(&y))];
        let value = folded(plan, "value", Fold::sum(), &places, at_seed)?;
        let mean = folded(plan, "mean", Fold::mean(length), &row(&y), Vec::new())?;
        let sign = changed(plan, "sign", &value, vec![hooks::plus(&mean, -1.0), hooks::above(0.0, -1.0)])?;
        let out = eigenvector.insert(1).insert(1);
        plan.fold("eigenvector", Fold::each(), &row(&y), &out, vec![hooks::times(&sign)])?;
        let chain = vec![hooks::plus(mean, -1.0), hooks::times(sign), hooks::above(0.0, 0.0)];
        plan.fold("foreground", Fold::each(), &row(&y), &foreground.insert(1).insert(1), chain)?;
        // λ = yᵀ (D − A) y = ½ Σ_ij A_ij (y_i − y_j)²: a sum without cancellation.
        let cut = scratch(plan, "cut", &[batch, 1, length, 1]);
        plan.fold_pairs("cut", Fold::sum().of(Of::Distance), [&y, &y, &cut], Some(("edge", graph)), Vec::new())?;
        plan.fold("eigenvalue", Fold::sum().scaled(0.5), &row(&cut), &one(&eigenvalue), Vec::new())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let x = inputs.get("features");
        let [batch, length, _] = x.shape[..] else { panic!("features have rank 3") };
        let decimal = |x: f32| format!("{x:e}").parse::<f64>().expect("a number");
        let cut = |b: usize| {
            let norm = |i: usize| dot(x.row(&[b, i]), x.row(&[b, i])).sqrt().max(1e-15);
            let cosine = |i: usize, j: usize| dot(x.row(&[b, i]), x.row(&[b, j])) / (norm(i) * norm(j));
            let a = |i: usize, j: usize| if cosine(i, j) > decimal(self.tau) { 1.0 } else { decimal(self.eps) };
            let d: Vec<f64> = (0..length).map(|i| (0..length).map(|j| a(i, j)).sum()).collect();
            // D^-1/2 (D − A) D^-1/2 z = λ z with z = D^1/2 y.
            let matrix = Array::zeros(&[length, length]).map_rows(|at, _| {
                let one = |j: usize| f64::from(u8::from(at[0] == j)) - a(at[0], j) / (d[at[0]] * d[j]).sqrt();
                (0..length).map(one).collect()
            });
            let (values, vectors) = eigen(&matrix);
            let y: Vec<f64> = vectors[1].iter().zip(&d).map(|(z, d)| z / d.sqrt()).collect();
            let mean = y.iter().sum::<f64>() / length as f64;
            // Tokens with equal rows of A tie but for rounding.
            let above = |t: usize, best: usize| y[t].abs() > y[best].abs() * (1.0 + 1e-9);
            let seed = (0..length).fold(0, |best, t| if above(t, best) { t } else { best });
            let sign = if y[seed] > mean { 1.0 } else { -1.0 };
            (y.iter().map(|y| sign * y).collect::<Vec<f64>>(), sign * mean, seed, values[1])
        };
        let all: Vec<_> = (0..batch).map(cut).collect();
        let eigenvector = Array { shape: vec![batch, length], data: all.iter().flat_map(|c| c.0.clone()).collect() };
        let foreground =
            eigenvector.map_rows(|at, y| y.iter().map(|y| f64::from(u8::from(*y > all[at[0]].1))).collect());
        let list = |of: &dyn Fn(usize) -> f64| Array { shape: vec![batch], data: (0..batch).map(of).collect() };
        vec![
            ("eigenvector", eigenvector),
            ("foreground", foreground),
            ("seed", list(&|b| all[b].2 as f64)),
            ("eigenvalue", list(&|b| all[b].3)),
        ]
    }
}
