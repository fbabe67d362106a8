//! Normalised gated linear attention on queries and keys that a short convolution mixes with the tokens before them.
//!
//! ```text
//! q̃ = conv(q), k̃ = conv(k), ṽ = conv(v)     conv: causal, depthwise, K taps; the identity where its kernel is absent
//! S_t = diag(e^{g_t}) S_{t−1} + φ(k̃_t) ṽ_tᵀ     z_t = e^{g_t} ⊙ z_{t−1} + φ(k̃_t)
//! out_t = φ(q̃_t)ᵀ S_t / (φ(q̃_t)ᵀ z_t + eps)     g = log_decay, per head or per feature
//! ```
//!
//! Z. Liu et al., "LAWCAT: Efficient Distillation from Quadratic to Linear Attention with Convolution across Tokens for
//! Long Context Modeling", 2025, arXiv 2509.18467, section 3.
//!
//! Kernels `transform` (conv, map), then `scan` with decay and normaliser sum.
//!
//! Limits: always causal. No activation follows a convolution. q, k and v have the heads of the state. Without any
//! convolution the states of convolutions hold one token.

use crate::error::{ErrorKind, Result};
use crate::kernel::scan::{Divide, Scan};
use crate::kernel::transform::Map;
use crate::oracle::{Array, Inputs, Outputs, Recurrence};
use crate::plan::{PlanBuilder, Ref, ScanIo};
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::FeatureMap;
use crate::variants::common::{decay_of, gate_at};
use crate::{named, params};

params! {
    /// LAWCAT.
    pub struct Lawcat {
        /// Feature map of q and k.
        phi: FeatureMap = FeatureMap::Hedgehog,
        /// Added to the sum of the weights.
        eps: f32 = 1e-6,
    }
}

impl Named for Lawcat {
    const CARD: Card = Card {
        name: "lawcat",
        family: Family::Linear,
        summary: "Normalised gated linear attention after a short convolution of queries and keys.",
        equation: "out_t = φ(q̃_t)ᵀ S_t / (φ(q̃_t)ᵀ z_t + eps), S_t = diag(e^{g_t}) S_{t−1} + φ(k̃_t) v_tᵀ",
        paper: "Liu et al., LAWCAT, 2025, arXiv 2509.18467",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::float("log_decay", "B H L F | B H L"),
            InputSpec::float("conv_q", "H D K").optional(),
            InputSpec::float("conv_k", "H D K").optional(),
            InputSpec::float("conv_v", "H Dv K").optional(),
            InputSpec::float("conv_state_q", "B H K-1 D").optional(),
            InputSpec::float("conv_state_k", "B H K-1 D").optional(),
            InputSpec::float("conv_state_v", "B H K-1 Dv").optional(),
            InputSpec::float("state", "B H 2*D Dv").optional(),
            InputSpec::float("z", "B H 2*D").optional(),
        ],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("state", "B H F Dv"),
            OutputSpec::float("z", "B H F"),
            OutputSpec::float("conv_state_q", "B H K-1 D"),
            OutputSpec::float("conv_state_k", "B H K-1 D"),
            OutputSpec::float("conv_state_v", "B H K-1 Dv"),
        ],
        forms: &["prefill", "chunked", "recurrent", "step"],
        kernels: &["transform", "transform", "scan"],
    };
}

/// Taps of the convolutions present, 2 where there are none.
fn taps(given: Option<usize>) -> usize {
    given.unwrap_or(2)
}

impl Lawcat {
    /// The input `name` after its convolution.
    fn mixed(plan: &mut PlanBuilder, name: &str, taps: usize) -> Result<Ref> {
        let x = plan.input(name)?;
        let [batch, heads, length, width] = x.shape[..] else { unreachable!("four words") };
        let weight = match plan.optional(&format!("conv_{name}")) {
            Some(weight) => weight,
            None => {
                let last = |n: usize| if n % taps == taps - 1 { 1.0 } else { 0.0 };
                plan.constant("identity", HostTensor::from_fn(&[heads, width, taps], last))
            }
        };
        let out = plan.scratch(&format!("mixed_{name}"), DType::F32, &[batch, heads, length, width]);
        let state_name = format!("conv_state_{name}");
        let state = plan.output_as(&state_name, &[batch, heads, taps - 1, width])?;
        let before = plan.optional(&state_name);
        plan.conv(&format!("conv_{name}"), [&x, &weight, &out, &state], [None, before], false)?;
        Ok(out)
    }
}

