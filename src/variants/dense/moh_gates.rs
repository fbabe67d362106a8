//! The gates of mixture-of-head attention: which heads a token uses, and with what weight.
//!
//! ```text
//! learned:    p = softmax(routed_logits), kept: the top_k, routed = top_k p / Σ_kept p, else 0
//!             shared = n_shared softmax(shared_logits)     (a1, a2) = 2 softmax(mix_logits)     gates = [a1 shared, a2 routed]
//! query norm: gates = 1 for shared heads and the top_k routed heads by |q_h|, else 0
//! indices: the chosen routed heads, numbered over all heads, ascending
//! ```
//!
//! P. Jin, B. Zhu, L. Yuan, S. Yan, "MoH: Multi-Head Attention as Mixture-of-Head Attention", ICML 2025, arXiv 2410.11842,
//! sections 3.2 and 3.4. The query-norm router divides by the standard deviation over heads and takes a softmax; both keep
//! the order, and its gates are 0 or 1.
//!
//! Kernels `transform` (softmax), `diagnose` (arithmetic over heads), `select` (top-k).
//!
//! Limits: logits or `q`, not both. Without shared heads the routed part stands alone, without routed logits the shared
//! one. Ties go to the lower head; each gate compares its head with all others.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::select::TopK;
use crate::kernel::transform::{Feature, Map};
use crate::oracle::{Array, Inputs, Outputs, dot, features, top_k};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::{changed, folded, scratch};
use crate::{named, params};

params! {
    /// The gates of mixture-of-head attention.
    pub struct MohGates {
        /// Leading heads that every token uses.
        n_shared: usize = 0,
        /// Routed heads of a token.
        top_k: usize = 1,
    }
}

impl Named for MohGates {
    const CARD: Card = Card {
        name: "moh-gates",
        family: Family::Dense,
        summary: "The gates of mixture-of-head attention, by a learned router or by the norm of the queries.",
        equation: "gates = [2 softmax(m)_1 n softmax(s), 2 softmax(m)_2 k p / Σ_top-k p], p = softmax(r)",
        paper: "Jin et al., MoH: Multi-Head Attention as Mixture-of-Head Attention, ICML 2025, arXiv 2410.11842",
        inputs: &[
            InputSpec::float("routed_logits", "B L H-n_shared").optional(),
            InputSpec::float("shared_logits", "B L n_shared").optional(),
            InputSpec::float("mix_logits", "B L 2").optional(),
            InputSpec::real("q", "B H L D").optional(),
        ],
        outputs: &[OutputSpec::float("gates", "B L H"), OutputSpec::index("indices", "B L top_k").optional()],
        forms: &["prefill", "decode"],
        kernels: &["transform", "diagnose", "select"],
    };
}

/// Softmax of each row of x (B, 1, L, N).
fn softmax(plan: &mut PlanBuilder, name: &str, x: &Ref) -> Result<Ref> {
    let out = scratch(plan, name, &x.shape);
    plan.map(name, Map { feature: Feature::Softmax }, x, &out)?;
    Ok(out)
}

impl MohGates {
    fn check(&self, problem: &Problem) -> Result<()> {
        let logits = ["routed_logits", "shared_logits"].map(|name| problem.has(name));
        let refuse = |name: &str, expected: &str, found: &str| {
            Err(problem.refuse(ErrorKind::MissingInput, name, expected, found))
        };
        if problem.has("q") == logits.contains(&true) {
            let found = if problem.has("q") { "`q` and logits" } else { "neither" };
            return refuse("q", "either `q` or logits", found);
        }
        if logits == [true, true] && !problem.has("mix_logits") {
            return refuse("mix_logits", "a tensor, because both kinds of logits are given", "nothing");
        }
        if logits == [true, false] && self.n_shared > 0 {
            return refuse("shared_logits", "a tensor, because n_shared is above 0", "nothing");
        }
        let routed = match (problem.has("q"), logits[0]) {
            (true, _) => problem.size("H").saturating_sub(self.n_shared),
            (_, true) => problem.size("H-n_shared"),
            _ => return Ok(()),
        };
        if self.top_k == 0 || self.top_k > routed {
            let expected = format!("1 to the {routed} routed heads");
            return Err(problem.refuse(ErrorKind::Parameter, "top_k", expected, self.top_k));
        }
        Ok(())
    }

    /// The output `indices`: the largest of x (B, 1, L, R).
    fn chosen(&self, plan: &mut PlanBuilder, x: &Ref) -> Result<()> {
        let shape = [x.shape[0], x.shape[2], self.top_k];
        let local = plan.scratch("local", DType::I32, &[shape[0], 1, shape[1], shape[2]]);
        plan.top_k("top_k", TopK::plain(), x, None, &local)?;
        let out = plan.output_as("indices", &shape)?.insert(1);
        plan.fold("indices", Fold::each(), &local, &out, vec![hooks::plus(self.n_shared as f32, 1.0)])
    }
}

