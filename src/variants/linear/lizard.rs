//! A gated linear branch for the far past and a softmax window with meta keys for the near one, added up.
//!
//! ```text
//! φ(x) = [e^{x W}, e^{−x W}]     S_t = diag(e^{g_t}) S_{t−1} + φ(k_t) v_tᵀ     z_t = e^{g_t} ⊙ z_{t−1} + φ(k_t)
//! linear_t = φ(q_t)ᵀ S_t / (φ(q_t)ᵀ z_t + eps)
//! window_t = Σ_j softmax_j(scale q_t·k_j) v_j     over the meta keys and t − window < j ≤ t
//! out = weight_linear linear + weight_window window
//! ```
//!
//! C. Nguyen et al., "Lizard: An Efficient Linearization Framework for Large Language Models", 2025, arXiv 2507.09025,
//! sections 3.1 and 3.2.
//!
//! Kernels `attend` (W), `transform` (map), `scan` with decay and normaliser sum, `attend` (window), `attend` (meta keys),
//! `combine` (merge), `diagnose` (sum).
//!
//! Limits: always causal. W is the identity where `phi_q` or `phi_k` is absent. e^{|x W|} must stay below 1e38: |x W| < 87.
//! The window's keys are no state: it sees what the call holds.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::{Divide, Scan};
use crate::kernel::transform::{Feature, Map};
use crate::oracle::{Array, Inputs, Outputs, Recurrence, attention, dot, merge, scale};
use crate::plan::{PlanBuilder, ScanIo};
use crate::problem::Problem;
use crate::tensor::DType;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::FeatureMap;
use crate::variants::common::{Window, decay_of, default_scale, gate_at, projected};
use crate::{named, params};

params! {
    /// Lizard.
    pub struct Lizard {
        /// Keys of the window, the query's own included.
        window: usize = 128,
        /// Factor of the linear branch.
        weight_linear: f32 = 1.0,
        /// Factor of the window branch.
        weight_window: f32 = 1.0,
        /// Added to the sum of the linear branch's weights.
        eps: f32 = 1e-6,
        /// Factor of q·k in the window; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for Lizard {
    const CARD: Card = Card {
        name: "lizard",
        family: Family::Linear,
        summary: "A gated linear branch for the far past and a softmax window with meta keys for the near one.",
        equation: "out = w_lin φ(q)ᵀ S / (φ(q)ᵀ z + eps) + w_win attn(q, k, v | window, meta)",
        paper: "Nguyen et al., Lizard, 2025, arXiv 2507.09025",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::float("log_decay", "B H L | B H L F"),
            InputSpec::float("k_meta", "H M D"),
            InputSpec::float("v_meta", "H M Dv"),
            InputSpec::float("phi_q", "D Dp").optional(),
            InputSpec::float("phi_k", "D Dp").optional(),
            InputSpec::float("state", "B H F Dv").optional(),
            InputSpec::float("z", "B H F").optional(),
        ],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("linear", "B H L Dv"),
            OutputSpec::float("window", "B H L Dv"),
            OutputSpec::float("window_lse", "B H L"),
            OutputSpec::float("state", "B H F Dv"),
            OutputSpec::float("z", "B H F"),
        ],
        forms: &["prefill", "chunked"],
        kernels: &["transform", "scan", "attend", "attend", "combine", "diagnose"],
    };
}

