//! Magnitude-aware linear attention over prefixes: every sum runs up to the token, so that the past is a state.
//!
//! ```text
//! t = n + 1, n + 2, ..     c_t = scale / t     z_t = c_t φ(q_t)·zk_t     β_t = 1 + 1 / (z_t + eps)     γ_t = z_t / t
//! S_t = S_{t−1} + φ(k_t) v_tᵀ     zk_t = zk_{t−1} + φ(k_t)     sv_t = sv_{t−1} + v_t
//! out_t = β_t c_t φ(q_t)ᵀ S_t − γ_t sv_t
//! ```
//!
//! Q. Fan, H. Huang, Y. Ai, R. He, "Rectifying Magnitude Neglect in Linear Attention", ICCV 2025, arXiv 2507.00698, section
//! 3.2; the prefix form is ours, for use on text.
//!
//! Kernels `transform` (map), `scan` three times (S, zk, sv), `diagnose` (factor and offset).
//!
//! Limits: always causal. With a state, n is the number of tokens in it. q, k and v have the same heads.

use crate::error::Result;
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs, dot, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::FeatureMap;
use crate::variants::common::{K_OWN, Q_SELF, STATE, V_OWN, default_scale, mapped_qkv, of_time};
use crate::variants::steps::{changed, ones, scratch, sums};
use crate::{named, params};

params! {
    /// Magnitude-aware linear attention, prefix form.
    pub struct MalaCausal {
        /// Feature map of q and k.
        phi: FeatureMap = FeatureMap::Elu1,
        /// s; default D^-1/2.
        scale: Option<f32> = None,
        /// Added to z.
        eps: f32 = 1e-6,
        /// Tokens already in the state.
        n: usize = 0,
    }
}

impl Named for MalaCausal {
    const CARD: Card = Card {
        name: "mala-causal",
        family: Family::Linear,
        summary: "Magnitude-aware linear attention over prefixes.",
        equation: "out_t = β_t c_t φ(q_t)ᵀ S_t − γ_t sv_t, c_t = scale/t, β = 1 + 1/(z + eps), γ = z/t",
        paper: "Fan et al., Rectifying Magnitude Neglect in Linear Attention, ICCV 2025, arXiv 2507.00698",
        inputs: &[
            Q_SELF,
            K_OWN,
            V_OWN,
            STATE,
            InputSpec::float("zk", "B H D").optional(),
            InputSpec::float("sv", "B H Dv").optional(),
        ],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("state", "B H D Dv"),
            OutputSpec::float("zk", "B H D"),
            OutputSpec::float("sv", "B H Dv"),
        ],
        forms: &["prefill", "chunked", "recurrent", "step"],
        kernels: &["transform", "scan", "scan", "scan", "diagnose"],
    };
}

impl Variant for MalaCausal {
    named!();

    fn after(&self, tokens: usize) -> Option<Box<dyn Variant>> {
        Some(Box::new(Self { n: self.n + tokens, ..self.clone() }))
    }

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [batch, heads, length, width] = problem.shape("B H L Dv")?[..] else { unreachable!("four words") };
        let scale = default_scale(self.scale, problem);
        let [q, k, v] = mapped_qkv(problem, plan, self.phi)?;
        let count = k.shape[3];
        let part = of_time(plan, "part", length, |t| f64::from(scale) / (self.n + t + 1) as f64)?;
        let share = of_time(plan, "share", length, |t| -1.0 / (self.n + t + 1) as f64)?;
        let ones = ones(plan, &[batch, 1, length, 1]);

        let read = scratch(plan, "read", &[batch, heads, length, width]);
        let state = plan.output_as("state", &[batch, heads, count, width])?;
        let before = plan.optional("state");
        sums(plan, "scan", [&q, &k, &v], &read, (before, &state))?;
        let keys = scratch(plan, "sums", &[batch, heads, length, 1]);
        let zk = plan.output_as("zk", &[batch, heads, count])?.insert(3);
        let before = plan.optional("zk").map(|z| z.insert(3));
        sums(plan, "keys", [&q, &k, &ones], &keys, (before, &zk))?;
        let values = scratch(plan, "values", &[batch, heads, length, width]);
        let sv = plan.output("sv")?.insert(2);
        let before = plan.optional("sv").map(|s| s.insert(2));
        sums(plan, "values", [&ones, &ones, &v], &values, (before, &sv))?;

        let z = changed(plan, "z", &keys, vec![hooks::times(part.broadcast(&keys.shape))])?;
        let steps = vec![hooks::plus(self.eps, 1.0), hooks::power(-1.0), hooks::plus(1.0, 1.0)];
        let beta = changed(plan, "beta", &z, steps)?;
        let out = plan.output("out")?;
        let all = |x: &crate::plan::Ref| hooks::times(x.broadcast(&out.shape));
        let offset = changed(plan, "offset", &values, vec![all(&z), all(&share)])?;
        plan.fold("rectify", Fold::each(), &read, &out, vec![all(&beta), all(&part), hooks::plus(&offset, 1.0)])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let [batch, heads, length, _] = q.shape[..] else { panic!("rank 4") };
        let (width, s) = (v.shape[3], scale(self.scale, q));
        let (fq, fk) = (q.map_rows(|_, x| self.phi.features(x)), k.map_rows(|_, x| self.phi.features(x)));
        let count = fk.shape[3];
        let before = |name: &str, shape: &[usize]| inputs.find(name).cloned().unwrap_or_else(|| Array::zeros(shape));
        let mut state = before("state", &[batch, heads, count, width]);
        let (mut zk, mut sv) = (before("zk", &[batch, heads, count]), before("sv", &[batch, heads, width]));
        let mut out = Array::zeros(&[batch, heads, length, width]);
        for (b, h, i) in (0..batch * heads * length).map(|n| (n / length / heads, n / length % heads, n % length)) {
            let t = (self.n + i + 1) as f64;
            let (f, v) = (fk.row(&[b, h, i]), v.row(&[b, h, i]));
            for (c, f) in f.iter().enumerate() {
                zk.row_mut(&[b, h])[c] += f;
                state.row_mut(&[b, h, c]).iter_mut().zip(v).for_each(|(s, v)| *s += f * v);
            }
            sv.row_mut(&[b, h]).iter_mut().zip(v).for_each(|(s, v)| *s += v);
            let f = fq.row(&[b, h, i]);
            let z = s / t * dot(f, zk.row(&[b, h]));
            let beta = 1.0 + 1.0 / (z + f64::from(self.eps));
            for e in 0..width {
                let read: f64 = (0..count).map(|c| f[c] * state.get(&[b, h, c, e])).sum();
                out.set(&[b, h, i, e], beta * s / t * read - z / t * sv.get(&[b, h, e]));
            }
        }
        vec![("out", out), ("state", state), ("zk", zk), ("sv", sv)]
    }
}
