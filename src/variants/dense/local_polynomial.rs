//! Softmax attention read as local regression: values may change linearly or quadratically around the query.
//!
//! ```text
//! p_ij  = e^(scale q_i·k_j − lse_i)
//! out_i = c of min Σ_j p_ij |v_j − c − C φ(k_j − q_i)|² + ridge |C|²     φ(z) = z (degree 1), z and all z_a z_b, a ≤ b (degree 2)
//! degree 1: out = v̄ + Tᵀ S⁻¹ (q − k̄), S = Σ p (k − k̄)(k − k̄)ᵀ + ridge I, T = Σ p (k − k̄)(v − v̄)ᵀ     degree 0: out = v̄
//! ```
//!
//! K. A. Wang, J. Shi, E. B. Fox, "Test-time regression: a unifying framework for designing sequence models with
//! associative memory", 2025, arXiv 2501.12352, section 3.4.
//!
//! Kernels `attend` for lse (all there is for degree 0), `diagnose` for p, and one of its own, `attend/polynomial`: a
//! covariance and a solve a query have no place in a streaming softmax, and hooks change scores, not sums.
//!
//! Limits: at most 64 monomials (D up to 64, of degree 2 up to 9), Dv up to 512, O(Lq Lk) memory for p. Without a ridge S must
//! be regular: no mask, no causality and more keys than monomials. Tolerance 1e-3.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::{Fold, Of};
use crate::kernel::polynomial::{MOST_PLACES, Polynomial};
use crate::oracle::{Array, Inputs, Outputs, attention, attention_map, least_squares, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, Named, Variant};
use crate::variants::common::{K, LSE, MASK, OUT, Q, V, attend_io, default_scale, given_mask};
use crate::variants::steps::{row_lse, scratch};
use crate::{named, params};

params! {
    /// Local polynomial regression by softmax weights.
    pub struct LocalPolynomialAttention {
        /// 0 (softmax attention), 1 or 2.
        degree: usize = 1,
        /// Added to the weighted covariance of the monomials, not to the constant.
        ridge: f32 = 0.0,
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for LocalPolynomialAttention {
    const CARD: Card = Card {
        name: "local-polynomial-attention",
        family: Family::Dense,
        summary: "Softmax attention whose values may change linearly or quadratically around the query.",
        equation: "out_i = c of min Σ_j p_ij |v_j − c − C φ(k_j − q_i)|² + ridge |C|²",
        paper: "Wang, Shi, Fox, Test-time regression, 2025, arXiv 2501.12352",
        inputs: &[Q, K, V, MASK],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend", "diagnose", "attend"],
    };
}

impl Variant for LocalPolynomialAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        let (mask, lse) = (given_mask(problem, plan)?, plan.output("lse")?);
        if self.degree == 0 {
            let io = attend_io(plan)?.lse(&lse);
            return plan.attend("attend", op, io, mask);
        }
        self.check(problem)?;
        let (q, k, v) = (plan.input("q")?, plan.input("k")?, plan.input("v")?);
        row_lse(plan, op, [&q, &k], &lse, mask.clone())?;
        let weights = scratch(plan, "weights", &problem.shape("B H Lq Lk")?);
        let each = Fold::each().of(Of::Dot).scaled(op.scale).causal(self.causal);
        let mut chain = mask;
        chain.push(hooks::probability(lse.insert(3)));
        plan.fold_pairs("weights", each, [&q, &k, &weights], None, chain)?;
        let out = plan.output("out")?;
        plan.polynomial("fit", Polynomial { degree: self.degree, ridge: self.ridge }, [&q, &k, &v, &weights], &out)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let pairs = |row, j, s| inputs.allowed(self.causal, row, j).then_some(s);
        let (mut out, lse) = attention(q, k, v, scale(self.scale, q), &pairs);
        if self.degree > 0 {
            let map = attention_map(q, k, scale(self.scale, q), &pairs);
            let group = q.shape[1] / k.shape[1];
            out = out.map_rows(|at, row| self.fit(at, [q, k, v], map.row(at), at[1] / group, row.len()));
        }
        vec![("out", out), ("lse", lse)]
    }
}

impl LocalPolynomialAttention {
    fn check(&self, problem: &Problem) -> Result<()> {
        if self.degree > 2 {
            return Err(problem.refuse(ErrorKind::Parameter, "degree", "0, 1 or 2", self.degree));
        }
        if self.ridge < 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "ridge", "0 or more", self.ridge));
        }
        let (depth, keys) = (problem.size("D"), problem.size("Lk"));
        let places = Polynomial::places(self.degree, depth);
        if places > MOST_PLACES {
            let expected = format!("a degree with at most {MOST_PLACES} monomials");
            return Err(problem.refuse(ErrorKind::Limit, "degree", expected, format!("{places} of D = {depth}")));
        }
        if self.ridge == 0.0 && (self.causal || problem.has("mask") || keys <= places) {
            let expected = format!("a number above 0 where a row may see no more than {places} keys");
            return Err(problem.refuse(ErrorKind::Parameter, "ridge", expected, 0));
        }
        Ok(())
    }

    /// The definition: c of the weighted least squares in the unknowns [c, C], by its normal equations.
    fn fit(&self, at: &[usize], [q, k, v]: [&Array; 3], p: &[f64], kv: usize, width: usize) -> Vec<f64> {
        let (query, ridge) = (q.row(at), format!("{:e}", self.ridge).parse::<f64>().expect("a number"));
        let phi = |j: usize| {
            let z: Vec<f64> = k.row(&[at[0], kv, j]).iter().zip(query).map(|(k, q)| k - q).collect();
            let mut phi = z.clone();
            if self.degree == 2 {
                phi.extend((0..z.len()).flat_map(|a| (a..z.len()).map(move |b| (a, b))).map(|(a, b)| z[a] * z[b]));
            }
            phi
        };
        let rows: Vec<(f64, Vec<f64>, &[f64])> =
            (0..p.len()).filter(|&j| p[j] > 0.0).map(|j| (p[j], phi(j), v.row(&[at[0], kv, j]))).collect();
        if rows.is_empty() { vec![0.0; width] } else { least_squares(&rows, ridge) }
    }
}
