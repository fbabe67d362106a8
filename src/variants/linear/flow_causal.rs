//! Flow attention over prefixes: sources compete and sinks conserve with what has come so far, so that the past is a state.
//!
//! ```text
//! q, k = σ(q), σ(k)     t = n + 1, n + 2, ..     every sum runs to the token itself
//! in_t = t / ((q_t + eps)·(sk_t + eps))          sk = Σ k     out_t = t / ((k_t + eps)·(sq_t + eps))         sq = Σ q
//! sink_t = (q_t + eps)·(sko_t + eps) / t         sko = Σ k_j out_j     sqi = Σ q_j in_j
//! src_t = clip((k_t + eps)·(sqi_t + eps) / t, ±clamp)     se = Σ e^{src_j}     v'_t = (t e^{src_t} / se_t) v_t
//! S_t = S_{t−1} + k_t v'_tᵀ                      result_t = σ(sink_t) (q_t in_t / t)ᵀ S_t
//! ```
//!
//! H. Wu, J. Wu, J. Xu, J. Wang, M. Long, "Flowformer: Linearizing Transformers with Conservation Flows", ICML 2022, arXiv
//! 2202.06258, section 3.2 (causal version).
//!
//! Kernels `transform` (sigmoid), `scan` six times (sk, sq, sko, sqi, se, S), `diagnose` (flows).
//!
//! Limits: always causal; a token's competition is fixed when it comes. With a state, n is the number of tokens in it, and parts of
//! the state that are absent are 0. eps enters every element. q, k and v have the same heads.

use crate::error::Result;
use crate::hook::Hook;
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs, dot, features};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::FeatureMap;
use crate::variants::common::{K_OWN, Q_SELF, STATE, V_OWN, mapped_qkv, of_time};
use crate::variants::linear::flow::check;
use crate::variants::steps::{changed, clip, folded, ones, scratch, sums};
use crate::{named, params};

params! {
    /// Flow attention, prefix form.
    pub struct FlowAttentionCausal {
        /// Added to every element of what is summed.
        eps: f32 = 1e-6,
        /// Bound of the competition's logits.
        clamp: f32 = 1.0,
        /// Tokens already in the state.
        n: usize = 0,
    }
}

impl Named for FlowAttentionCausal {
    const CARD: Card = Card {
        name: "flow-attention-causal",
        family: Family::Linear,
        summary: "Flow attention over prefixes.",
        equation: "out_t = σ(sink_t) (q_t in_t / t)ᵀ Σ_{j≤t} k_j (j e^{src_j} / Σ_{i≤j} e^{src_i} v_j)ᵀ",
        paper: "Wu et al., Flowformer, ICML 2022, arXiv 2202.06258",
        inputs: &[
            Q_SELF,
            K_OWN,
            V_OWN,
            STATE,
            InputSpec::float("sk", "B H D").optional(),
            InputSpec::float("sq", "B H D").optional(),
            InputSpec::float("sko", "B H D").optional(),
            InputSpec::float("sqi", "B H D").optional(),
            InputSpec::float("se", "B H").optional(),
        ],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("state", "B H D Dv"),
            OutputSpec::float("sk", "B H D"),
            OutputSpec::float("sq", "B H D"),
            OutputSpec::float("sko", "B H D"),
            OutputSpec::float("sqi", "B H D"),
            OutputSpec::float("se", "B H"),
        ],
        forms: &["prefill", "chunked", "recurrent", "step"],
        kernels: &["transform", "diagnose", "scan", "scan", "scan", "scan", "scan", "scan", "diagnose"],
    };
}

/// What tokens meet when they come: (x_t + eps)·(Σ_{j≤t} w_j y_j + eps), the sum being the state `sum`.
struct Meeting<'a> {
    sum: &'static str,
    /// x + eps.
    raised: &'a Ref,
    /// eps Σ_d (x_d + eps).
    rest: &'a Ref,
    y: &'a Ref,
    /// w (B, H, L, 1).
    weight: &'a Ref,
}

impl Meeting<'_> {
    /// The meeting under hooks, (B, H, L, 1).
    fn stages(self, plan: &mut PlanBuilder, change: Vec<Hook>) -> Result<Ref> {
        let read = scratch(plan, &format!("{}_read", self.sum), &self.rest.shape);
        let state = plan.output(self.sum)?.insert(3);
        let before = plan.optional(self.sum).map(|sum| sum.insert(3));
        sums(plan, self.sum, [self.raised, self.y, self.weight], &read, (before, &state))?;
        let steps = [vec![hooks::plus(self.rest, 1.0)], change].concat();
        changed(plan, &format!("{}_met", self.sum), &read, steps)
    }
}

impl Variant for FlowAttentionCausal {
    named!();

