//! Linear attention whose weights decay with distance and turn with it.
//!
//! ```text
//! x_t → [x_t cos(θ_h t), x_t sin(θ_h t)], so that q_s·k_t = Σ_d q_sd k_td cos(θ_hd (s − t))
//! S_t = λ_h S_{t−1} + k_t v_tᵀ     out_t = q_tᵀ S_t     that is  out_s = Σ_{t ≤ s} λ_h^(s−t) (q_s·k_t) v_t
//! ```
//!
//! Z. Qin, D. Li, W. Sun, W. Sun, X. Shen, X. Han, Y. Wei, B. Lv, X. Luo, Y. Qiao, Y. Zhong, "TransNormerLLM: A Faster and
//! Better Large Language Model with Improved TransNormer" ("Scaling TransNormer to 175 Billion Parameters"), 2023, arXiv
//! 2307.14995, section 3.1, LRPE-d.
//!
//! Kernels `diagnose` (widening), `transform` (rotary), `scan` with a decay a head.
//!
//! Limits: always causal, no softmax; the output is not normalised, a norm is meant to follow. `decay` is λ itself, above
//! 0; θ below 2^24. Accumulates in f32.

use crate::error::Result;
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::{Decay, Scan};
use crate::kernel::transform::Rotary;
use crate::oracle::{Array, Inputs, Outputs, scan, shared_head};
use crate::plan::{PlanBuilder, Ref, ScanIo};
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{K_SELF, OUT_SELF, Q_SELF, V_SELF};
use crate::variants::steps::changed;
use crate::{named, params};

params! {
    /// Linear attention with rotation and decay.
    pub struct LrpeDAttention {}
}

impl Named for LrpeDAttention {
    const CARD: Card = Card {
        name: "lrpe-d-attention",
        family: Family::Dense,
        summary: "Linear attention with weights that decay and turn with distance.",
        equation: "out_s = Σ_{t ≤ s} λ_h^(s−t) Σ_d q_sd k_td cos(θ_hd (s − t)) v_t",
        paper: "Qin et al., TransNormerLLM, 2023, arXiv 2307.14995",
        inputs: &[Q_SELF, K_SELF, V_SELF, InputSpec::float("theta", "H D"), InputSpec::float("decay", "H")],
        outputs: &[OUT_SELF, OutputSpec::float("state", "B H 2*D Dv")],
        forms: &["prefill", "recurrent", "chunked"],
        kernels: &["diagnose", "transform", "diagnose", "transform", "diagnose", "scan"],
    };
}

impl LrpeDAttention {
    /// x (B, Hx, L, D) as (B, H, L, 2D), turned by θ a position.
    fn turned(plan: &mut PlanBuilder, name: &str, x: &Ref, theta: &Ref) -> Result<Ref> {
        let [heads, depth] = theta.shape[..] else { unreachable!("(H, D)") };
        let shape = [x.shape[0], heads, x.shape[2], 2 * depth];
        let wide = plan.scratch(&format!("{name}_wide"), DType::F32, &shape);
        let zero = plan.constant("zero", HostTensor::zeros(&[1, 1, 1, 1])).broadcast(&shape);
        plan.fold(&format!("{name} widened"), Fold::each(), &zero, &wide, vec![hooks::padded(x, heads)])?;
        // Beside zeros a pair half a row apart becomes (x cos, x sin).
        let turned = plan.scratch(&format!("{name}_turned"), DType::F32, &shape);
        let op = Rotary { interleaved: false, offset: 0, scale: 1.0 };
        plan.rotary(&format!("{name} turned"), op, &wide, &turned, vec![("theta", theta.insert(1).insert(0))])?;
        Ok(turned)
    }
}

impl Variant for LrpeDAttention {
    named!();

    fn plan(&self, _problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let theta = plan.input("theta")?;
        let (q, k, v) = (plan.input("q")?, plan.input("k")?, plan.input("v")?);
        let q = Self::turned(plan, "q", &q, &theta)?;
        let k = Self::turned(plan, "k", &k, &theta)?;
        let decay = plan.input("decay")?.insert(1).insert(1).insert(0);
        let decay = changed(plan, "log_decay", &decay, vec![hooks::logarithm()])?;
        let out = plan.output("out")?;
        let state = plan.output_as("state", &[q.shape[0], q.shape[1], q.shape[3], v.shape[3]])?;
        let mut io = ScanIo::new(&q, &k, &v, &out, &state);
        io.decay = Some(decay);
        plan.scan("scan", Scan { decay: Decay::Scalar, ..Scan::new(1.0) }, io)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (theta, decay) = (inputs.get("theta"), inputs.get("decay"));
        let [batch, heads, length, depth] = q.shape[..] else { panic!("q has rank 4") };
        let turned = |x: &Array| {
            Array::zeros(&[batch, heads, length, 2 * depth]).map_rows(|at, _| {
                let row = x.row(&[at[0], shared_head(at[1], heads, x), at[2]]);
                let angle = |d: usize| at[2] as f64 * theta.get(&[at[1], d]);
                let cos = row.iter().enumerate().map(|(d, x)| x * angle(d).cos());
                cos.chain(row.iter().enumerate().map(|(d, x)| x * angle(d).sin())).collect()
            })
        };
        let log_decay: Vec<f64> = decay.data.iter().map(|x| x.ln()).collect();
        let (out, state) = scan(&turned(q), &turned(k), v, &log_decay, None);
        vec![("out", out), ("state", state)]
    }
}
