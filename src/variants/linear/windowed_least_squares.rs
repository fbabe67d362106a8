//! Ridge regression of the last values on the last keys, at every token anew.
//!
//! ```text
//! M_t = argmin Σ_i γ_i |v_i − Mᵀ φ(k_i)|² + λ_t |M|²     over t − window < i ≤ t     out_t = M_tᵀ φ(q_t)     state = M_L
//! γ_i = weight_i e^{Σ_(i < s ≤ t) g_s}     λ_t = ridge, with decay_ridge ridge e^{Σ_(s ≤ t) g_s}
//! ```
//!
//! K. A. Wang, J. Shi, E. B. Fox, "Test-time regression: a unifying framework for designing sequence models with
//! associative memory", 2025, arXiv 2501.12352, among its exact solvers.
//!
//! Kernels `scan.solve` (x_t = (Σ γ φφᵀ + λ_t)⁻¹ φ(q_t)); with a window, `attend` over it with weights γ_i x_t·φ(k_i), else
//! `scan`; the state is the inverse after the last token (`scan.solve` of the unit vectors) times its Σ γ φ vᵀ (`scan`).
//!
//! Limits: reference quality. With a window every row adds its keys up anew, O(L (window D² + D³)). Features up to 128; always
//! causal; ridge above 0, weights 0 or more. Σ g is kept in f32. The past is the last `window` keys and values, which a call brings itself.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::attend::{Attend, Normaliser};
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::{By, Decay, Scan, Solve};
use crate::oracle::{Array, Inputs, Outputs, dot, shared_head, solve};
use crate::plan::{AttendIo, PlanBuilder, Ref, ScanIo, SolveIo};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::FeatureMap;
use crate::variants::common::{K_OWN, LOG_DECAY, Q_SELF, V_OWN, mapped, of_token};
use crate::variants::linear::mesa_layer::{check_system, ridge_table};
use crate::variants::steps::{every_head, ones, product, scratch};
use crate::{named, params};

params! {
    /// Least squares over a window.
    pub struct WindowedLeastSquares {
        /// Last tokens that count, the row's own included; absent: all.
        window: Option<usize> = None,
        /// λ; above 0.
        ridge: f32 = 1.0,
        /// The ridge decays as the data do, from the first token of the call.
        decay_ridge: bool = false,
        /// φ, of q and k; absent: none.
        feature: Option<FeatureMap> = None,
    }
}

impl Named for WindowedLeastSquares {
    const CARD: Card = Card {
        name: "windowed-least-squares",
        family: Family::Linear,
        summary: "Ridge regression of the last values on the last keys, at every token anew.",
        equation: "out_t = M_tᵀ φ(q_t), M_t = argmin Σ_(t − window < i ≤ t) γ_i |v_i − Mᵀ φ(k_i)|² + λ_t |M|²",
        paper: "Wang, Shi, Fox, Test-time regression, 2025, arXiv 2501.12352",
        inputs: &[Q_SELF, K_OWN, V_OWN, LOG_DECAY, InputSpec::float("weight", "B H L").optional()],
        outputs: &[OutputSpec::float("out", "B H L Dv"), OutputSpec::float("state", "B H D Dv")],
        forms: &["prefill"],
        kernels: &["transform", "scan", "scan", "attend", "diagnose", "scan", "scan", "attend"],
    };
}

/// Σ_(s ≤ t) g_s of (B, H, L, 1), by a scan over values g.
fn sums(plan: &mut PlanBuilder, g: &Ref) -> Result<Ref> {
    let [batch, heads, length, _] = g.shape[..] else { unreachable!("g has four axes") };
    let ones = ones(plan, &[batch, 1, length, 1]);
    let sums = scratch(plan, "sums", &g.shape);
    let last = scratch(plan, "last_sum", &[batch, heads, 1, 1]);
    plan.scan("sums", Scan::new(1.0), ScanIo::new(&ones, &ones, g, &sums, &last))?;
    Ok(sums)
}

impl WindowedLeastSquares {
    fn phi(&self) -> FeatureMap {
        self.feature.unwrap_or(FeatureMap::Identity)
    }
}

impl Variant for WindowedLeastSquares {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if self.window == Some(0) {
            return Err(problem.refuse(ErrorKind::Parameter, "window", "1 or more tokens", 0));
        }
        check_system(problem, self.ridge, self.phi().width(problem.size("D")))?;
        let mut ridge = ridge_table(plan, self.ridge)?;
        let [batch, heads, length, width] = problem.shape("B H L Dv")?[..] else { unreachable!("four words") };
        let window = self.window.filter(|&n| n < length);
        let [q, k] = ["q", "k"].map(|name| mapped(plan, name, self.phi()));
        let (q, k, v) = (q?, k?, plan.input("v")?);
        let depth = k.shape[3];
        let (g, w) = (of_token(plan, "log_decay"), of_token(plan, "weight"));
        let sums = match &g {
            Some(g) if window.is_some() || self.decay_ridge => Some(sums(plan, g)?),
            _ => None,
        };
        if let Some(sums) = sums.as_ref().filter(|_| self.decay_ridge) {
            let table = scratch(plan, "ridges", &sums.shape);
            let steps = vec![hooks::probability(0.0), hooks::times(self.ridge)];
            plan.fold("ridges", Fold::each(), sums, &table, steps)?;
            ridge = table;
        }

