//! Linear attention without a locality bias: sources compete for sinks, and both conserve their flow.
//!
//! ```text
//! q, k = σ(q), σ(k)     in_i = 1 / ((q_i + eps)·(Σ_j k_j + eps))     outgo_j = 1 / ((k_j + eps)·(Σ_i q_i + eps))
//! sink_i = (q_i + eps)·(Σ_j k_j outgo_j + eps)     src_j = clip((k_j + eps)·(Σ_i q_i in_i + eps), ±clamp)
//! allocation_i = σ(sink_i n/m)     competition_j = m softmax_j(src_j)
//! out_i = allocation_i (in_i q_i)ᵀ Σ_j k_j (competition_j v_j)ᵀ
//! ```
//!
//! H. Wu, J. Wu, J. Xu, J. Wang, M. Long, "Flowformer: Linearizing Transformers with Conservation Flows", ICML 2022, arXiv
//! 2202.06258, section 3.2.
//!
//! Kernels `transform` (sigmoid, softmax), `attend` (sums over tokens), `diagnose` (flows), `scan` without causality.
//!
//! Limits: every query sees every key; the prefix form is `flow-attention-causal`. eps enters every element. `sink_in` is
//! in_i of the equation. q, k and v have the same heads.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::{Fold, Of, Reduce};
use crate::kernel::scan::Scan;
use crate::kernel::transform::{Feature, Map};
use crate::oracle::{Array, Inputs, Outputs, dot, features};
use crate::plan::{PlanBuilder, Ref, ScanIo};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::FeatureMap;
use crate::variants::common::{mapped, same_heads};
use crate::variants::steps::{changed, clip, product, scratch};
use crate::{named, params};

params! {
    /// Flow attention.
    pub struct FlowAttention {
        /// Added to every element of what is summed.
        eps: f32 = 1e-6,
        /// Bound of the competition's logits.
        clamp: f32 = 1.0,
    }
}

impl Named for FlowAttention {
    const CARD: Card = Card {
        name: "flow-attention",
        family: Family::Linear,
        summary: "Linear attention in which sources compete for sinks and both conserve their flow.",
        equation: "out_i = σ(sink_i n/m) (q_i in_i)ᵀ Σ_j k_j (m softmax_j(src_j) v_j)ᵀ",
        paper: "Wu et al., Flowformer, ICML 2022, arXiv 2202.06258",
        inputs: &[
            InputSpec::real("q", "B H Lq D"),
            InputSpec::real("k", "B H Lk D"),
            InputSpec::real("v", "B H Lk Dv"),
        ],
        outputs: &[
            OutputSpec::float("out", "B H Lq Dv"),
            OutputSpec::float("sink_in", "B H Lq"),
            OutputSpec::float("competition", "B H Lk"),
            OutputSpec::float("allocation", "B H Lq"),
        ],
        forms: &["bidirectional", "cross"],
        kernels: &["transform", "attend", "diagnose", "scan"],
    };
}

/// `change((x_i + eps)·(Σ_j weight_j y_j + eps))` for every row of x (B, H, L, D): into out (B, H, L, 1).
struct Flow<'a> {
    name: &'a str,
    x: &'a Ref,
    y: &'a Ref,
    weight: Option<&'a Ref>,
    out: &'a Ref,
}

impl Flow<'_> {
    fn stages(self, plan: &mut PlanBuilder, eps: f32, change: Vec<crate::hook::Hook>) -> Result<()> {
        let [batch, heads, tokens, depth] = self.y.shape[..] else { unreachable!("four axes") };
        let weight = match self.weight {
            Some(weight) => weight.permute(&[0, 1, 3, 2]),
            None => {
                plan.constant("ones", HostTensor::from_fn(&[1, 1, 1, 1], |_| 1.0)).broadcast(&[batch, heads, 1, tokens])
            }
        };
        let label = |of: &str| format!("{} {of}", self.name);
        let sum = scratch(plan, &label("sum"), &[batch, heads, 1, depth]);
        product(plan, &label("sum"), &weight, self.y, 1.0, &sum, None)?;
        let sum = changed(plan, &label("total"), &sum, vec![hooks::plus(eps, 1.0)])?;
        let x = changed(plan, &label("raised"), self.x, vec![hooks::plus(eps, 1.0)])?;
        let flow = scratch(plan, &label("flow"), &self.out.shape);
        let dot = Fold { of: Of::Dot, reduce: Reduce::Each, ..Fold::each() };
        plan.fold_pairs(&label("flow"), dot, [&x, &sum, &flow], None, Vec::new())?;
        plan.fold(self.name, Fold::each(), &flow, self.out, change)
    }
}

/// The parameters' bounds, of the prefix form too.
pub(super) fn check(problem: &Problem, eps: f32, clamp: f32) -> Result<()> {
    if clamp <= 0.0 {
        return Err(problem.refuse(ErrorKind::Parameter, "clamp", "above 0", clamp));
    }
    if eps < 0.0 {
        return Err(problem.refuse(ErrorKind::Parameter, "eps", "0 or more", eps));
    }
    Ok(())
}