impl Variant for Lawcat {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [batch, heads, length, width] = problem.shape("B H L Dv")?[..] else { unreachable!("four words") };
        for name in ["q", "k", "v"] {
            let found = plan.input(name)?.shape[1];
            if found != heads {
                return Err(problem.refuse(ErrorKind::Shape, name, format!("{heads} heads"), found));
            }
        }
        if self.eps < 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "eps", "0 or more", self.eps));
        }
        let given = ["conv_q", "conv_k", "conv_v"].iter().find_map(|name| Some(plan.optional(name)?.shape[2]));
        let taps = taps(given);
        let [q, k, v] = ["q", "k", "v"].map(|name| Self::mixed(plan, name, taps));
        let feature = self.phi.feature();
        let count = feature.width(problem.size("D"));
        let mut map = |name: &str, x: &Ref| -> Result<Ref> {
            let out = plan.scratch(name, DType::F32, &[batch, heads, length, count]);
            plan.map(name, Map { feature }, x, &out)?;
            Ok(out)
        };
        let (q, k) = (map("phi_q", &q?)?, map("phi_k", &k?)?);
        let (out, state) = (plan.output("out")?, plan.output_as("state", &[batch, heads, count, width])?);
        let mut io = ScanIo::new(&q, &k, &v?, &out, &state);
        (io.state_in, io.z_in) = (plan.optional("state"), plan.optional("z"));
        io.z = Some(plan.output_as("z", &[batch, heads, count])?);
        let given = plan.input("log_decay")?;
        if given.shape.len() == 4 && given.shape[3] != count {
            return Err(problem.refuse(ErrorKind::Shape, "log_decay", format!("{count} features"), given.shape[3]));
        }
        let decay = decay_of(&mut io, given);
        plan.scan("scan", Scan { decay, divide: Divide::Sum(self.eps), ..Scan::new(1.0) }, io)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let given = ["conv_q", "conv_k", "conv_v"].iter().find_map(|name| Some(inputs.find(name)?.shape[2]));
        let taps = taps(given);
        let at = |name: &str, b, h, t: i64, d| match usize::try_from(t) {
            Ok(t) => inputs.get(name).get(&[b, h, t, d]),
            Err(_) => inputs.number(&format!("conv_state_{name}"), &[b, h, (t + taps as i64 - 1) as usize, d], 0.0),
        };
        let mixed = |name: &str| {
            inputs.get(name).map_rows(|i, x| {
                let weight = inputs.find(&format!("conv_{name}"));
                let tap = |d, s| weight.map_or(f64::from(u8::from(s == 0)), |w| w.get(&[i[1], d, taps - 1 - s]));
                let past = |d: usize, s: usize| tap(d, s) * at(name, i[0], i[1], i[2] as i64 - s as i64, d);
                (0..x.len()).map(|d| (0..taps).map(|s| past(d, s)).sum()).collect()
            })
        };
        let last = |name: &str| {
            let [b, h, l, d] = inputs.get(name).shape[..] else { panic!("rank 4") };
            let first = l as i64 - taps as i64 + 1;
            Array::zeros(&[b, h, taps - 1, d])
                .map_rows(|i, x| (0..x.len()).map(|d| at(name, i[0], i[1], first + i[2] as i64, d)).collect())
        };
        let map = |x: Array| x.map_rows(|_, x| self.phi.features(x));
        let (q, k, v) = (map(mixed("q")), map(mixed("k")), mixed("v"));
        let gate = |i: [usize; 3], d: usize| gate_at(inputs.get("log_decay"), i, d);
        let divisor = |by: f64| by + f64::from(self.eps);
        let plain = Recurrence::new([&q, &k, &v], 1.0);
        let (state, z) = (inputs.find("state"), inputs.find("z"));
        let [out, state, z] = Recurrence { gate: &gate, divisor: &divisor, state, z, ..plain }.run();
        let [cq, ck, cv] = ["q", "k", "v"].map(last);
        vec![("out", out), ("state", state), ("z", z), ("conv_state_q", cq), ("conv_state_k", ck), ("conv_state_v", cv)]
    }
}
