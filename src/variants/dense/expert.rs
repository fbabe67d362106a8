//! Attention whose heads are experts: a router picks one head for each token.
//!
//! ```text
//! p_i = softmax over heads of router_logits_i, inactive heads −∞     h* = argmax_h p_ih, the lower head of equal ones
//! out_i = p_ih* O_h*i (or O_h*i)     O_hi = Σ_j e^(scale q_i·k_j − lse_i) v_j     usage_h: tokens that picked h
//! ```
//!
//! Z. Su, Z. Zhang, W. Zhang, Z. Liu, G. Xu, W. Zhang, "SHRP: Specialized Head Routing and Pruning for Efficient Encoder
//! Compression", 2025, arXiv 2512.20635, the section on expert attention; its shared expander is outside.
//!
//! Kernels `attend`, softmax weights, `transform` (softmax), `diagnose` (choice, gather, counts); mask hooks causal and
//! mask.
//!
//! Limits: at least one head is active. All heads are computed and one is taken: after pruning to one head this is plain
//! attention. `usage` counts exactly up to 2^24 tokens.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::Fold;
use crate::kernel::transform::{Feature, Map};
use crate::oracle::{Array, Inputs, Outputs, attention, features, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{K, MASK, Q, V, default_scale, given_mask, of_keys};
use crate::variants::steps::{folded, scratch};
use crate::{named, params};

/// What an inactive head's logit is.
const INACTIVE: f32 = -1e30;

params! {
    /// Attention with one head a token.
    pub struct ExpertAttention {
        /// The head's output is weighted by its probability.
        weighted: bool = true,
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for ExpertAttention {
    const CARD: Card = Card {
        name: "expert-attention",
        family: Family::Dense,
        summary: "Attention whose heads are experts, one for each token.",
        equation: "out_i = p_ih* O_h*i, h* = argmax_h p_ih, p_i = softmax(router_logits_i)",
        paper: "Su et al., SHRP: Specialized Head Routing and Pruning, 2025, arXiv 2512.20635",
        inputs: &[
            Q,
            K,
            V,
            MASK,
            InputSpec::float("router_logits", "B Lq H"),
            InputSpec::flag("active", "H").optional(),
        ],
        outputs: &[
            OutputSpec::float("out", "B Lq Dv"),
            OutputSpec::index("indices", "B Lq"),
            OutputSpec::index("usage", "H"),
        ],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend", "diagnose", "diagnose", "transform", "diagnose", "diagnose", "diagnose", "diagnose"],
    };
}

impl Variant for ExpertAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [batch, heads, lq] = ["B", "H", "Lq"].map(|letter| problem.size(letter));
        let (q, k, v) = (plan.input("q")?, plan.input("k")?, plan.input("v")?);
        let each = scratch(plan, "heads", &problem.shape("B H Lq Dv")?);
        let op = Attend::new(default_scale(self.scale, problem)).causal(self.causal);
        let mask = given_mask(problem, plan)?;
        plan.attend("attend", op, crate::plan::AttendIo::new(&q, &k, &v, &each), mask)?;

        let logits = scratch(plan, "logits", &[batch, 1, lq, heads]);
        let active = plan.optional("active").map(|active| hooks::given(of_keys(&active)));
        let masked = Fold { empty: INACTIVE, ..Fold::each() };
        plan.fold("active", masked, &plan.input("router_logits")?.insert(1), &logits, active.into_iter().collect())?;
        let indices = plan.output("indices")?;
        let chosen = indices.insert(1).insert(3);
        plan.fold("choose", Fold::arg_max(), &logits, &chosen, Vec::new())?;
        let p = scratch(plan, "p", &logits.shape);
        plan.map("softmax", Map { feature: Feature::Softmax }, &logits, &p)?;
        let top = folded(plan, "top", Fold::max(), &p, Vec::new())?;
        let out = plan.output("out")?.insert(1);
        let mut chain = vec![hooks::pick(&each, chosen)];
        chain.extend(self.weighted.then(|| hooks::times(top)));
        plan.fold("gather", Fold::each(), &each.narrow(1, 0, 1), &out, chain)?;

        let list = plan.constant("head", HostTensor::from_fn(&[1, 1, heads, 1], |h| h as f32));
        let votes = indices.insert(1).insert(1).broadcast(&[batch, 1, heads, lq]);
        let counts = folded(plan, "counts", Fold::sum(), &votes, vec![hooks::equals(list)])?;
        let usage = plan.output("usage")?.insert(1).insert(0).insert(0);
        plan.fold("usage", Fold::sum(), &counts.permute(&[1, 3, 2, 0]), &usage, Vec::new())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let pairs = |row, j, s| inputs.allowed(self.causal, row, j).then_some(s);
        let (each, _) = attention(q, k, v, scale(self.scale, q), &pairs);
        let [batch, heads, lq, dv] = each.shape[..] else { panic!("rank 4") };
        let (mut out, mut indices) = (Array::zeros(&[batch, lq, dv]), Array::zeros(&[batch, lq]));
        let mut usage = Array::zeros(&[heads]);
        for (b, i) in (0..batch * lq).map(|n| (n / lq, n % lq)) {
            let logits: Vec<f64> = (0..heads)
                .map(|h| match inputs.flag("active", &[h]) {
                    true => inputs.get("router_logits").get(&[b, i, h]),
                    false => f64::NEG_INFINITY,
                })
                .collect();
            let p = features::softmax(&logits);
            let best = (0..heads).fold(0, |best, h| if p[h] > p[best] { h } else { best });
            let weight = if self.weighted { p[best] } else { 1.0 };
            out.row_mut(&[b, i]).iter_mut().zip(each.row(&[b, best, i])).for_each(|(o, x)| *o = weight * x);
            indices.set(&[b, i], best as f64);
            usage.data[best] += 1.0;
        }
        vec![("out", out), ("indices", indices), ("usage", usage)]
    }
}