        let asked = scratch(plan, "asked", &[batch, heads, length, depth]);
        let mut system = SolveIo::new(&k, &asked);
        (system.q, system.ridge) = (Some(q), Some(ridge.clone()));
        (system.g, system.w) = (g.clone(), w.clone());
        plan.solve("solve", Solve { window, ..Solve::new(By::Inverse) }, system)?;

        // Σ γ φ vᵀ of the last tokens, and the reads besides it.
        let (out, products) = (plan.output("out")?, scratch(plan, "products", &[batch, heads, depth, width]));
        let count = window.unwrap_or(length);
        let late = |x: &Ref| x.narrow(2, length - count, count);
        let reads = match window {
            None => out.clone(),
            Some(_) => scratch(plan, "unused", &[batch, heads, count, width]),
        };
        let mut io = ScanIo::new(&late(&asked), &late(&k), &late(&v), &reads, &products);
        (io.decay, io.w) = (g.as_ref().map(late), w.as_ref().map(late));
        let decay = if g.is_some() { Decay::Scalar } else { Decay::None };
        plan.scan("products", Scan { decay, ..Scan::new(1.0) }, io)?;
        if let Some(window) = window {
            let [keys, values] = [("keys", &k), ("values", &v)].map(|(name, x)| every_head(plan, name, x, heads));
            let io = AttendIo::new(&asked, &keys?, &values?, &out);
            let full = [batch, heads, length, length];
            let mut chain: Vec<_> = w.iter().map(|w| hooks::times(w.permute(&[0, 1, 3, 2]).broadcast(&full))).collect();
            chain.extend(sums.as_ref().map(hooks::faded));
            let op = Attend { normaliser: Normaliser::Weights, window_left: Some(window - 1), ..Attend::new(1.0) };
            plan.attend("read", op.causal(true), io, chain)?;
        }

        let units = HostTensor::from_fn(&[1, 1, depth, depth], |n| if n / depth == n % depth { 1.0 } else { 0.0 });
        let units = plan.constant("units", units).broadcast(&[batch, 1, depth, depth]);
        let inverse = scratch(plan, "inverse", &[batch, heads, depth, depth]);
        let mut system = SolveIo::new(&late(&k), &inverse);
        (system.q, system.g, system.w) = (Some(units), g.as_ref().map(late), w.as_ref().map(late));
        system.ridge = Some(if ridge.shape[2] == 1 { ridge } else { ridge.narrow(2, length - 1, 1) });
        plan.solve("inverse", Solve { last: true, ..Solve::new(By::Inverse) }, system)?;
        let state = plan.output_as("state", &[batch, heads, depth, width])?;
        product(plan, "state", &inverse, &products, 1.0, &state, None)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let phi = |x: &Array| x.map_rows(|_, x| self.phi().features(x));
        let (q, k) = (phi(q), phi(k));
        let heads = q.shape[1].max(k.shape[1]).max(v.shape[1]);
        let ([batch, _, length, d], width) = (k.shape[..].try_into().expect("rank 4"), v.shape[3]);
        let mut out = Array::zeros(&[batch, heads, length, width]);
        let mut state = Array::zeros(&[batch, heads, d, width]);
        for (b, h, t) in (0..batch * heads * length).map(|n| (n / length / heads, n / length % heads, n % length)) {
            let gates = |after: usize| (after..=t).map(|s| inputs.number("log_decay", &[b, h, s], 0.0)).sum::<f64>();
            let ridge = f64::from(self.ridge) * if self.decay_ridge { gates(0).exp() } else { 1.0 };
            let mut a = vec![vec![0.0; d]; d];
            (0..d).for_each(|c| a[c][c] = ridge);
            let mut n = vec![vec![0.0; d]; width];
            for i in (t + 1).saturating_sub(self.window.unwrap_or(length))..=t {
                let gamma = inputs.number("weight", &[b, h, i], 1.0) * gates(i + 1).exp();
                let key = k.row(&[b, shared_head(h, heads, &k), i]);
                let value = v.row(&[b, shared_head(h, heads, v), i]);
                for c in 0..d {
                    (0..d).for_each(|x| a[c][x] += gamma * key[c] * key[x]);
                    (0..width).for_each(|e| n[e][c] += gamma * key[c] * value[e]);
                }
            }
            let query = q.row(&[b, shared_head(h, heads, &q), t]);
            for e in 0..width {
                // Column e of M.
                let m = solve(&a, &n[e]);
                out.set(&[b, h, t, e], dot(&m, query));
                (0..d).for_each(|c| state.set(&[b, h, c, e], m[c]));
            }
        }
        vec![("out", out), ("state", state)]
    }
}
