//! Linear attention whose output keeps the magnitude of the query: a factor and an offset that depend on the sum of weights.
//!
//! ```text
//! c = scale / N     z_i = c φ(q_i)·Σ_j φ(k_j)     β_i = 1 + 1 / (z_i + eps)     γ_i = z_i / N
//! out_i = β_i c R(φ(q_i))ᵀ Σ_j R(φ(k_j)) v_jᵀ − γ_i Σ_j v_j     R: rotary if rope_base, positions from 0
//! ```
//!
//! Q. Fan, H. Huang, Y. Ai, R. He, "Rectifying Magnitude Neglect in Linear Attention", ICCV 2025, arXiv 2507.00698, section
//! 3.2; scale D^-1/2 as in the authors' code, N in the paper.
//!
//! Kernels `transform` (map, rotary), `scan` without causality twice (sums of features, products), `attend` (sum of the
//! values), `diagnose` (factor and offset).
//!
//! Limits: every query sees every key; the prefix form is `mala-causal`. Weights sum to one and may be negative. q, k and v
//! have the same heads.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::Scan;
use crate::oracle::{Array, Inputs, Outputs, dot, frequencies, rotate, scale};
use crate::plan::{PlanBuilder, Ref, ScanIo};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::FeatureMap;
use crate::variants::common::{default_scale, mapped, rotated, same_heads};
use crate::variants::steps::{changed, product, scratch};
use crate::{named, params};

params! {
    /// Magnitude-aware linear attention.
    pub struct Mala {
        /// Feature map of q and k.
        phi: FeatureMap = FeatureMap::Elu1,
        /// s; default D^-1/2.
        scale: Option<f32> = None,
        /// Added to z.
        eps: f32 = 1e-6,
        /// Base of the rotary angles of the numerator; none where absent.
        rope_base: Option<f32> = None,
    }
}

impl Named for Mala {
    const CARD: Card = Card {
        name: "mala",
        family: Family::Linear,
        summary: "Linear attention whose output keeps the magnitude of the query.",
        equation: "out_i = β_i c φ(q_i)ᵀ Σ_j φ(k_j) v_jᵀ − γ_i Σ_j v_j, β = 1 + 1/(z + eps), γ = z/N",
        paper: "Fan et al., Rectifying Magnitude Neglect in Linear Attention, ICCV 2025, arXiv 2507.00698",
        inputs: &[
            InputSpec::real("q", "B H Lq D"),
            InputSpec::real("k", "B H Lk D"),
            InputSpec::real("v", "B H Lk Dv"),
        ],
        outputs: &[
            OutputSpec::float("out", "B H Lq Dv"),
            OutputSpec::float("beta", "B H Lq"),
            OutputSpec::float("z", "B H Lq"),
        ],
        forms: &["bidirectional", "cross"],
        kernels: &["transform", "scan", "scan", "attend", "diagnose"],
    };
}

impl Variant for Mala {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [batch, heads, queries, width] = problem.shape("B H Lq Dv")?[..] else { unreachable!("four words") };
        same_heads(problem, plan)?;
        let keys = problem.size("Lk");
        let c = default_scale(self.scale, problem) / keys as f32;
        let [q, k] = ["q", "k"].map(|name| mapped(plan, name, self.phi));
        let (q, k, v) = (q?, k?, plan.input("v")?);
        let count = k.shape[3];
        // Reads of the whole past: sums of features times 1, and times the values.
        let reads = |plan: &mut PlanBuilder, name: &str, [q, k, v, out]: [&Ref; 4]| {
            let state = scratch(plan, &format!("{name}_state"), &[batch, heads, count, v.shape[3]]);
            let io = ScanIo::new(q, k, v, out, &state);
            plan.scan(name, Scan { bidirectional: true, ..Scan::new(c) }, io)
        };
        let ones = plan.constant("ones", HostTensor::from_fn(&[1, 1, 1, 1], |_| 1.0));
        let z = plan.output("z")?.insert(3);
        reads(plan, "z", [&q, &k, &ones.broadcast(&[batch, 1, keys, 1]), &z])?;
        let [q, k] = match self.rope_base {
            None => [q, k],
            Some(base) if base > 0.0 => {
                [rotated(plan, "q", &q, f64::from(base), 0)?, rotated(plan, "k", &k, f64::from(base), 0)?]
            }
            Some(base) => return Err(problem.refuse(ErrorKind::Parameter, "rope_base", "above 0", base)),
        };
        let read = scratch(plan, "read", &[batch, heads, queries, width]);
        reads(plan, "read", [&q, &k, &v, &read])?;
        let total = scratch(plan, "total", &[batch, heads, 1, width]);
        product(plan, "values", &ones.broadcast(&[batch, heads, 1, keys]), &v, 1.0, &total, None)?;
        let beta = plan.output("beta")?.insert(3);
        let steps = vec![hooks::plus(self.eps, 1.0), hooks::power(-1.0), hooks::plus(1.0, 1.0)];
        plan.fold("beta", Fold::each(), &z, &beta, steps)?;
        let out = plan.output("out")?;
        let offset = vec![hooks::times(z.broadcast(&out.shape))];
        let offset = changed(plan, "offset", &total.broadcast(&out.shape), offset)?;
        let steps = vec![hooks::times(beta.broadcast(&out.shape)), hooks::plus(&offset, -1.0 / keys as f32)];
        plan.fold("rectify", Fold::each(), &read, &out, steps)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (keys, width) = (k.shape[2], v.shape[3]);
        let c = scale(self.scale, q) / keys as f64;
        let (fq, fk) = (q.map_rows(|_, x| self.phi.features(x)), k.map_rows(|_, x| self.phi.features(x)));
        let turned = |f: &Array| {
            f.map_rows(|at, x| match self.rope_base {
                None => x.to_vec(),
                Some(base) => rotate(x, &frequencies(f64::from(base), x.len()), at[2] as f64, |c| (2 * c, 2 * c + 1)),
            })
        };
        let (rq, rk) = (turned(&fq), turned(&fk));
        let z = fq.map_rows(|at, f| vec![(0..keys).map(|j| c * dot(f, fk.row(&[at[0], at[1], j]))).sum()]);
        let z = Array { shape: q.shape[..3].to_vec(), ..z };
        let beta = z.map_rows(|_, z| z.iter().map(|z| 1.0 + 1.0 / (z + f64::from(self.eps))).collect());
        let out = rq.map_rows(|at, x| {
            let (b, h) = (at[0], at[1]);
            let (factor, sum) = (beta.get(at), z.get(at));
            let weight = |j: usize| factor * c * dot(x, rk.row(&[b, h, j])) - sum / keys as f64;
            (0..width).map(|e| (0..keys).map(|j| weight(j) * v.get(&[b, h, j, e])).sum()).collect()
        });
        vec![("out", out), ("beta", beta), ("z", z)]
    }
}
