//! Attention as an output distribution: a pointer to one of the keys, without values.
//!
//! ```text
//! u_ij = w_h·tanh(q_i + k_j) (additive)  or  scale q_i·k_j (dot)
//! p_ij = e^(u_ij − lse_i)     lse_i = ln Σ_j e^(u_ij)     pointer_i = argmax_j u_ij, the lower index on ties
//! ```
//!
//! O. Vinyals, M. Fortunato, N. Jaitly, "Pointer Networks", NeurIPS 2015, arXiv 1506.03134, section 2.3.
//!
//! Kernels `diagnose` for the scores, `attend` for their lse, `diagnose` for probabilities and pointers.
//!
//! Limits: in additive mode q and k come projected, `w` is needed and there is no scale; in dot mode there is no `w`. The
//! probabilities are an output, hence O(Lq Lk) memory. A row without keys has p = 0, lse = −∞ and pointer 0.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::{Fold, Of};
use crate::oracle::{Array, Inputs, Outputs, attention, attention_map, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::PointerMode;
use crate::variants::common::{K, LSE, MASK, Q, default_scale, given_mask};
use crate::variants::steps::{row_lse, scratch};
use crate::{named, params};

params! {
    /// Scores over the keys as a distribution.
    pub struct PointerScores {
        /// How a pair is scored.
        mode: PointerMode = PointerMode::Additive,
        /// Factor of q·k in dot mode; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for PointerScores {
    const CARD: Card = Card {
        name: "pointer-scores",
        family: Family::Dense,
        summary: "Attention as an output distribution over the keys.",
        equation: "p_ij = softmax_j(w_h·tanh(q_i + k_j)) or softmax_j(scale q_i·k_j), pointer_i = argmax_j",
        paper: "Vinyals, Fortunato, Jaitly, Pointer Networks, NeurIPS 2015, arXiv 1506.03134",
        inputs: &[Q, K, InputSpec::float("w", "H D").optional(), MASK],
        outputs: &[OutputSpec::float("probabilities", "B H Lq Lk"), LSE, OutputSpec::index("pointer", "B H Lq")],
        forms: &["decode", "cross"],
        kernels: &["diagnose", "attend", "diagnose", "diagnose"],
    };
}

impl Variant for PointerScores {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let additive = self.mode == PointerMode::Additive;
        if additive != problem.has("w") {
            let (kind, expected) = match additive {
                true => (ErrorKind::MissingInput, "(H, D) with mode additive"),
                false => (ErrorKind::Unsupported, "nothing with mode dot"),
            };
            return Err(problem.refuse(kind, "w", expected, if additive { "nothing" } else { "a tensor" }));
        }
        if let (true, Some(scale)) = (additive, self.scale) {
            return Err(problem.refuse(ErrorKind::Parameter, "scale", "none with mode additive", scale));
        }
        let (q, k, lse) = (plan.input("q")?, plan.input("k")?, plan.output("lse")?);
        let scores = scratch(plan, "scores", &problem.shape("B H Lq Lk")?);
        let w = plan.optional("w").map(|w| ("w", w.insert(1).lead(4)));
        let op = match additive {
            true => Fold::each().of(Of::Tanh),
            false => Fold::each().of(Of::Dot).scaled(default_scale(self.scale, problem)),
        };
        plan.fold_pairs("scores", op, [&q, &k, &scores], w, Vec::new())?;
        let mask = given_mask(problem, plan)?;
        let mut chain = vec![hooks::take(&scores, 1.0)];
        chain.extend(mask.clone());
        row_lse(plan, Attend::new(1.0), [&q.narrow(3, 0, 1), &k.narrow(3, 0, 1)], &lse, chain)?;
        let mut chain = mask.clone();
        chain.push(hooks::probability(lse.insert(3)));
        let (probabilities, pointer) = (plan.output("probabilities")?, plan.output("pointer")?);
        plan.fold("probabilities", Fold::each(), &scores, &probabilities, chain)?;
        plan.fold("pointer", Fold::arg_max(), &scores, &pointer.insert(3), mask)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let (q, k) = (inputs.get("q"), inputs.get("k"));
        let group = q.shape[1] / k.shape[1];
        let pairs = |row: crate::oracle::Row, j: usize, s: f64| {
            let both = q.row(&[row.b, row.h, row.i]).iter().zip(k.row(&[row.b, row.h / group, j])).enumerate();
            let s = match self.mode {
                PointerMode::Additive => {
                    both.map(|(d, (q, k))| inputs.get("w").get(&[row.h, d]) * (q + k).tanh()).sum()
                }
                PointerMode::Dot => s,
            };
            inputs.flag("mask", &[row.b, row.h, row.i, j]).then_some(s)
        };
        let (_, lse) = attention(q, k, k, scale(self.scale, q), &pairs);
        let p = attention_map(q, k, scale(self.scale, q), &pairs);
        let pointer = Array::zeros(&lse.shape).map_rows(|at, row| {
            let first = |p: &[f64]| (0..p.len()).fold(0, |best, j| if p[j] > p[best] { j } else { best });
            (0..row.len()).map(|i| first(p.row(&[at[0], at[1], i])) as f64).collect()
        });
        vec![("probabilities", p), ("lse", lse), ("pointer", pointer)]
    }
}
