//! Linear attention with rotary positions, one exponential decay per head and a norm per head: the retentive network.
//!
//! ```text
//! q̂_t = D^-1/2 R(t + offset) q_t     k̂_t = R(t + offset) k_t     R turns channels 2c, 2c+1 by position · θ_c
//! S_t = γ_h S_{t−1} + k̂_t v_tᵀ     raw_t = q̂_tᵀ S_t              γ_h = 1 − 2^(−5−h)
//! out_t = raw_t / √(mean raw_t² + eps) ⊙ silu(gate_t)
//! ```
//!
//! Y. Sun, L. Dong, S. Huang, S. Ma, Y. Xia, J. Xue, J. Wang, F. Wei, "Retentive Network: A Successor to Transformer
//! for Large Language Models", 2023, arXiv 2307.08621, sections 2.1 and 2.2.
//!
//! Kernels `transform` (rotary), `scan` with decay per head, `transform` (norm and gate).
//!
//! Limits: always causal. The norm is the root mean square of a head's row, without weights and without removing the
//! mean (the paper has a group norm). The three normalisations of the scores in the paper cancel in it as eps → 0 and
//! are left out. Without `gate` the last factor is 1. With D odd the last channel is not rotated. q, k and v may each
//! have fewer heads than the state.

use crate::error::{ErrorKind, Result};
use crate::kernel::scan::{Decay, Scan};
use crate::kernel::transform::{Gate, Norm, Rotary};
use crate::oracle::{Inputs, Outputs, frequencies, rotate, scan};
use crate::plan::{PlanBuilder, Ref, ScanIo};
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{STATE, rotated};
use crate::{named, params};

params! {
    /// Multi-scale retention.
    pub struct Retention {
        /// Position of the first token.
        offset: usize = 0,
        /// Added to the mean square in the norm.
        eps: f32 = 1e-6,
    }
}

impl Named for Retention {
    const CARD: Card = Card {
        name: "retention",
        family: Family::Linear,
        summary: "Linear attention with rotary positions, a decay per head and a norm per head.",
        equation: "S_t = γ_h S_{t−1} + R_t k_t v_tᵀ, out_t = norm((R_t q_t)ᵀ S_t / √D) ⊙ silu(gate_t)",
        paper: "Sun et al., Retentive Network, 2023, arXiv 2307.08621",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::float("log_decay", "H").optional(),
            InputSpec::float("gate", "B H L Dv").optional(),
            InputSpec::float("theta", "D//2").optional(),
            STATE,
        ],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("state", "B H D Dv"),
            OutputSpec::float("raw", "B H L Dv"),
        ],
        forms: &["prefill", "chunked", "recurrent", "step"],
        kernels: &["transform", "scan", "transform"],
    };
}

impl Variant for Retention {
    named!();

    fn after(&self, tokens: usize) -> Option<Box<dyn Variant>> {
        Some(Box::new(Self { offset: self.offset + tokens, ..self.clone() }))
    }

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [length, heads, d] = ["L", "H", "D"].map(|letter| problem.size(letter));
        if self.eps < 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "eps", "0 or more", self.eps));
        }
        if self.offset + length >= 1 << 31 {
            let expected = format!("below 2^31 - L = {}", (1 << 31) - length);
            return Err(problem.refuse(ErrorKind::Parameter, "offset", expected, self.offset));
        }
        let turn = |plan: &mut PlanBuilder, name: &str| -> Result<Ref> {
            let x = plan.input(name)?;
            let Some(theta) = plan.optional("theta").filter(|_| d > 1) else {
                return rotated(plan, name, &x, 10000.0, self.offset);
            };
            let out = plan.scratch(&format!("{name}_turned"), DType::F32, &x.shape);
            let op = Rotary { interleaved: true, offset: self.offset, scale: 1.0 };
            let theta = theta.insert(0).insert(0).insert(0);
            plan.rotary(&format!("{name}_turned"), op, &x, &out, vec![("theta", theta)])?;
            Ok(out)
        };
        let turned = [turn(plan, "q")?, turn(plan, "k")?];
        let decay = match plan.optional("log_decay") {
            Some(given) => given,
            None => {
                let decay: Vec<f32> = (0..heads).map(|h| (-(-5.0 - h as f64).exp2()).ln_1p() as f32).collect();
                plan.constant("decay", HostTensor::new(&[heads], decay)?)
            }
        };
        let (raw, state) = (plan.output("raw")?, plan.output("state")?);
        let mut io = ScanIo::new(&turned[0], &turned[1], &plan.input("v")?, &raw, &state);
        io.state_in = plan.optional("state");
        io.decay = Some(decay.insert(1).insert(1).insert(0));
        let scale = (d as f64).powf(-0.5) as f32;
        plan.scan("scan", Scan { decay: Decay::Scalar, ..Scan::new(scale) }, io)?;
        let out = plan.output("out")?;
        let gate = plan.optional("gate");
        plan.norm("norm", Norm { eps: self.eps, gate: Gate::Silu, scale: 1.0 }, &raw, gate.as_ref(), &out)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let heads = q.shape[1].max(k.shape[1]).max(v.shape[1]);
        let d = q.shape[3];
        let theta = inputs.find("theta").map_or_else(|| frequencies(10000.0, d), |given| given.data.clone());
        let log_decay = inputs.find("log_decay").map_or_else(
            || (0..heads).map(|h| (-(-5.0 - h as f64).exp2()).ln_1p()).collect(),
            |given| given.data.clone(),
        );
        let turned = |at: &[usize], x: &[f64]| rotate(x, &theta, (at[2] + self.offset) as f64, |c| (2 * c, 2 * c + 1));
        let q = q.map_rows(|at, x| turned(at, x).iter().map(|x| x / (d as f64).sqrt()).collect());
        let (raw, state) = scan(&q, &k.map_rows(turned), v, &log_decay, inputs.find("state"));
        let out = raw.map_rows(|at, y| {
            let rms = (y.iter().map(|y| y * y).sum::<f64>() / y.len() as f64 + f64::from(self.eps)).sqrt();
            let gate = |e: usize| inputs.find("gate").map_or(1.0, |g| g.row(at)[e] / (1.0 + (-g.row(at)[e]).exp()));
            y.iter().enumerate().map(|(e, y)| y / rms * gate(e)).collect()
        });
        vec![("out", out), ("state", state), ("raw", raw)]
    }
}
