//! Lightning attention with activated queries and keys, positions as phases, one norm over all heads and a gate.
//!
//! ```text
//! q = silu(q), k = silu(k)     with theta: x → [x ⊙ cos(θ s), x ⊙ sin(θ s)], s = offset + t, on q and k
//! S_t = λ_h S_{t−1} + k_t v_tᵀ     y_t = q_tᵀ S_t     λ as in lightning-attention
//! out_t = y_t / √(mean over heads and channels of y_t² + eps) ⊙ norm_weight ⊙ u_t
//! ```
//!
//! Z. Qin et al., "Scaling TransNormer to 175 Billion Parameters" (TransNormerLLM), 2023, arXiv 2307.14995, sections 3.1 to
//! 3.3.
//!
//! Kernels `transform` (silu, padding, rotary of pairs with 0), `scan` with decay per head, `diagnose` (heads side by
//! side), `transform` (norm), `diagnose` (gate).
//!
//! Limits: always causal. v is not activated. q, k and v may each have fewer heads than the state.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::{Decay, Scan};
use crate::kernel::transform::{Feature, Gate, Map, Norm, Rotary};
use crate::oracle::{Array, Inputs, Outputs, scan};
use crate::plan::{PlanBuilder, Ref, ScanIo};
use crate::problem::Problem;
use crate::tensor::DType;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::DecayRule;
use crate::{named, params};

params! {
    /// TransNormerLLM's token mixer.
    pub struct TransnormerLlm {
        /// Where the decay comes from when `log_decay` is absent.
        decay_rule: DecayRule = DecayRule::Slopes,
        /// The layer, from 0, for the decay rule.
        layer: usize = 0,
        /// Layers of the model, for the decay rule.
        layers: usize = 1,
        /// Absolute position of the first token.
        offset: usize = 0,
        /// Added to the mean square in the norm.
        eps: f32 = 1e-6,
    }
}

impl Named for TransnormerLlm {
    const CARD: Card = Card {
        name: "transnormer-llm",
        family: Family::Linear,
        summary: "Lightning attention with phases as positions, a norm over all heads and a gate.",
        equation: "out_t = rms_norm_all_heads(φ(q_t)ᵀ S_t) ⊙ u_t, S_t = λ_h S_{t−1} + φ(k_t) v_tᵀ",
        paper: "Qin et al., Scaling TransNormer to 175 Billion Parameters, 2023, arXiv 2307.14995",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::float("u", "B H L Dv"),
            InputSpec::float("log_decay", "H").optional(),
            InputSpec::float("theta", "H D | 1 D").optional(),
            InputSpec::float("norm_weight", "H*Dv").optional(),
            InputSpec::float("state", "B H (2*D) Dv").optional(),
        ],
        outputs: &[OutputSpec::float("out", "B H L Dv"), OutputSpec::float("state", "B H (D|2D) Dv")],
        forms: &["prefill", "chunked", "recurrent", "step"],
        kernels: &["transform", "scan", "diagnose", "transform", "diagnose"],
    };
}

impl TransnormerLlm {
    /// silu(x), and with `theta` its phases.
    fn phased(&self, plan: &mut PlanBuilder, name: &str, theta: Option<&Ref>) -> Result<Ref> {
        let x = plan.input(name)?;
        let [batch, heads, length, d] = x.shape[..] else { unreachable!("four words") };
        let silu = plan.scratch(&format!("silu_{name}"), DType::F32, &x.shape);
        plan.map("silu", Map { feature: Feature::Silu }, &x, &silu)?;
        let Some(theta) = theta else { return Ok(silu) };
        // The pair (x, 0) turned by an angle is (x cos, x sin).
        let shape = [batch, heads, length, 2 * d];
        let padded = plan.scratch(&format!("padded_{name}"), DType::F32, &shape);
        plan.map("pad", Map { feature: Feature::Pad }, &silu, &padded)?;
        let out = plan.scratch(&format!("phased_{name}"), DType::F32, &shape);
        let op = Rotary { interleaved: false, offset: self.offset, scale: 1.0 };
        plan.rotary("phase", op, &padded, &out, vec![("theta", theta.insert(1).insert(0))])?;
        Ok(out)
    }
}

impl Variant for TransnormerLlm {
    named!();

