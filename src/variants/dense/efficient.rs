//! Attention by way of global contexts: keys are normalised along the tokens, queries along the channels.
//!
//! ```text
//! context_ce = Σ_n softmax_n(k_nc) v_ne     over the valid tokens n
//! out_ne     = Σ_c softmax_c(q_nc) context_ce
//! ```
//!
//! Z. Shen, M. Zhang, H. Zhao, S. Yi, H. Li, "Efficient Attention: Attention with Linear Complexities", WACV 2021, arXiv
//! 1812.01243, section 3.2; as the spatial half of B. Azad, P. Adibfar, K. Fu, "TransDAE", 2024, arXiv 2409.02018.
//!
//! Kernels: `attend` with the channels as queries and scores from the table kᵀ (its softmax has a running maximum a
//! channel), `transform` softmax of q, `attend` as a product. O(N D Dv), no scale.
//!
//! Limits: noncausal. Without a valid token the context and the result are 0.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::transform::{Feature, Map};
use crate::oracle::{Array, Inputs, Outputs, features};
use crate::plan::{AttendIo, PlanBuilder};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::{product, scratch};
use crate::{named, params};

params! {
    /// Linear attention by global contexts.
    pub struct EfficientAttention {}
}

impl Named for EfficientAttention {
    const CARD: Card = Card {
        name: "efficient-attention",
        family: Family::Dense,
        summary: "Linear attention: softmax of keys along the tokens, of queries along the channels.",
        equation: "out_n = softmax_c(q_n)ᵀ Σ_m softmax_m(k_m) v_mᵀ",
        paper: "Shen et al., Efficient Attention, WACV 2021, arXiv 1812.01243",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::flag("key_valid", "B L").optional(),
        ],
        outputs: &[OutputSpec::float("out", "B H L Dv"), OutputSpec::float("context", "B H D Dv")],
        forms: &["bidirectional"],
        kernels: &["attend", "transform", "attend"],
    };
}

impl Variant for EfficientAttention {
    named!();

    fn plan(&self, _problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (q, k, v) = (plan.input("q")?, plan.input("k")?, plan.input("v")?);
        let channels = k.permute(&[0, 1, 3, 2]);
        let mut chain = vec![hooks::take(&channels, 1.0)];
        chain.extend(plan.optional("key_valid").map(|valid| hooks::given(valid.insert(1).insert(1))));
        let (out, context) = (plan.output("out")?, plan.output("context")?);
        let io = AttendIo::new(&channels.narrow(3, 0, 1), &k.narrow(3, 0, 1), &v, &context);
        plan.attend("context", Attend::new(1.0), io, chain)?;
        let weights = scratch(plan, "weights", &q.shape);
        plan.map("weights", Map { feature: Feature::Softmax }, &q, &weights)?;
        product(plan, "read", &weights, &context, 1.0, &out, None)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let [batch, heads, length, depth] = q.shape[..] else { panic!("q has rank 4") };
        let dv = v.shape[3];
        let context = Array::zeros(&[batch, heads, depth, dv]).map_rows(|at, _| {
            let valid: Vec<usize> = (0..length).filter(|&n| inputs.flag("key_valid", &[at[0], n])).collect();
            let p = features::softmax(&valid.iter().map(|&n| k.get(&[at[0], at[1], n, at[2]])).collect::<Vec<_>>());
            let value = |e: usize| valid.iter().zip(&p).map(|(&n, p)| p * v.get(&[at[0], at[1], n, e])).sum();
            (0..dv).map(value).collect()
        });
        let out = q.map_rows(|at, row| {
            let p = features::softmax(row);
            let value = |e: usize| p.iter().enumerate().map(|(c, p)| p * context.get(&[at[0], at[1], c, e])).sum();
            (0..dv).map(value).collect()
        });
        vec![("out", out), ("context", context)]
    }
}
