//! Every text pools the frames of every video: text and video meet before they are compared.
//!
//! ```text
//! out_vt = Σ_f e^(scale q_t·k_vf − lse_vt) v_vf     lse_vt = ln Σ_f e^(scale q_t·k_vf)
//! ```
//!
//! S. K. Gorti, N. Vouitsis, J. Ma, K. Golestan, M. Volkovs, A. Garg, G. Yu, "X-Pool: Cross-Modal Language-Video
//! Attention for Text-Video Retrieval", CVPR 2022, arXiv 2203.15086, section 4.2.
//!
//! Kernel `attend`, softmax weights. The texts are one tensor that all videos read: a broadcast along the batch axis,
//! never a copy.
//!
//! Limits: projections, residual and similarity are outside; all frames of a video are seen.

use crate::error::Result;
use crate::kernel::attend::Attend;
use crate::oracle::{Array, Inputs, Outputs, attention, scale};
use crate::plan::{AttendIo, PlanBuilder};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::default_scale;
use crate::{named, params};

params! {
    /// Frames pooled by texts.
    pub struct XPoolAttention {
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for XPoolAttention {
    const CARD: Card = Card {
        name: "x-pool-attention",
        family: Family::Dense,
        summary: "Every text pools the frames of every video.",
        equation: "out_vt = Σ_f softmax_f(scale q_t·k_vf) v_vf",
        paper: "Gorti et al., X-Pool, CVPR 2022, arXiv 2203.15086",
        inputs: &[
            InputSpec::real("text_q", "T H D"),
            InputSpec::real("frame_k", "V H Fr D"),
            InputSpec::real("frame_v", "V H Fr Dv"),
        ],
        outputs: &[OutputSpec::float("out", "V H T Dv"), OutputSpec::float("lse", "V H T")],
        forms: &["cross"],
        kernels: &["attend"],
    };
}

impl Variant for XPoolAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let texts = plan.input("text_q")?.permute(&[1, 0, 2]).broadcast(&problem.shape("V H T D")?);
        let io = AttendIo::new(&texts, &plan.input("frame_k")?, &plan.input("frame_v")?, &plan.output("out")?);
        let io = io.lse(&plan.output("lse")?);
        plan.attend("attend", Attend::new(default_scale(self.scale, problem)), io, Vec::new())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let (q, k, v) = (inputs.get("text_q"), inputs.get("frame_k"), inputs.get("frame_v"));
        let [texts, heads, depth] = q.shape[..] else { panic!("text_q has rank 3") };
        let each = Array::zeros(&[k.shape[0], heads, texts, depth]).map_rows(|at, _| q.row(&[at[2], at[1]]).to_vec());
        let (out, lse) = attention(&each, k, v, scale(self.scale, q), &|_, _, s| Some(s));
        vec![("out", out), ("lse", lse)]
    }
}
