//! Learned latents that attend to a short list of items, and their mean: a trainable pooling of layers or tokens.
//!
//! ```text
//! out_i  = Σ_j e^(scale q_i·k_j − lse_i) v_j     lse_i = ln Σ_j e^(scale q_i·k_j)     over the valid j
//! pooled = (1/Lq) Σ_i out_i
//! ```
//!
//! Y. Tang, Y. Yang, "Pooling And Attention: What Are Effective Designs For LLM-Based Embedding Models?", 2024, arXiv
//! 2409.02727, section 3.2 (multi-layers trainable pooling).
//!
//! Kernels `attend`, softmax weights, mask hook given; `diagnose`, the mean over the latents.
//!
//! Limits: norms, projections, residual and feed-forward are outside. A batch entry without a valid item has out = 0,
//! lse = −∞ and pooled = 0.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Inputs, Outputs, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{K, LSE, OUT, Q, V, attend_io, default_scale};
use crate::{named, params};

params! {
    /// Pooling by learned queries.
    pub struct LatentPoolingAttention {
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for LatentPoolingAttention {
    const CARD: Card = Card {
        name: "latent-pooling-attention",
        family: Family::Dense,
        summary: "Learned latents attend to a short list of items; their mean is the pooled vector.",
        equation: "pooled = (1/Lq) Σ_i Σ_j softmax_j(scale q_i·k_j) v_j",
        paper: "Tang, Yang, Pooling And Attention, 2024, arXiv 2409.02727",
        inputs: &[Q, K, V, InputSpec::flag("key_valid", "B Lk").optional()],
        outputs: &[OUT, LSE, OutputSpec::float("pooled", "B H Dv")],
        forms: &["cross"],
        kernels: &["attend", "diagnose"],
    };
}

impl Variant for LatentPoolingAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let valid = plan.optional("key_valid").map(|valid| hooks::given(valid.insert(1).insert(1)));
        let mut io = attend_io(plan)?;
        io.lse = Some(plan.output("lse")?);
        plan.attend("attend", Attend::new(default_scale(self.scale, problem)), io, valid.into_iter().collect())?;
        let (out, pooled) = (plan.output("out")?, plan.output("pooled")?);
        let mean = Fold::mean(problem.size("Lq"));
        plan.fold("mean", mean, &out.permute(&[0, 1, 3, 2]), &pooled.insert(3), Vec::new())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (out, lse) =
            attention(q, k, v, scale(self.scale, q), &|row, j, s| inputs.flag("key_valid", &[row.b, j]).then_some(s));
        let [_, _, latents, dv] = out.shape[..] else { panic!("out has rank 4") };
        let pooled = crate::oracle::Array::zeros(&[out.shape[0], out.shape[1], dv]).map_rows(|at, _| {
            (0..dv)
                .map(|d| (0..latents).map(|i| out.get(&[at[0], at[1], i, d])).sum::<f64>() / latents as f64)
                .collect()
        });
        vec![("out", out), ("lse", lse), ("pooled", pooled)]
    }
}
