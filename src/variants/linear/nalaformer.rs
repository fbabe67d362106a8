//! Linear attention with query features that sharpen with the norm of the query, and channels of opposite sign kept apart.
//!
//! ```text
//! n = ‖q‖, d = q / n, p = lam (offset + tanh n)
//! f_q = [max(d, 0)^p, max(−d, 0)^p]     f_k = [max(k, 0)^κ, max(−k, 0)^κ], κ = key_power
//! den_i = f_q,i · mean_j f_k,j + eps     out_i = R(f_q,i)ᵀ Σ_j R(f_k,j) v_jᵀ / (N den_i)     R: rotary of each half if rope_base
//! ```
//!
//! W. Meng et al., "Norm-Aware Linear Attention for Transformer Models" (NaLaFormer), 2025, arXiv 2506.21137, section 4,
//! with the sign handling of the authors' code.
//!
//! Kernels `diagnose` (features, denominator), `transform` (rotary), `scan` without causality for each half.
//!
//! Limits: every query sees every key. A query of zeros has features 0 and gives 0. q, k and v have the same heads.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::Scan;
use crate::oracle::{Array, Inputs, Outputs, dot, frequencies, rotate};
use crate::plan::{PlanBuilder, Ref, ScanIo};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{rotated, same_heads};
use crate::variants::steps::{changed, folded, scratch};
use crate::{named, params};

params! {
    /// Norm-aware linear attention.
    pub struct Nalaformer {
        /// λ of the exponent.
        lam: f32 = 3.0,
        /// Offset of the exponent.
        offset: f32 = 0.5,
        /// Exponent of the key features.
        key_power: usize = 3,
        /// Added to the mean weight.
        eps: f32 = 1e-6,
        /// Base of the rotary angles of the numerator; none where absent.
        rope_base: Option<f32> = None,
    }
}

impl Named for Nalaformer {
    const CARD: Card = Card {
        name: "nalaformer",
        family: Family::Linear,
        summary: "Linear attention with features that sharpen with the norm of the query.",
        equation: "out_i = f(q_i)ᵀ Σ_j f(k_j) v_jᵀ / (N f(q_i)·mean_j f(k_j) + N eps), f = [max(x, 0)^p, max(−x, 0)^p]",
        paper: "Meng et al., Norm-Aware Linear Attention for Transformer Models, 2025, arXiv 2506.21137",
        inputs: &[
            InputSpec::real("q", "B H Lq D"),
            InputSpec::real("k", "B H Lk D"),
            InputSpec::real("v", "B H Lk Dv"),
        ],
        outputs: &[OutputSpec::float("out", "B H Lq Dv"), OutputSpec::float("den", "B H Lq")],
        forms: &["bidirectional", "cross"],
        kernels: &["diagnose", "transform", "scan", "diagnose"],
    };
}

impl Nalaformer {
    /// Features of the positive (sign 1) or negative (sign −1) channels of q and k.
    fn features(&self, plan: &mut PlanBuilder, sign: f32, direction: &Ref, exponent: &Ref) -> Result<[Ref; 2]> {
        let k = plan.input("k")?;
        let side = changed(plan, "side", direction, vec![hooks::times(sign)])?;
        // side^p = e^{p ln side}, 0 where side is not above 0.
        let power = vec![
            hooks::take(0.0, 0.0),
            hooks::log_factor(side.clone()),
            hooks::times(exponent.broadcast(&side.shape)),
            hooks::probability(0.0),
        ];
        let of_q = changed(plan, "features_q", &side, power)?;
        let mut power = vec![hooks::times(sign), hooks::at_least(0.0)];
        if self.key_power != 1 {
            power.push(hooks::power(self.key_power as f32));
        }
        Ok([of_q, changed(plan, "features_k", &k, power)?])
    }
}

impl Variant for Nalaformer {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [batch, heads, queries] = problem.shape("B H Lq")?[..] else { unreachable!("three words") };
        same_heads(problem, plan)?;
        let (keys, depth) = (problem.size("Lk"), problem.size("D"));
        if self.key_power == 0 {
            return Err(problem.refuse(ErrorKind::Parameter, "key_power", "1 or more", 0));
        }
        let base = self.rope_base.map(f64::from);
        if let Some(base) = base.filter(|base| *base <= 0.0) {
            return Err(problem.refuse(ErrorKind::Parameter, "rope_base", "above 0", base));
        }
        let (q, v) = (plan.input("q")?, plan.input("v")?);
        let square = folded(plan, "square", Fold::sum(), &q, vec![hooks::times(&q)])?;
        let length = changed(plan, "length", &square, vec![hooks::power(0.5)])?;
        let direction = changed(plan, "direction", &q, vec![hooks::over(length.broadcast(&q.shape))])?;
        let steps = vec![hooks::hyperbolic(), hooks::plus(self.offset, 1.0), hooks::times(self.lam)];
        let exponent = changed(plan, "exponent", &length, steps)?;

