//! Several distributions over a sequence from one context vector, with a bilinear score of low rank: a pooling.
//!
//! ```text
//! f_mt  = tanh(Σ_r (U_mᵀ c)_r (V_mᵀ x_t)_r)     (with activation)
//! f_mt  = f_mt / max(√Σ_m f_mt², 1e-12)         (with l2: over the heads)
//! out_m = Σ_t e^(f_mt − lse_m) x_t     lse_m = ln Σ_t e^(f_mt)     over the valid t
//! ```
//!
//! S. Mehta, H. Rangwala, N. Ramakrishnan, "Low Rank Factorization for Compact Multi-Head Self-Attention", 2019, arXiv
//! 1912.00835, section 3. Activation and norm are switches: an independent implementation has the first and not the second.
//!
//! Kernels: `diagnose` for V_m U_mᵀ c (one query a head, in the space of x), the scores and their norm over the heads, which
//! needs all scores of a token; `attend` with scores from that table and one value head that all heads share.
//!
//! Limits: Cx up to 512. An entry without valid tokens has out = 0 and lse = −∞.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::{Fold, Of};
use crate::oracle::{Array, Inputs, Outputs, features};
use crate::plan::{AttendIo, PlanBuilder};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::LamaActivation;
use crate::variants::steps::{changed, folded, scratch};
use crate::{named, params};

params! {
    /// Low-rank multi-head pooling.
    pub struct LamaAttention {
        /// Activation of the scores.
        activation: LamaActivation = LamaActivation::Tanh,
        /// Scores of a token have norm 1 over the heads.
        l2: bool = true,
    }
}

impl Named for LamaAttention {
    const CARD: Card = Card {
        name: "lama-attention",
        family: Family::Dense,
        summary: "Several distributions over a sequence from one context vector, with a bilinear score of low rank.",
        equation: "out_m = Σ_t softmax_t(f_mt / |f_t|₂) x_t, f_mt = tanh((U_mᵀ c)·(V_mᵀ x_t))",
        paper: "Mehta, Rangwala, Ramakrishnan, Low Rank Factorization, 2019, arXiv 1912.00835",
        inputs: &[
            InputSpec::float("x", "B L Cx"),
            InputSpec::float("context", "B Cx | 1 Cx"),
            InputSpec::float("factor_context", "Mh Cx R"),
            InputSpec::float("factor_token", "Mh Cx R"),
            InputSpec::flag("mask", "B L").optional(),
        ],
        outputs: &[OutputSpec::float("out", "B Mh Cx"), OutputSpec::float("lse", "B Mh")],
        forms: &["bidirectional"],
        kernels: &["diagnose", "diagnose", "diagnose", "attend"],
    };
}

impl Variant for LamaAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let x = plan.input("x")?.insert(1);
        let context = plan.input("context")?.insert(1).insert(1);
        let left = plan.input("factor_context")?.permute(&[0, 2, 1]).insert(0).broadcast(&problem.shape("B Mh R Cx")?);
        let right = plan.input("factor_token")?.insert(0).broadcast(&problem.shape("B Mh Cx R")?);
        let asked = folded(plan, "asked", Fold::sum(), &left, vec![hooks::times(context)])?;
        let query = folded(plan, "query", Fold::sum(), &right, vec![hooks::times(asked.permute(&[0, 1, 3, 2]))])?;
        let query = query.select(3, 0).insert(1);

        let tanh = (self.activation == LamaActivation::Tanh).then(hooks::hyperbolic);
        let scores = scratch(plan, "scores", &problem.shape("B 1 Mh L")?);
        let op = Fold::each().of(Of::Dot);
        plan.fold_pairs("scores", op, [&query, &x, &scores], None, tanh.into_iter().collect())?;
        let mut chain = vec![hooks::take(&scores, 1.0)];
        if self.l2 {
            let heads = scores.permute(&[0, 1, 3, 2]);
            let squares = folded(plan, "squares", Fold::sum(), &heads, vec![hooks::times(&heads)])?;
            let chained = vec![hooks::at_least(1e-24), hooks::power(-0.5)];
            chain.push(hooks::times(changed(plan, "norm", &squares.permute(&[0, 1, 3, 2]), chained)?));
        }
        chain.extend(plan.optional("mask").map(|mask| hooks::given(mask.insert(1).insert(1))));
        let (out, lse) = (plan.output("out")?.insert(1), plan.output("lse")?.insert(1));
        let io = AttendIo::new(&query.narrow(3, 0, 1), &x.narrow(3, 0, 1), &x, &out).lse(&lse);
        plan.attend("attend", Attend::new(1.0), io, chain)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let (x, c) = (inputs.get("x"), inputs.get("context"));
        let (u, v) = (inputs.get("factor_context"), inputs.get("factor_token"));
        let ([batch, length, width], [heads, _, rank]) =
            (x.shape[..].try_into().expect("rank 3"), u.shape[..].try_into().expect("rank 3"));
        let f = Array::zeros(&[batch, length, heads]).map_rows(|at, row| {
            let along = |f: &Array, m: usize, r: usize, of: &dyn Fn(usize) -> f64| -> f64 {
                (0..width).map(|e| f.get(&[m, e, r]) * of(e)).sum()
            };
            let score = |m: usize| -> f64 {
                let left = |r| along(u, m, r, &|e| c.get(&[at[0], e]));
                let right = |r| along(v, m, r, &|e| x.get(&[at[0], at[1], e]));
                (0..rank).map(|r| left(r) * right(r)).sum()
            };
            let f: Vec<f64> = (0..row.len()).map(score).collect();
            let f: Vec<f64> =
                if self.activation == LamaActivation::Tanh { f.iter().map(|f| f.tanh()).collect() } else { f };
            let norm = if self.l2 { f.iter().map(|f| f * f).sum::<f64>().sqrt().max(1e-12) } else { 1.0 };
            f.iter().map(|f| f / norm).collect()
        });
        let valid = |b: usize| (0..length).filter(|&t| inputs.flag("mask", &[b, t])).collect::<Vec<_>>();
        let of = |b: usize, m: usize| valid(b).iter().map(|&t| f.get(&[b, t, m])).collect::<Vec<_>>();
        let lse = Array::zeros(&[batch, heads]).map_rows(|at, row| {
            (0..row.len()).map(|m| of(at[0], m).iter().map(|f| f.exp()).sum::<f64>().ln()).collect()
        });
        let out = Array::zeros(&[batch, heads, width]).map_rows(|at, row| {
            let p = features::softmax(&of(at[0], at[1]));
            let value = |e: usize| valid(at[0]).iter().zip(&p).map(|(&t, p)| p * x.get(&[at[0], t, e])).sum();
            (0..row.len()).map(value).collect()
        });
        vec![("out", out), ("lse", lse)]
    }
}
