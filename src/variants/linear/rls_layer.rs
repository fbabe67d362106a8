//! Recursive least squares: a token moves the state along the direction in which its key still tells something new.
//!
//! ```text
//! P ← e^{−g_t} P     κ_t = β_t P k_t / (1 + β_t k_tᵀ P k_t)     S_t = S_{t−1} + κ_t (v_t − S_{t−1}ᵀ k_t)ᵀ     P ← P − κ_t (P k_t)ᵀ
//! out_t = q_tᵀ S_t     P_0 = I / ridge
//! ```
//!
//! K. A. Wang, J. Shi, E. B. Fox, "Test-time regression: a unifying framework for designing sequence models with
//! associative memory", 2025, arXiv 2501.12352, among its exact solvers.
//!
//! Kernels `scan.solve` (the gain κ_t, with P as its state: quadratic in k on both sides, which the recurrence is not),
//! `diagnose` (−κ), then `scan` with key κ and erase vectors k and −κ.
//!
//! Limits: always causal; D up to 128; ridge above 0. The ridge decays with the data, so that this is the mesa layer only
//! without decay. P stays symmetric to the last bit; where decay meets no new keys it grows like e^{−Σg}.

use crate::error::Result;
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::{By, Scan, Solve};
use crate::oracle::{Array, Inputs, Outputs, dot, shared_head};
use crate::plan::{PlanBuilder, ScanIo, SolveIo};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{BETA, K_OWN, LOG_DECAY, Q_SELF, STATE, V_OWN, of_token};
use crate::variants::linear::mesa_layer::check_system;
use crate::variants::steps::scratch;
use crate::{named, params};

params! {
    /// Recursive least squares.
    pub struct RlsLayer {
        /// λ of the regression before the first token; above 0. Not looked at where `p` is given.
        ridge: f32 = 1.0,
    }
}

impl Named for RlsLayer {
    const CARD: Card = Card {
        name: "rls-layer",
        family: Family::Linear,
        summary: "Recursive least squares: a token moves the state where its key tells something new.",
        equation: "S_t = S_{t−1} + κ_t (v_t − S_{t−1}ᵀ k_t)ᵀ, κ_t = β_t P k_t / (1 + β_t k_tᵀ P k_t), out_t = q_tᵀ S_t",
        paper: "Wang, Shi, Fox, Test-time regression, 2025, arXiv 2501.12352",
        inputs: &[Q_SELF, K_OWN, V_OWN, LOG_DECAY, BETA, STATE, InputSpec::float("p", "B H D D").optional()],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("state", "B H D Dv"),
            OutputSpec::float("p", "B H D D"),
        ],
        forms: &["prefill", "recurrent", "step"],
        kernels: &["scan", "diagnose", "scan"],
    };
}

impl Variant for RlsLayer {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        check_system(problem, self.ridge, problem.size("D"))?;
        let (q, k, v) = (plan.input("q")?, plan.input("k")?, plan.input("v")?);
        let shape = problem.shape("B H L D")?;
        let [gain, erase] = ["gain", "erase"].map(|name| scratch(plan, name, &shape));
        let p = plan.output("p")?;
        let before = plan.optional("p").unwrap_or_else(|| {
            let d = p.shape[3];
            let of = |n: usize| if n / d == n % d { 1.0 / self.ridge } else { 0.0 };
            plan.constant("p_0", HostTensor::from_fn(&[1, 1, d, d], of)).broadcast(&p.shape)
        });
        let mut system = SolveIo::new(&k, &gain);
        (system.state_in, system.state) = (Some(before), Some(p));
        (system.g, system.w) = (of_token(plan, "log_decay"), of_token(plan, "beta"));
        plan.solve("gain", Solve::new(By::Gain), system)?;
        plan.fold("erase", Fold::each().scaled(-1.0), &gain, &erase, Vec::new())?;

        let (out, state) = (plan.output("out")?, plan.output("state")?);
        let mut io = ScanIo::new(&q, &gain, &v, &out, &state);
        (io.a, io.b, io.state_in) = (Some(k), Some(erase), plan.optional("state"));
        plan.scan("scan", Scan::new(1.0), io)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let heads = q.shape[1].max(k.shape[1]).max(v.shape[1]);
        let ([batch, _, length, d], width) = (k.shape[..].try_into().expect("rank 4"), v.shape[3]);
        let mut s = inputs.find("state").cloned().unwrap_or_else(|| Array::zeros(&[batch, heads, d, width]));
        let mut p = inputs.find("p").cloned().unwrap_or_else(|| {
            let mut p = Array::zeros(&[batch, heads, d, d]);
            for (b, h, c) in (0..batch * heads * d).map(|n| (n / d / heads, n / d % heads, n % d)) {
                p.set(&[b, h, c, c], 1.0 / f64::from(self.ridge));
            }
            p
        });
        let mut out = Array::zeros(&[batch, heads, length, width]);
        for (b, h, t) in (0..batch * heads * length).map(|n| (n / length / heads, n / length % heads, n % length)) {
            let of = |x: &'_ Array| x.row(&[b, shared_head(h, heads, x), t]).to_vec();
            let (q, k, v) = (of(q), of(k), of(v));
            let (g, beta) = (inputs.number("log_decay", &[b, h, t], 0.0), inputs.number("beta", &[b, h, t], 1.0));
            (0..d).for_each(|c| p.row_mut(&[b, h, c]).iter_mut().for_each(|p| *p /= g.exp()));
            let pk: Vec<f64> = (0..d).map(|c| dot(p.row(&[b, h, c]), &k)).collect();
            let gain: Vec<f64> = pk.iter().map(|x| beta * x / (1.0 + beta * dot(&pk, &k))).collect();
            for e in 0..width {
                let error = v[e] - (0..d).map(|c| s.get(&[b, h, c, e]) * k[c]).sum::<f64>();
                (0..d).for_each(|c| s.set(&[b, h, c, e], s.get(&[b, h, c, e]) + gain[c] * error));
                out.set(&[b, h, t, e], (0..d).map(|c| q[c] * s.get(&[b, h, c, e])).sum());
            }
            for c in 0..d {
                p.row_mut(&[b, h, c]).iter_mut().zip(&pk).for_each(|(p, x)| *p -= gain[c] * x);
            }
        }
        vec![("out", out), ("state", s), ("p", p)]
    }
}