impl Variant for MohGates {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        self.check(problem)?;
        let [batch, length] = [problem.size("B"), problem.size("L")];
        let mut parts = Vec::new();
        if let Some(q) = plan.optional("q") {
            let square = folded(plan, "square", Fold::sum(), &q, vec![hooks::times(&q)])?;
            let routed = square.narrow(1, self.n_shared, q.shape[1] - self.n_shared).permute(&[0, 3, 2, 1]);
            // Squares order as norms do; (B, 1, L, R) in rows.
            let norms = changed(plan, "norms", &routed, vec![hooks::power(0.5)])?;
            self.chosen(plan, &norms)?;
            let one = plan.constant("one", HostTensor::from_fn(&[1, 1, 1, 1], |_| 1.0));
            if self.n_shared > 0 {
                parts.push(one.broadcast(&[batch, 1, length, self.n_shared]));
            }
            let kept = vec![hooks::take(1.0, 1.0), hooks::keep_largest(&norms, self.top_k)];
            parts.push(changed(plan, "routed", &norms, kept)?);
        } else {
            let mix = match plan
                .optional("mix_logits")
                .filter(|_| problem.has("routed_logits") && problem.has("shared_logits"))
            {
                Some(logits) => Some(softmax(plan, "mix", &logits.insert(1))?),
                None => None,
            };
            // Twice the share of part n.
            let share = |n: usize| mix.as_ref().map(|mix| [hooks::times(mix.narrow(3, n, 1)), hooks::times(2.0)]);
            if let Some(logits) = plan.optional("shared_logits") {
                let p = softmax(plan, "shared_softmax", &logits.insert(1))?;
                let mut chain = vec![hooks::times(self.n_shared as f32)];
                chain.extend(share(0).into_iter().flatten());
                parts.push(changed(plan, "shared", &p, chain)?);
            }
            if let Some(logits) = plan.optional("routed_logits") {
                let logits = logits.insert(1);
                self.chosen(plan, &logits)?;
                let p = softmax(plan, "routed_softmax", &logits)?;
                let kept = changed(plan, "kept", &p, vec![hooks::keep_largest(&logits, self.top_k)])?;
                let sum = folded(plan, "kept_sum", Fold::sum(), &kept, Vec::new())?;
                let floor = changed(plan, "kept_floor", &sum, vec![hooks::at_least(f32::EPSILON)])?;
                let mut chain = vec![hooks::over(floor), hooks::times(self.top_k as f32)];
                chain.extend(share(1).into_iter().flatten());
                parts.push(changed(plan, "routed", &kept, chain)?);
            }
        }
        let heads = parts.iter().map(|part| part.shape[3]).sum();
        let gates = plan.output_as("gates", &[batch, length, heads])?.insert(1);
        let join = match &parts[..] {
            [a, b] => vec![hooks::joined(a, b)],
            _ => return plan.fold("gates", Fold::each(), &parts[0], &gates, Vec::new()),
        };
        let zero = plan.constant("zero", HostTensor::zeros(&[1, 1, 1, 1]));
        plan.fold("gates", Fold::each(), &zero.broadcast(&gates.shape), &gates, join)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let first = ["routed_logits", "shared_logits", "q"].into_iter().find_map(|name| inputs.find(name));
        let shape = &first.expect("logits or queries").shape;
        let (batch, length) = (shape[0], shape[shape.len() - 2]);
        let (mut gates, mut indices) = (Vec::new(), Vec::new());
        for (b, i) in (0..batch * length).map(|n| (n / length, n % length)) {
            let choose = |scores: &[f64]| top_k(scores, self.top_k);
            if let Some(q) = inputs.find("q") {
                let norms: Vec<f64> =
                    (self.n_shared..q.shape[1]).map(|h| dot(q.row(&[b, h, i]), q.row(&[b, h, i])).sqrt()).collect();
                let mean = norms.iter().sum::<f64>() / norms.len() as f64;
                let variance = norms.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (norms.len() as f64 - 1.0);
                let deviation = if norms.len() == 1 { 1.0 } else { variance.sqrt().max(1e-12) };
                let p = features::softmax(&norms.iter().map(|x| x / deviation).collect::<Vec<_>>());
                let chosen = choose(&p);
                gates.extend(vec![1.0; self.n_shared]);
                gates.extend((0..norms.len()).map(|h| f64::from(u8::from(chosen.contains(&h)))));
                indices.extend(chosen.iter().map(|h| (h + self.n_shared) as f64));
                continue;
            }
            let row = |name: &str| inputs.find(name).map(|x| features::softmax(x.row(&[b, i])));
            let (routed, shared) = (row("routed_logits"), row("shared_logits"));
            let mix = row("mix_logits").filter(|_| routed.is_some() && shared.is_some());
            let share = |n: usize| mix.as_ref().map_or(1.0, |mix| 2.0 * mix[n]);
            gates.extend(shared.iter().flatten().map(|p| share(0) * p * self.n_shared as f64));
            if let Some(p) = routed {
                let chosen = choose(&p);
                let sum = chosen.iter().map(|&h| p[h]).sum::<f64>().max(1.19e-7);
                let gate = |h: usize| if chosen.contains(&h) { p[h] / sum * self.top_k as f64 } else { 0.0 };
                gates.extend((0..p.len()).map(|h| share(1) * gate(h)));
                indices.extend(chosen.iter().map(|h| (h + self.n_shared) as f64));
            }
        }
        let heads = gates.len() / (batch * length);
        let mut list = vec![("gates", Array { shape: vec![batch, length, heads], data: gates })];
        if !indices.is_empty() {
            list.push(("indices", Array { shape: vec![batch, length, self.top_k], data: indices }));
        }
        list
    }
}