        let ones = plan.constant("ones", HostTensor::from_fn(&[1, 1, 1, 1], |_| 1.0)).broadcast(&[batch, 1, keys, 1]);
        // A read of one half, added to the one before.
        let reads = |plan: &mut PlanBuilder, name: &str, [q, k, v]: [&Ref; 3], before: Option<Ref>| -> Result<Ref> {
            let one = scratch(plan, name, &[batch, heads, queries, v.shape[3]]);
            let state = scratch(plan, &format!("{name}_state"), &[batch, heads, depth, v.shape[3]]);
            let op = Scan { bidirectional: true, ..Scan::new(1.0 / keys as f32) };
            plan.scan(name, op, ScanIo::new(q, k, v, &one, &state))?;
            match before {
                None => Ok(one),
                Some(before) => changed(plan, &format!("{name}_both"), &one, vec![hooks::plus(&before, 1.0)]),
            }
        };
        let (mut read, mut by) = (None, None);
        for sign in [1.0, -1.0] {
            let [fq, fk] = self.features(plan, sign, &direction, &exponent)?;
            by = Some(reads(plan, "sum", [&fq, &fk, &ones], by)?);
            let [fq, fk] = match base {
                None => [fq, fk],
                Some(base) => [rotated(plan, "q", &fq, base, 0)?, rotated(plan, "k", &fk, base, 0)?],
            };
            read = Some(reads(plan, "read", [&fq, &fk, &v], read)?);
        }
        let (Some(read), Some(by)) = (read, by) else { unreachable!("two halves") };
        let den = plan.output("den")?.insert(3);
        plan.fold("den", Fold::each(), &by, &den, vec![hooks::plus(self.eps, 1.0)])?;
        let out = plan.output("out")?;
        plan.fold("divide", Fold::each(), &read, &out, vec![hooks::over(den.broadcast(&out.shape))])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (d, keys, width) = (q.shape[3], k.shape[2], v.shape[3]);
        let signed = |x: &[f64], p: f64| -> Vec<f64> {
            let half = |sign: f64| x.iter().map(move |x| if sign * x > 0.0 { (sign * x).powf(p) } else { 0.0 });
            half(1.0).chain(half(-1.0)).collect()
        };
        let fq = q.map_rows(|_, x| {
            let n = dot(x, x).sqrt();
            let direction: Vec<f64> = x.iter().map(|x| if n == 0.0 { 0.0 } else { x / n }).collect();
            signed(&direction, f64::from(self.lam) * (f64::from(self.offset) + n.tanh()))
        });
        let fk = k.map_rows(|_, x| signed(x, self.key_power as f64));
        let turned = |f: &Array| {
            f.map_rows(|at, x| match self.rope_base {
                None => x.to_vec(),
                Some(base) => {
                    let theta = frequencies(f64::from(base), d);
                    let half = |x: &[f64]| rotate(x, &theta, at[2] as f64, |c| (2 * c, 2 * c + 1));
                    [half(&x[..d]), half(&x[d..])].concat()
                }
            })
        };
        let (rq, rk) = (turned(&fq), turned(&fk));
        let den_of = |b, h, i| {
            let sum: f64 = (0..keys).map(|j| dot(fq.row(&[b, h, i]), fk.row(&[b, h, j]))).sum();
            sum / keys as f64 + f64::from(self.eps)
        };
        let [batch, heads, queries, _] = q.shape[..] else { panic!("rank 4") };
        let den = Array::zeros(&[batch, heads, queries, 1]).map_rows(|at, _| vec![den_of(at[0], at[1], at[2])]);
        let out = rq.map_rows(|at, x| {
            let (b, h, i) = (at[0], at[1], at[2]);
            let by = den.row(&[b, h, i])[0];
            let weight = |j: usize| dot(x, rk.row(&[b, h, j])) / (keys as f64 * by);
            (0..width).map(|e| (0..keys).map(|j| weight(j) * v.get(&[b, h, j, e])).sum()).collect()
        });
        vec![("out", out), ("den", Array { shape: q.shape[..3].to_vec(), ..den })]
    }
}