impl Variant for Lizard {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [batch, heads, length, width] = problem.shape("B H L Dv")?[..] else { unreachable!("four words") };
        if self.eps < 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "eps", "0 or more", self.eps));
        }
        let mut features = Vec::new();
        for (name, weight) in [("q", "phi_q"), ("k", "phi_k")] {
            let x = projected(plan, name, weight)?;
            let shape = [x.shape[0], x.shape[1], length, 2 * x.shape[3]];
            let out = plan.scratch(&format!("features_{name}"), DType::F32, &shape);
            plan.map(weight, Map { feature: Feature::ExpPm }, &x, &out)?;
            features.push(out);
        }
        let count = features[1].shape[3];
        if features[0].shape[3] != count {
            let found = features[0].shape[3];
            return Err(problem.refuse(ErrorKind::Shape, "phi_q", format!("{count} features like k's"), found));
        }
        let v = plan.input("v")?;
        let linear = plan.output("linear")?;
        let state = plan.output_as("state", &[batch, heads, count, width])?;
        let mut io = ScanIo::new(&features[0], &features[1], &v, &linear, &state);
        io.z = Some(plan.output_as("z", &[batch, heads, count])?);
        (io.state_in, io.z_in) = (plan.optional("state"), plan.optional("z"));
        let given = plan.input("log_decay")?;
        if given.shape.len() == 4 && given.shape[3] != count {
            return Err(problem.refuse(ErrorKind::Shape, "log_decay", format!("{count} features"), given.shape[3]));
        }
        let decay = decay_of(&mut io, given);
        plan.scan("scan", Scan { decay, divide: Divide::Sum(self.eps), ..Scan::new(1.0) }, io)?;

        let meta = ["k_meta", "v_meta"].map(|name| plan.input(name));
        let [k_meta, v_meta] = meta;
        let every_batch = |x: crate::plan::Ref| {
            let shape = [&[batch], &x.shape[..]].concat();
            x.insert(0).broadcast(&shape)
        };
        let extra = Some([every_batch(k_meta?), every_batch(v_meta?)]);
        let (window, lse) = (plan.output("window")?, plan.output("window_lse")?);
        let qkv = [plan.input("q")?, plan.input("k")?, v];
        let near = Window { size: self.window, scale: default_scale(self.scale, problem), qkv, extra };
        near.stages(problem, plan, &window, &lse)?;
        let out = plan.output("out")?;
        let sum = vec![hooks::plus(&window, self.weight_window)];
        plan.fold("sum", Fold::each().scaled(self.weight_linear), &linear, &out, sum)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let features = |x: &Array, weight: &str| {
            x.map_rows(|_, x| {
                let through = |w: &Array, e: usize| dot(x, &(0..x.len()).map(|d| w.get(&[d, e])).collect::<Vec<_>>());
                let x = match inputs.find(weight) {
                    None => x.to_vec(),
                    Some(w) => (0..w.shape[1]).map(|e| through(w, e)).collect(),
                };
                FeatureMap::ExpPm.features(&x)
            })
        };
        let (phi_q, phi_k) = (features(q, "phi_q"), features(k, "phi_k"));
        let gate = |at: [usize; 3], d: usize| gate_at(inputs.get("log_decay"), at, d);
        let divisor = |by: f64| by + f64::from(self.eps);
        let plain = Recurrence::new([&phi_q, &phi_k, v], 1.0);
        let (state, z) = (inputs.find("state"), inputs.find("z"));
        let [linear, state, z] = Recurrence { gate: &gate, divisor: &divisor, state, z, ..plain }.run();
        let scale = scale(self.scale, q);
        let batched = |name: &str| {
            let x = inputs.get(name);
            let shape = [&[q.shape[0]], &x.shape[..]].concat();
            Array { shape, data: x.data.repeat(q.shape[0]) }
        };
        let (k_meta, v_meta) = (batched("k_meta"), batched("v_meta"));
        let near = attention(q, k, v, scale, &|row, j, s| (j <= row.i && j + self.window > row.i).then_some(s));
        let (window, lse) = merge(&[near, attention(q, &k_meta, &v_meta, scale, &|_, _, s| Some(s))]);
        let (a, b) = (f64::from(self.weight_linear), f64::from(self.weight_window));
        let out = linear.map_rows(|at, x| x.iter().zip(window.row(at)).map(|(x, w)| a * x + b * w).collect());
        vec![("out", out), ("linear", linear), ("window", window), ("window_lse", lse), ("state", state), ("z", z)]
    }
}
