//! Memory as gate: window attention with persistent keys, normed, times the sigmoid of a normed memory.
//!
//! ```text
//! attn_i = Σ_j softmax_j(scale q_i·k_j) v_j     over the persistent keys and i − window < j ≤ i
//! out = rms(attn) ⊙ norm_attn ⊙ σ(rms(mem_out) ⊙ norm_mem)     rms(x) = x / √(mean x² + eps)
//! ```
//!
//! A. Behrouz, P. Zhong, V. Mirrokni, "Titans: Learning to Memorize at Test Time", 2025, arXiv 2501.00663, section 4.2.
//!
//! Kernels `attend` (window), `attend` (persistent keys), `combine` (merge), `transform` (norms), `diagnose` (gate).
//!
//! Limits: the memory's output is an input. Norm weights are 1 where absent.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::transform::{Gate, Norm};
use crate::oracle::{Array, Inputs, Outputs, attention, merge, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{Window, default_scale, every_batch};
use crate::variants::steps::scratch;
use crate::{named, params};

params! {
    /// Titans, memory as gate.
    pub struct TitansMag {
        /// Keys of the window, the query's own included.
        window: usize = 64,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
        /// Added to the mean square in the norms.
        eps: f32 = 1e-6,
    }
}

impl Named for TitansMag {
    const CARD: Card = Card {
        name: "titans-mag",
        family: Family::Linear,
        summary: "Window attention with persistent keys, gated by a memory.",
        equation: "out = rms(attn(q, k, v | window, persistent)) ⊙ w_a ⊙ σ(rms(mem) ⊙ w_m)",
        paper: "Behrouz, Zhong, Mirrokni, Titans, 2025, arXiv 2501.00663",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::float("p_k", "H P D"),
            InputSpec::float("p_v", "H P Dv"),
            InputSpec::float("mem_out", "B H L Dv"),
            InputSpec::float("norm_attn", "Dv").optional(),
            InputSpec::float("norm_mem", "Dv").optional(),
        ],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("attn", "B H L Dv"),
            OutputSpec::float("lse", "B H L"),
        ],
        forms: &["prefill"],
        kernels: &["attend", "attend", "combine", "transform", "transform", "diagnose"],
    };
}

impl Variant for TitansMag {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if self.eps < 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "eps", "0 or more", self.eps));
        }
        let extra = Some([every_batch(problem, plan.input("p_k")?), every_batch(problem, plan.input("p_v")?)]);
        let qkv = [plan.input("q")?, plan.input("k")?, plan.input("v")?];
        let (attn, lse) = (plan.output("attn")?, plan.output("lse")?);
        let near = Window { size: self.window, scale: default_scale(self.scale, problem), qkv, extra };
        near.stages(problem, plan, &attn, &lse)?;
        let normed = ["attn_normed", "mem_normed"].map(|name| scratch(plan, name, &attn.shape));
        let op = Norm { eps: self.eps, gate: Gate::Silu, scale: 1.0 };
        plan.norm("norm attn", op, &attn, None, &normed[0])?;
        plan.norm("norm mem", op, &plan.input("mem_out")?, None, &normed[1])?;
        let out = plan.output("out")?;
        let weight = |name: &str| plan.optional(name).map(|w| hooks::times(w.lead(4).broadcast(&out.shape)));
        let mut steps: Vec<_> = weight("norm_mem").into_iter().collect();
        steps.extend([hooks::logistic(), hooks::times(&normed[0])]);
        steps.extend(weight("norm_attn"));
        plan.fold("gate", Fold::each(), &normed[1], &out, steps)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let scale = scale(self.scale, q);
        let batched = |name: &str| {
            let x = inputs.get(name);
            Array { shape: [&[q.shape[0]], &x.shape[..]].concat(), data: x.data.repeat(q.shape[0]) }
        };
        let near = attention(q, k, v, scale, &|row, j, s| (j <= row.i && j + self.window > row.i).then_some(s));
        let far = attention(q, &batched("p_k"), &batched("p_v"), scale, &|_, _, s| Some(s));
        let (attn, lse) = merge(&[near, far]);
        let rms = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + f64::from(self.eps)).sqrt();
        let out = attn.map_rows(|at, y| {
            let m = inputs.get("mem_out").row(at);
            let (ry, rm) = (rms(y), rms(m));
            let of = |e: usize| {
                let gate = m[e] / rm * inputs.number("norm_mem", &[e], 1.0);
                y[e] / ry * inputs.number("norm_attn", &[e], 1.0) / (1.0 + (-gate).exp())
            };
            (0..y.len()).map(of).collect()
        });
        vec![("out", out), ("attn", attn), ("lse", lse)]
    }
}
