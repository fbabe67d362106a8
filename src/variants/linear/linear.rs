//! Attention whose weights are inner products of features, so that the past fits in a state of fixed size.
//!
//! ```text
//! causal:     S_t = S_{t−1} + φ(k_t) v_tᵀ     z_t = z_{t−1} + φ(k_t)     out_t = φ(q_t)ᵀ S_t / (φ(q_t)ᵀ z_t + eps)
//! non-causal: S = Σ_j φ(k_j) v_jᵀ             z = Σ_j φ(k_j)             out_i = φ(q_i)ᵀ S / (φ(q_i)ᵀ z + eps)
//! normalise = false: out = φ(q)ᵀ S            `scale` multiplies φ(q)
//! ```
//!
//! A. Katharopoulos, A. Vyas, N. Pappas, F. Fleuret, "Transformers are RNNs: Fast Autoregressive Transformers with
//! Linear Attention", ICML 2020, arXiv 2006.16236, sections 3.2 to 3.4.
//!
//! Kernels `transform` with feature hooks, then `scan` with normaliser sum.
//!
//! Limits: causal needs Lq = Lk. The state has as many rows as the map has features: D for most, more for `hedgehog`
//! (with W = I), `dpfp` (with ν = 1) and the two `taylor` maps. q and k (and their maps) must have the same number of
//! features. q, k and v may each have fewer heads than the state. A key masked by `key_mask` leaves the state as it
//! is. The denominator counts `scale` too; where it is exactly 0 out = 0, so a row that has seen no key gives 0 with
//! any eps.

use crate::error::{ErrorKind, Result};
use crate::kernel::scan::{Divide, Scan};
use crate::oracle::{Array, Inputs, Outputs, dot, shared_head};
use crate::plan::{PlanBuilder, ScanIo};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::FeatureMap;
use crate::variants::common::{K, OUT, Q, STATE, V, Z, mapped};
use crate::{named, params};

params! {
    /// Linear attention with a feature map.
    pub struct LinearAttention {
        /// Feature map of q, and of k unless `phi_k` is given.
        phi: FeatureMap = FeatureMap::Elu1,
        /// Feature map of k; default phi.
        phi_k: Option<FeatureMap> = None,
        /// Query t sees keys up to t.
        causal: bool = true,
        /// Divide by the sum of the weights.
        normalise: bool = true,
        /// Added to the sum of the weights.
        eps: f32 = 1e-6,
        /// Factor of φ(q).
        scale: f32 = 1.0,
    }
}

impl Named for LinearAttention {
    const CARD: Card = Card {
        name: "linear-attention",
        family: Family::Linear,
        summary: "Attention whose weights are inner products of features, with a state of fixed size.",
        equation: "out_t = φ(q_t)ᵀ Σ_j φ(k_j) v_jᵀ / (φ(q_t)ᵀ Σ_j φ(k_j) + eps)",
        paper: "Katharopoulos et al., Transformers are RNNs, ICML 2020, arXiv 2006.16236",
        inputs: &[Q, K, V, InputSpec::flag("key_mask", "B Lk").optional(), STATE, Z],
        outputs: &[OUT, OutputSpec::float("state", "B H D Dv"), OutputSpec::float("z", "B H D")],
        forms: &["prefill", "chunked", "recurrent", "step", "bidirectional", "cross"],
        kernels: &["transform", "scan"],
    };
}

impl Variant for LinearAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [lq, lk, d] = ["Lq", "Lk", "D"].map(|letter| problem.size(letter));
        if self.causal && lq != lk {
            return Err(problem.refuse(ErrorKind::Shape, "k", format!("Lk = Lq = {lq}, being causal"), lk));
        }
        if self.eps < 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "eps", "0 or more", self.eps));
        }
        let (phi_q, phi_k) = (self.phi, self.phi_k.unwrap_or(self.phi));
        let width = phi_q.width(d);
        if phi_k.width(d) != width {
            return Err(problem.refuse(
                ErrorKind::Parameter,
                "phi_k",
                format!("a map to {width} features like `phi`"),
                phi_k.width(d),
            ));
        }
        let state_shape = [problem.size("B"), problem.size("H"), width, problem.size("Dv")];
        let (q, k) = (mapped(plan, "q", phi_q)?, mapped(plan, "k", phi_k)?);
        let state = plan.output_as("state", &state_shape)?;
        let mut io = ScanIo::new(&q, &k, &plan.input("v")?, &plan.output("out")?, &state);
        io.z = Some(plan.output_as("z", &state_shape[..3])?);
        io.state_in = plan.optional("state");
        io.z_in = plan.optional("z");
        io.keep = plan.optional("key_mask");
        let divide = if self.normalise { Divide::Sum(self.eps) } else { Divide::None };
        plan.scan("scan", Scan { divide, bidirectional: !self.causal, ..Scan::new(self.scale) }, io)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let phi_q = q.map_rows(|_, x| self.phi.features(x).iter().map(|f| f64::from(self.scale) * f).collect());
        let phi_k = k.map_rows(|_, x| self.phi_k.unwrap_or(self.phi).features(x));
        let [batch, _, lq, width] = phi_q.shape[..] else { panic!("q has rank 4") };
        let heads = q.shape[1].max(k.shape[1]).max(v.shape[1]);
        let (lk, dv) = (k.shape[2], v.shape[3]);
        let mut out = Array::zeros(&[batch, heads, lq, dv]);
        let mut state = inputs.find("state").cloned().unwrap_or_else(|| Array::zeros(&[batch, heads, width, dv]));
        let mut z = inputs.find("z").cloned().unwrap_or_else(|| Array::zeros(&[batch, heads, width]));
        for b in 0..batch {
            for h in 0..heads {
                let head = |x| shared_head(h, heads, x);
                let mut seen = 0;
                for i in 0..lq {
                    let until = if self.causal { i + 1 } else { lk };
                    for j in (seen..until).filter(|&j| inputs.flag("key_mask", &[b, j])) {
                        let v = v.row(&[b, head(v), j]);
                        for (c, f) in phi_k.row(&[b, head(k), j]).iter().enumerate() {
                            z.row_mut(&[b, h])[c] += f;
                            state.row_mut(&[b, h, c]).iter_mut().zip(v).for_each(|(s, v)| *s += f * v);
                        }
                    }
                    seen = until;
                    let f = phi_q.row(&[b, head(q), i]);
                    let total = if self.normalise { dot(f, z.row(&[b, h])) + f64::from(self.eps) } else { 1.0 };
                    for e in 0..dv {
                        let n: f64 = (0..width).map(|c| f[c] * state.get(&[b, h, c, e])).sum();
                        out.row_mut(&[b, h, i])[e] = if total == 0.0 { 0.0 } else { n / total };
                    }
                }
            }
        }
        vec![("out", out), ("state", state), ("z", z)]
    }
}
