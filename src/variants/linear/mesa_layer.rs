//! The mesa layer: at every token the exact ridge regression of the values so far on the keys so far, read with the query.
//!
//! ```text
//! H_t = e^{g_t} H_{t−1} + β_t k_t k_tᵀ     N_t = e^{g_t} N_{t−1} + β_t k_t v_tᵀ     out_t = N_tᵀ (H_t + Λ)⁻¹ q_t
//! ```
//!
//! J. von Oswald et al., "MesaNet: Sequence Modeling by Locally Optimal Test-Time Training", ICLR 2026, arXiv 2506.05233,
//! the Mesa layer.
//!
//! Kernels `scan.solve` (x_t = (H_t + Λ)⁻¹ q_t, with H as its state; a solve at every read, which the recurrence alone
//! does not have), then `scan` with x in place of q. Many tokens run in segments, whose first H comes from `scan`.
//!
//! Limits: always causal; D up to 128. The ridge Λ is static, `ridge` or `ridge_diag` (H, D), above 0. The direct solution
//! leaves out directions with a pivot below 1e-7 of the largest diagonal; f32 keeps about 1e-7 (1 + |k|² t / λ).

use crate::error::{ErrorKind, Result};
use crate::kernel::scan::{By, DEEPEST, Scan, Solve};
use crate::oracle::{Array, Inputs, Outputs, Recurrence, conjugate_gradients, shared_head, solve};
use crate::plan::{PlanBuilder, Ref, ScanIo, SolveIo};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{BETA, K_OWN, LOG_DECAY, Q_SELF, V_OWN, decay_of, of_token};
use crate::variants::steps::scratch;
use crate::{named, params};

params! {
    /// The mesa layer.
    pub struct MesaLayer {
        /// λ, added to the diagonal of H; above 0.
        ridge: f32 = 1.0,
        /// Steps of conjugate gradients; absent: a direct solution.
        iterations: Option<usize> = None,
    }
}

impl Named for MesaLayer {
    const CARD: Card = Card {
        name: "mesa-layer",
        family: Family::Linear,
        summary: "The ridge regression of values on keys so far, solved at every token.",
        equation: "out_t = N_tᵀ (H_t + Λ)⁻¹ q_t, H_t = e^{g_t} H_{t−1} + β_t k_t k_tᵀ, N_t = e^{g_t} N_{t−1} + β_t k_t v_tᵀ",
        paper: "von Oswald et al., MesaNet, ICLR 2026, arXiv 2506.05233",
        inputs: &[
            Q_SELF,
            K_OWN,
            V_OWN,
            LOG_DECAY,
            BETA,
            InputSpec::float("ridge_diag", "H D").optional(),
            InputSpec::float("state_kk", "B H D D").optional(),
            InputSpec::float("state_kv", "B H D Dv").optional(),
        ],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("state_kk", "B H D D"),
            OutputSpec::float("state_kv", "B H D Dv"),
        ],
        forms: &["prefill", "chunked", "recurrent", "step"],
        kernels: &["scan", "scan"],
    };
}

/// λ of every row as a table that broadcasts.
pub(super) fn ridge_table(plan: &mut PlanBuilder, ridge: f32) -> Result<Ref> {
    Ok(plan.constant("ridge", HostTensor::new(&[1, 1, 1, 1], vec![ridge])?))
}

/// What a system of `depth` channels takes: a ridge above 0, without which the first tokens have no solution.
pub(super) fn check_system(problem: &Problem, ridge: f32, depth: usize) -> Result<()> {
    if ridge <= 0.0 {
        return Err(problem.refuse(ErrorKind::Parameter, "ridge", "a number above 0", ridge));
    }
    if depth > DEEPEST {
        return Err(problem.refuse(ErrorKind::Limit, "k", format!("up to {DEEPEST} channels"), depth));
    }
    Ok(())
}

impl Variant for MesaLayer {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        check_system(problem, self.ridge, problem.size("D"))?;
        let ridge = match plan.optional("ridge_diag") {
            Some(given) => given.insert(1).insert(0),
            None => ridge_table(plan, self.ridge)?,
        };
        let (q, k, v) = (plan.input("q")?, plan.input("k")?, plan.input("v")?);
        let asked = scratch(plan, "asked", &problem.shape("B H L D")?);
        let (out, state) = (plan.output("out")?, plan.output("state_kv")?);
        let mut io = ScanIo::new(&asked, &k, &v, &out, &state);
        io.state_in = plan.optional("state_kv");
        io.w = of_token(plan, "beta");
        let decay = plan.optional("log_decay").map(|g| decay_of(&mut io, g));

        let mut system = SolveIo::new(&k, &asked);
        (system.q, system.ridge) = (Some(q), Some(ridge));
        (system.g, system.w) = (io.decay.clone(), io.w.clone());
        (system.state_in, system.state) = (plan.optional("state_kk"), Some(plan.output("state_kk")?));
        let by = self.iterations.map_or(By::Inverse, By::Steps);
        plan.solve("solve", Solve::new(by), system)?;
        let op = Scan::new(1.0);
        plan.scan("scan", Scan { decay: decay.unwrap_or(op.decay), ..op }, io)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let gate = |at: [usize; 3], _: usize| inputs.number("log_decay", &at, 0.0);
        let write = |at: [usize; 3]| inputs.number("beta", &at, 1.0);
        let plain = Recurrence::new([q, k, v], 1.0);
        let (heads, [batch, _, length, d]) = (plain.heads, k.shape[..].try_into().expect("rank 4"));
        let mut h_state = inputs.find("state_kk").cloned().unwrap_or_else(|| Array::zeros(&[batch, heads, d, d]));
        let mut asked = Array::zeros(&[batch, heads, length, d]);
        for (b, h, t) in (0..batch * heads * length).map(|n| (n / length / heads, n / length % heads, n % length)) {
            let key = k.row(&[b, shared_head(h, heads, k), t]);
            let (decay, beta) = (gate([b, h, t], 0).exp(), write([b, h, t]));
            for c in 0..d {
                let row = h_state.row_mut(&[b, h, c]);
                row.iter_mut().zip(key).for_each(|(m, x)| *m = decay * *m + beta * key[c] * x);
            }
            let with_ridge = |c: usize| {
                let mut row = h_state.row(&[b, h, c]).to_vec();
                row[c] += inputs.number("ridge_diag", &[h, c], f64::from(self.ridge));
                row
            };
            let a: Vec<Vec<f64>> = (0..d).map(with_ridge).collect();
            let query = q.row(&[b, shared_head(h, heads, q), t]);
            let x = self.iterations.map_or_else(|| solve(&a, query), |n| conjugate_gradients(&a, query, n));
            asked.row_mut(&[b, h, t]).copy_from_slice(&x);
        }
        let state = inputs.find("state_kv");
        let read = Recurrence { qkv: [&asked, k, v], gate: &gate, write: &write, state, ..plain };
        let [out, state, _] = read.run();
        vec![("out", out), ("state_kk", h_state), ("state_kv", state)]
    }
}