impl Variant for FlowAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [batch, heads, n, m] = problem.shape("B H Lq Lk")?[..] else { unreachable!("four words") };
        same_heads(problem, plan)?;
        check(problem, self.eps, self.clamp)?;
        let [q, k] = ["q", "k"].map(|name| mapped(plan, name, FeatureMap::Sigmoid));
        let (q, k, v) = (q?, k?, plan.input("v")?);
        let sink_in = plan.output("sink_in")?.insert(3);
        let inverse = || vec![hooks::power(-1.0)];
        Flow { name: "in", x: &q, y: &k, weight: None, out: &sink_in }.stages(plan, self.eps, inverse())?;
        let outgo = scratch(plan, "outgo", &[batch, heads, m, 1]);
        Flow { name: "outgo", x: &k, y: &q, weight: None, out: &outgo }.stages(plan, self.eps, inverse())?;
        let allocation = plan.output("allocation")?.insert(3);
        let open = vec![hooks::times(n as f32 / m as f32), hooks::logistic()];
        Flow { name: "sink", x: &q, y: &k, weight: Some(&outgo), out: &allocation }.stages(plan, self.eps, open)?;
        let source = scratch(plan, "source", &[batch, heads, m, 1]);
        Flow { name: "source", x: &k, y: &q, weight: Some(&sink_in), out: &source }.stages(
            plan,
            self.eps,
            clip(self.clamp),
        )?;
        let share = scratch(plan, "share", &[batch, heads, 1, m]);
        let logits = changed(plan, "logits", &source.permute(&[0, 1, 3, 2]), Vec::new())?;
        plan.map("compete", Map { feature: Feature::Softmax }, &logits, &share)?;
        let competition = plan.output("competition")?;
        plan.fold("competition", Fold::each().scaled(m as f32), &share, &competition.insert(2), Vec::new())?;

        let competition = competition.insert(3);
        let values = changed(plan, "values", &v, vec![hooks::times(competition.broadcast(&v.shape))])?;
        let queries = changed(plan, "queries", &q, vec![hooks::times(sink_in.broadcast(&q.shape))])?;
        let out = plan.output("out")?;
        let read = scratch(plan, "read", &out.shape);
        let state = scratch(plan, "state", &[batch, heads, k.shape[3], v.shape[3]]);
        let op = Scan { bidirectional: true, ..Scan::new(1.0) };
        plan.scan("scan", op, ScanIo::new(&queries, &k, &values, &read, &state))?;
        plan.fold("allocate", Fold::each(), &read, &out, vec![hooks::times(allocation.broadcast(&out.shape))])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (q, k) = (q.map_rows(|_, x| features::sigmoid(x)), k.map_rows(|_, x| features::sigmoid(x)));
        let (n, m, eps) = (q.shape[2], k.shape[2], f64::from(self.eps));
        // (x + eps)·(Σ_j w_j y_j + eps) of every row of x.
        let flow = |x: &Array, y: &Array, w: &dyn Fn(usize, usize, usize) -> f64| {
            x.map_rows(|at, x| {
                let sum =
                    |d: usize| (0..y.shape[2]).map(|j| w(at[0], at[1], j) * y.get(&[at[0], at[1], j, d])).sum::<f64>();
                vec![x.iter().enumerate().map(|(d, x)| (x + eps) * (sum(d) + eps)).sum()]
            })
        };
        let each = |x: Array, of: &dyn Fn(f64) -> f64| x.map_rows(|_, x| x.iter().map(|x| of(*x)).collect());
        let sink_in = each(flow(&q, &k, &|_, _, _| 1.0), &|x| 1.0 / x);
        let outgo = each(flow(&k, &q, &|_, _, _| 1.0), &|x| 1.0 / x);
        let sink = flow(&q, &k, &|b, h, j| outgo.get(&[b, h, j, 0]));
        let source = flow(&k, &q, &|b, h, i| sink_in.get(&[b, h, i, 0]));
        let clamp = f64::from(self.clamp);
        let source = each(source, &|x| x.clamp(-clamp, clamp));
        let allocation = each(sink, &|x| 1.0 / (1.0 + (-x * n as f64 / m as f64).exp()));
        let competition = source.map_rows(|at, x| {
            let total: f64 = (0..m).map(|j| source.get(&[at[0], at[1], j, 0]).exp()).sum();
            vec![m as f64 * x[0].exp() / total]
        });
        let out = q.map_rows(|at, x| {
            let at4 = |j: usize| [at[0], at[1], j, 0];
            let factor = allocation.row(at)[0] * sink_in.row(at)[0];
            let weight = |j: usize| factor * dot(x, k.row(&[at[0], at[1], j])) * competition.get(&at4(j));
            (0..v.shape[3]).map(|e| (0..m).map(|j| weight(j) * v.get(&[at[0], at[1], j, e])).sum()).collect()
        });
        let flat = |x: Array| Array { shape: x.shape[..3].to_vec(), ..x };
        vec![
            ("out", out),
            ("sink_in", flat(sink_in)),
            ("competition", flat(competition)),
            ("allocation", flat(allocation)),
        ]
    }
}