    fn after(&self, tokens: usize) -> Option<Box<dyn Variant>> {
        Some(Box::new(Self { n: self.n + tokens, ..self.clone() }))
    }

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [batch, heads, length, width] = problem.shape("B H L Dv")?[..] else { unreachable!("four words") };
        check(problem, self.eps, self.clamp)?;
        let [q, k, v] = mapped_qkv(problem, plan, FeatureMap::Sigmoid)?;
        let one = [batch, heads, length, 1];
        let ones = ones(plan, &one);
        let time = of_time(plan, "time", length, |t| (self.n + t + 1) as f64)?.broadcast(&one);
        let share = of_time(plan, "share", length, |t| 1.0 / (self.n + t + 1) as f64)?.broadcast(&one);
        let mut raised = |name: &str, x: &Ref| -> Result<[Ref; 2]> {
            let raised = changed(plan, &format!("{name}_raised"), x, vec![hooks::plus(self.eps, 1.0)])?;
            let rest = folded(plan, &format!("{name}_rest"), Fold::sum().scaled(self.eps), &raised, Vec::new())?;
            Ok([raised, rest])
        };
        let (by_q, by_k) = (raised("q", &q)?, raised("k", &k)?);
        let meeting = |sum, [raised, rest]: &[Ref; 2], y: &Ref, weight: &Ref, plan: &mut PlanBuilder, change| {
            Meeting { sum, raised, rest, y, weight }.stages(plan, change)
        };
        let inverse = || vec![hooks::power(-1.0), hooks::times(&time)];
        let inflow = meeting("sk", &by_q, &k, &ones, plan, inverse())?;
        let outflow = meeting("sq", &by_k, &q, &ones, plan, inverse())?;
        let allocation = meeting("sko", &by_q, &k, &outflow, plan, vec![hooks::times(&share), hooks::logistic()])?;
        let source = [vec![hooks::times(&share)], clip(self.clamp), vec![hooks::probability(0.0)]].concat();
        let source = meeting("sqi", &by_k, &q, &inflow, plan, source)?;

        let total = scratch(plan, "total", &one);
        let se = plan.output("se")?.insert(2).insert(3);
        let before = plan.optional("se").map(|se| se.insert(2).insert(3));
        sums(plan, "se", [&ones, &ones, &source], &total, (before, &se))?;
        let competition = changed(plan, "competition", &source, vec![hooks::over(&total), hooks::times(&time)])?;
        let values = changed(plan, "values", &v, vec![hooks::times(competition.broadcast(&v.shape))])?;
        let part = changed(plan, "part", &inflow, vec![hooks::times(&share)])?;
        let queries = changed(plan, "queries", &q, vec![hooks::times(part.broadcast(&q.shape))])?;
        let read = scratch(plan, "read", &[batch, heads, length, width]);
        let state = plan.output("state")?;
        let before = plan.optional("state");
        sums(plan, "scan", [&queries, &k, &values], &read, (before, &state))?;
        let out = plan.output("out")?;
        plan.fold("allocate", Fold::each(), &read, &out, vec![hooks::times(allocation.broadcast(&out.shape))])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (q, k) = (q.map_rows(|_, x| features::sigmoid(x)), k.map_rows(|_, x| features::sigmoid(x)));
        let [batch, heads, length, depth] = q.shape[..] else { panic!("rank 4") };
        let (width, eps, clamp) = (v.shape[3], f64::from(self.eps), f64::from(self.clamp));
        let before = |name: &str, shape: &[usize]| inputs.find(name).cloned().unwrap_or_else(|| Array::zeros(shape));
        let mut state = before("state", &[batch, heads, depth, width]);
        let mut sums = ["sk", "sq", "sko", "sqi"].map(|name| before(name, &[batch, heads, depth]));
        let mut se = before("se", &[batch, heads]);
        let mut out = Array::zeros(&[batch, heads, length, width]);
        // (x + eps)·(sum + eps)
        let flow = |x: &[f64], sum: &[f64]| x.iter().zip(sum).map(|(x, s)| (x + eps) * (s + eps)).sum::<f64>();
        let add = |sum: &mut [f64], x: &[f64], weight: f64| sum.iter_mut().zip(x).for_each(|(s, x)| *s += weight * x);
        for (b, h, i) in (0..batch * heads * length).map(|n| (n / length / heads, n / length % heads, n % length)) {
            let t = (self.n + i + 1) as f64;
            let (q, k, at) = (q.row(&[b, h, i]), k.row(&[b, h, i]), [b, h]);
            let [sk, sq, sko, sqi] = sums.each_mut().map(|sum| sum.row_mut(&at));
            add(sk, k, 1.0);
            add(sq, q, 1.0);
            let (inflow, outflow) = (t / flow(q, sk), t / flow(k, sq));
            add(sko, k, outflow);
            add(sqi, q, inflow);
            let sink = flow(q, sko) / t;
            let source = (flow(k, sqi) / t).clamp(-clamp, clamp);
            se.set(&at, se.get(&at) + source.exp());
            let competition = t * source.exp() / se.get(&at);
            for (c, k) in k.iter().enumerate() {
                add(state.row_mut(&[b, h, c]), v.row(&[b, h, i]), k * competition);
            }
            for e in 0..width {
                let column: Vec<f64> = (0..depth).map(|c| state.get(&[b, h, c, e])).collect();
                out.set(&[b, h, i, e], dot(q, &column) * inflow / t / (1.0 + (-sink).exp()));
            }
        }
        let [sk, sq, sko, sqi] = sums;
        vec![("out", out), ("state", state), ("sk", sk), ("sq", sq), ("sko", sko), ("sqi", sqi), ("se", se)]
    }
}
