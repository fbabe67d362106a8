//! Attention of a target over a long history with small embeddings for the scores and others for the values, after a search
//! for the best keys.
//!
//! ```text
//! s_ij = scale q_att,i·k_att,j     kept: the top_k valid j by s_ij, ties by index (absent: all valid j)
//! out_i = Σ_kept e^(s_ij − lse_i) v_rep,j     lse_i = ln Σ_kept e^(s_ij)     cross_i = out_i ⊙ target_rep,i
//! ```
//!
//! N. Feng, J. Pan, J. Wu, B. Chen, X. Wang, Q. Li, X. Hu, J. Jiang, M. Long, "Long-Sequence Recommendation Models Need
//! Decoupled Embeddings" (DARE), ICLR 2025, arXiv 2410.02604, section 4.
//!
//! Kernels `diagnose` (scores), `select` (top-k), `attend` (token list or all keys), softmax weights; mask hook given.
//!
//! Limits: the search stores B · H · Lq · Lk scores. Time embeddings of the published code, with a scale of their own, are
//! concatenated halves that are scaled beforehand, with `scale` 1. A row without valid keys has out = 0 and lse = −∞, not
//! the uniform average of the published code.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::attend::{Attend, Keys};
use crate::kernel::diagnose::{Fold, Of};
use crate::kernel::select::TopK;
use crate::oracle::{Array, Inputs, Outputs, attention, dot, padded, scale, shared_head, top_k};
use crate::plan::{AttendIo, PlanBuilder};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{LSE, OUT, default_scale};
use crate::variants::steps::scratch;
use crate::{named, params};

/// A score that top-k never takes.
const NEVER: f32 = -2e30;

/// Places of a list that are taken whatever the number of keys; the rest stay empty.
const MOST: usize = 1 << 16;

params! {
    /// Attention with decoupled embeddings and a search.
    pub struct DecoupledAttention {
        /// Keys of a query; absent: all.
        top_k: Option<usize> = None,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for DecoupledAttention {
    const CARD: Card = Card {
        name: "decoupled-attention",
        family: Family::Dense,
        summary: "Attention with embeddings of their own for scores and values, after a search for the best keys.",
        equation: "out_i = Σ_j softmax_j(scale q_att,i·k_att,j) v_rep,j over the top_k j",
        paper: "Feng et al., Long-Sequence Recommendation Models Need Decoupled Embeddings, ICLR 2025, arXiv 2410.02604",
        inputs: &[
            InputSpec::real("q_att", "B H Lq D"),
            InputSpec::real("k_att", "B Hk Lk D"),
            InputSpec::real("v_rep", "B Hk Lk Dv"),
            InputSpec::flag("valid", "B Lk").optional(),
            InputSpec::float("target_rep", "B H Lq Dv").optional(),
        ],
        outputs: &[
            OUT,
            LSE,
            OutputSpec::index("indices", "B H Lq top_k").optional(),
            OutputSpec::float("cross", "B H Lq Dv").optional(),
        ],
        forms: &["cross", "decode"],
        kernels: &["diagnose", "select", "attend", "diagnose"],
    };
}

impl Variant for DecoupledAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let most = problem.size("Lk").max(MOST);
        if let Some(top_k) = self.top_k.filter(|n| !(1..=most).contains(n)) {
            return Err(problem.refuse(ErrorKind::Parameter, "top_k", format!("1 to {most}"), top_k));
        }
        let (q, k, v) = (plan.input("q_att")?, plan.input("k_att")?, plan.input("v_rep")?);
        let (out, lse) = (plan.output("out")?, plan.output("lse")?);
        let scale = default_scale(self.scale, problem);
        let mut io = AttendIo::new(&q, &k, &v, &out).lse(&lse);
        let mut op = Attend::new(scale);
        let mut valid: Vec<_> =
            plan.optional("valid").map(|valid| hooks::given(valid.insert(1).insert(1))).into_iter().collect();
        if self.top_k.is_some() {
            let scores = scratch(plan, "scores", &problem.shape("B H Lq Lk")?);
            let search = Fold { empty: NEVER, ..Fold::each().of(Of::Dot).scaled(scale) };
            plan.fold_pairs("scores", search, [&q, &k, &scores], None, std::mem::take(&mut valid))?;
            let indices = plan.output("indices")?;
            plan.top_k("search", TopK::plain(), &scores, None, &indices)?;
            op.keys = Keys::Tokens { block: 1 };
            io.indices = Some(indices);
        }
        plan.attend("attend", op, io, valid)?;
        match plan.optional("target_rep") {
            Some(target) => {
                let cross = plan.output("cross")?;
                plan.fold("cross", Fold::each(), &out, &cross, vec![hooks::times(target)])
            }
            None => Ok(()),
        }
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = ["q_att", "k_att", "v_rep"].map(|name| inputs.get(name));
        let [batch, heads, lq, _] = q.shape[..] else { panic!("q has rank 4") };
        let (lk, factor) = (k.shape[2], scale(self.scale, q));
        let mut lists = Vec::new();
        for (b, h, i) in (0..batch * heads * lq).map(|n| (n / (heads * lq), n / lq % heads, n % lq)) {
            let score = |j: usize| match inputs.flag("valid", &[b, j]) {
                true => factor * dot(q.row(&[b, h, i]), k.row(&[b, shared_head(h, heads, k), j])),
                false => f64::NEG_INFINITY,
            };
            let scores: Vec<f64> = (0..lk).map(score).collect();
            lists.push(top_k(&scores, self.top_k.unwrap_or(lk)));
        }
        let (out, lse) = attention(q, k, v, factor, &|row, j, s| {
            lists[(row.b * heads + row.h) * lq + row.i].contains(&j).then_some(s)
        });
        let mut results = vec![("lse", lse)];
        if let Some(slots) = self.top_k {
            let data = lists.iter().flat_map(|list| padded(list, slots)).collect();
            results.push(("indices", Array { shape: vec![batch, heads, lq, slots], data }));
        }
        if let Some(target) = inputs.find("target_rep") {
            let cross = out.data.iter().zip(&target.data).map(|(x, t)| x * t).collect();
            results.push(("cross", Array { shape: out.shape.clone(), data: cross }));
        }
        results.push(("out", out));
        results
    }
}
