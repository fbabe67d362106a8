//! Softmax attention with relative positions: a second query asks for the distance, beside the one that asks for the
//! content.
//!
//! ```text
//! s_ij = scale ((q_i + u_h)·k_j + (q_i + w_h)·r_h(i' − j))     i' = i + Lk − Lq
//! r_h(n): projected sinusoids of the distance n from −(Lq − 1) to Lk − 1, row n + Lq − 1 of `rel`
//! ```
//!
//! Z. Dai, Z. Yang, Y. Yang, J. Carbonell, Q. V. Le, R. Salakhutdinov, "Transformer-XL: Attentive Language Models beyond a
//! Fixed-Length Context", ACL 2019, arXiv 1901.02860, section 3.3.
//!
//! Kernels `diagnose` (the two queries), `attend`, softmax weights; score hook relative, mask hook causal.
//!
//! Limits: the position term is computed pair by pair in the hook, in memory linear in the length; it costs more than the
//! content term, which is tiled. A memory segment is Lk > Lq. A row without keys has out = 0 and lse = −∞.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::oracle::{Array, Inputs, Outputs, attention, bottom_right, dot, scale};
use crate::plan::{AttendIo, PlanBuilder, Ref};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, OUT, Q, V, default_scale};
use crate::variants::steps::changed;
use crate::{named, params};

params! {
    /// Softmax attention with relative positions.
    pub struct TransformerXlAttention {
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = true,
        /// Factor of the products; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for TransformerXlAttention {
    const CARD: Card = Card {
        name: "transformer-xl-attention",
        family: Family::Dense,
        summary: "Softmax attention with relative positions that the query asks for.",
        equation: "s_ij = scale ((q_i + u_h)·k_j + (q_i + w_h)·r_h(i + Lk − Lq − j))",
        paper: "Dai et al., Transformer-XL, ACL 2019, arXiv 1901.02860",
        inputs: &[
            Q,
            K,
            V,
            InputSpec::float("rel", "H Lq+Lk-1 D"),
            InputSpec::float("u", "H D"),
            InputSpec::float("w", "H D"),
        ],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["diagnose", "diagnose", "attend"],
    };
}

impl Variant for TransformerXlAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (q, k, v) = (plan.input("q")?, plan.input("k")?, plan.input("v")?);
        attend(problem, plan, default_scale(self.scale, problem), self.causal, [&q, &k, &v])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        definition(inputs, [q, k, v], scale(self.scale, q), self.causal)
    }
}

/// Relative attention of q, k and v with the inputs `rel`, `u` and `w`, into the outputs `out` and `lse`.
pub(super) fn attend(
    problem: &Problem,
    plan: &mut PlanBuilder,
    scale: f32,
    causal: bool,
    [q, k, v]: [&Ref; 3],
) -> Result<()> {
    let [lq, lk] = [problem.size("Lq"), problem.size("Lk")];
    let rel = plan.input("rel")?;
    if rel.shape[1] != lq + lk - 1 {
        let expected = format!("Lq + Lk − 1 = {} distances", lq + lk - 1);
        return Err(problem.refuse(crate::ErrorKind::Shape, "rel", expected, rel.shape[1]));
    }
    let of_head = |name: &str| Ok::<_, crate::Error>(hooks::plus(plan.input(name)?.insert(1).insert(0), 1.0));
    let (content, position) = (of_head("u")?, of_head("w")?);
    let asking = changed(plan, "position_query", q, vec![position])?;
    let content = changed(plan, "content_query", q, vec![content])?;
    let (out, lse) = (plan.output("out")?, plan.output("lse")?);
    let io = AttendIo::new(&content, k, v, &out).lse(&lse);
    let hook = hooks::relative(&asking, &rel.insert(0), lq - 1, scale);
    plan.attend("attend", Attend::new(scale).causal(causal), io, vec![hook])
}

/// The definition, of q, k and v and the inputs `rel`, `u` and `w`.
pub(super) fn definition(inputs: &Inputs, [q, k, v]: [&Array; 3], factor: f64, causal: bool) -> Outputs {
    let (rel, u, w) = (inputs.get("rel"), inputs.get("u"), inputs.get("w"));
    let plus = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x + y).collect::<Vec<f64>>();
    let content = q.map_rows(|at, x| plus(x, u.row(&[at[1]])));
    let (out, lse) = attention(&content, k, v, factor, &|row, j, s| {
        let distance = bottom_right(row.i, q, k) - j as i64;
        let r = rel.row(&[row.h, (distance + q.shape[2] as i64 - 1) as usize]);
        let position = dot(&plus(q.row(&[row.b, row.h, row.i]), w.row(&[row.h])), r);
        (!causal || distance >= 0).then_some(s + factor * position)
    });
    vec![("out", out), ("lse", lse)]
}
