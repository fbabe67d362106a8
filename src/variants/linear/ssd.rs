//! A state space with one decay per head and token: the selective state space of Mamba-2 as a scan.
//!
//! ```text
//! S_t = e^{Δ_t a} S_{t−1} + Δ_t B_t x_tᵀ     out_t = C_tᵀ S_t + D x_t     a < 0 and D per head; B and C per group of heads
//! ```
//!
//! T. Dao, A. Gu, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space
//! Duality", ICML 2024, arXiv 2405.21060, sections 3 and 6.
//!
//! Kernels `diagnose` (Δ a), `scan` with decay per head and token and write weight Δ, `diagnose` (skip).
//!
//! Limits: always causal. Δ is used as given, positive already. The short convolution and the gated norm around it are
//! outside. H must be a multiple of the G groups.

use crate::error::Result;
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::{Decay, Scan};
use crate::oracle::{Inputs, Outputs, Recurrence};
use crate::plan::{PlanBuilder, ScanIo};
use crate::problem::Problem;
use crate::tensor::DType;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::{named, params};

params! {
    /// State space duality, Mamba-2.
    pub struct Ssd {}
}

impl Named for Ssd {
    const CARD: Card = Card {
        name: "ssd",
        family: Family::Linear,
        summary: "A state space with one decay per head and token.",
        equation: "S_t = e^{Δ_t a} S_{t−1} + Δ_t B_t x_tᵀ, out_t = C_tᵀ S_t + D x_t",
        paper: "Dao, Gu, Transformers are SSMs, ICML 2024, arXiv 2405.21060",
        inputs: &[
            InputSpec::real("x", "B H L P"),
            InputSpec::float("dt", "B H L"),
            InputSpec::float("a", "H"),
            InputSpec::real("bmat", "B G L Ns"),
            InputSpec::real("cmat", "B G L Ns"),
            InputSpec::float("skip", "H").optional(),
            InputSpec::float("state", "B H Ns P").optional(),
        ],
        outputs: &[OutputSpec::float("out", "B H L P"), OutputSpec::float("state", "B H Ns P")],
        forms: &["prefill", "chunked", "recurrent", "step"],
        kernels: &["diagnose", "scan", "diagnose"],
    };
}

impl Variant for Ssd {
    named!();

    fn plan(&self, _: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (x, dt) = (plan.input("x")?, plan.input("dt")?.insert(3));
        let per_head = |x: crate::plan::Ref| x.insert(1).insert(1).insert(0);
        let (rate, skip) = (per_head(plan.input("a")?), plan.optional("skip").map(per_head));
        let decay = plan.scratch("decay", DType::F32, &dt.shape);
        plan.fold("decay", Fold::each(), &dt, &decay, vec![hooks::times(rate.broadcast(&dt.shape))])?;
        let (out, state) = (plan.output("out")?, plan.output("state")?);
        let read = if skip.is_some() { plan.scratch("read", DType::F32, &out.shape) } else { out.clone() };
        let mut io = ScanIo::new(&plan.input("cmat")?, &plan.input("bmat")?, &x, &read, &state);
        io.state_in = plan.optional("state");
        (io.decay, io.w) = (Some(decay), Some(dt));
        plan.scan("scan", Scan { decay: Decay::Scalar, ..Scan::new(1.0) }, io)?;
        match skip {
            Some(skip) => {
                let steps = vec![hooks::times(skip.broadcast(&out.shape)), hooks::plus(&read, 1.0)];
                plan.fold("skip", Fold::each(), &x, &out, steps)
            }
            None => Ok(()),
        }
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let qkv = ["cmat", "bmat", "x"].map(|name| inputs.get(name));
        let step = |at: [usize; 3]| inputs.get("dt").get(&at);
        let gate = |at: [usize; 3], _: usize| step(at) * inputs.get("a").get(&[at[1]]);
        let state = inputs.find("state");
        let [read, state, _] = Recurrence { gate: &gate, write: &step, state, ..Recurrence::new(qkv, 1.0) }.run();
        let out = read.map_rows(|at, y| {
            let skip = inputs.number("skip", &[at[1]], 0.0);
            y.iter().zip(inputs.get("x").row(at)).map(|(y, x)| y + skip * x).collect()
        });
        vec![("out", out), ("state", state)]
    }
}