    fn after(&self, tokens: usize) -> Option<Box<dyn Variant>> {
        Some(Box::new(Self { offset: self.offset + tokens, ..self.clone() }))
    }

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [batch, heads, length, width] = problem.shape("B H L Dv")?[..] else { unreachable!("four words") };
        if self.eps < 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "eps", "0 or more", self.eps));
        }
        if self.offset + length >= 1 << 31 {
            let expected = format!("below 2^31 - L = {}", (1_usize << 31) - length);
            return Err(problem.refuse(ErrorKind::Parameter, "offset", expected, self.offset));
        }
        let theta = plan.optional("theta");
        if let Some(theta) = &theta
            && ![1, plan.input("q")?.shape[1]].contains(&theta.shape[0])
        {
            return Err(problem.refuse(ErrorKind::Shape, "theta", "one row, or one a head of q", theta.shape[0]));
        }
        let [q, k] = ["q", "k"].map(|name| self.phased(plan, name, theta.as_ref()));
        let (q, k) = (q?, k?);
        let decay = self.decay_rule.decay(problem, plan, self.layer, self.layers)?;
        let state_shape = [batch, heads, k.shape[3], width];
        let state = plan.output_as("state", &state_shape)?;
        let read = plan.scratch("read", DType::F32, &[batch, heads, length, width]);
        let mut io = ScanIo::new(&q, &k, &plan.input("v")?, &read, &state);
        io.state_in = plan.optional("state");
        if let Some(found) = io.state_in.as_ref().filter(|s| s.shape != state_shape) {
            let found = format!("{:?}", found.shape);
            return Err(problem.refuse(ErrorKind::Shape, "state", format!("{state_shape:?}"), found));
        }
        let width_of = if decay.is_some() { Decay::Scalar } else { Decay::None };
        io.decay = decay.map(|g| g.insert(1).insert(1).insert(0));
        plan.scan("scan", Scan { decay: width_of, ..Scan::new(1.0) }, io)?;

        // Heads side by side make one row a token.
        let side_by_side = |x: &Ref| x.split(3, heads).select(1, 0);
        let shape = [batch, 1, length, heads * width];
        let (joined, normed) = (plan.scratch("joined", DType::F32, &shape), plan.scratch("normed", DType::F32, &shape));
        plan.fold("join", Fold::each(), &read.permute(&[0, 2, 1, 3]), &side_by_side(&joined), Vec::new())?;
        plan.norm("norm", Norm { eps: self.eps, gate: Gate::Silu, scale: 1.0 }, &joined, None, &normed)?;
        let out = plan.output("out")?;
        let weight = plan.optional("norm_weight").map(|w| w.split(0, heads).insert(1).insert(0).broadcast(&out.shape));
        let mut steps = vec![hooks::times(plan.input("u")?)];
        steps.extend(weight.map(hooks::times));
        plan.fold("gate", Fold::each(), &side_by_side(&normed).permute(&[0, 2, 1, 3]), &out, steps)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let u = inputs.get("u");
        let phased = |at: &[usize], x: &[f64]| -> Vec<f64> {
            let x: Vec<f64> = x.iter().map(|x| x / (1.0 + (-x).exp())).collect();
            let Some(theta) = inputs.find("theta") else { return x };
            let angle = |c: usize| theta.get(&[at[1], c]) * (self.offset + at[2]) as f64;
            let half =
                |of: fn(f64) -> f64| x.iter().enumerate().map(move |(c, x)| x * of(angle(c))).collect::<Vec<_>>();
            [half(f64::cos), half(f64::sin)].concat()
        };
        let heads = u.shape[1];
        let log_decay = self.decay_rule.log_decay(inputs, heads, self.layer, self.layers);
        let (read, state) = scan(&q.map_rows(phased), &k.map_rows(phased), v, &log_decay, inputs.find("state"));
        let [batch, _, length, width] = read.shape[..] else { panic!("rank 4") };
        let mut out = Array::zeros(&read.shape);
        for (b, t) in (0..batch).flat_map(|b| (0..length).map(move |t| (b, t))) {
            let all = (0..heads).flat_map(|h| read.row(&[b, h, t]).iter().map(|y| y * y)).sum::<f64>();
            let rms = (all / (heads * width) as f64 + f64::from(self.eps)).sqrt();
            for h in 0..heads {
                for e in 0..width {
                    let weight = inputs.number("norm_weight", &[h * width + e], 1.0);
                    out.set(&[b, h, t, e], read.get(&[b, h, t, e]) / rms * weight * u.get(&[b, h, t, e]));
                }
            }
        }
        vec![("out", out), ("state", state)]
    }
}
