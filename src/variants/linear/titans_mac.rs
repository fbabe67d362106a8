//! Memory as context: a segment attends to persistent keys, to what a memory recalled for its tokens, and to itself.
//!
//! ```text
//! out_i = Σ_j softmax_j(scale q_i·κ_j) ν_j     over (κ, ν) of: all (p_k, p_v); (mem_k, mem_v)_j and (k, v)_j of the segment of i
//! own tokens j ≤ i; slots j ≤ i with mem_causal, else all of the segment
//! ```
//!
//! A. Behrouz, P. Zhong, V. Mirrokni, "Titans: Learning to Memorize at Test Time", 2025, arXiv 2501.00663, section 4.1.
//!
//! Kernels `attend` (persistent keys), `attend` (slots), `attend` (own segment), `combine` (merge).
//!
//! Limits: what the memory recalled is an input, one slot a token. Segments begin at multiples of `segment` in the call. Without
//! `mem_causal` a query sees slots of later tokens of its segment. q, k, v and the slots have as many heads as each other.

use crate::error::{ErrorKind, Result};
use crate::kernel::attend::Attend;
use crate::oracle::{Array, Inputs, Outputs, attention, merge, scale};
use crate::plan::{AttendIo, PlanBuilder};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{LSE_SELF, OUT_SELF, default_scale, every_batch, heads_of_q, parts, row_limits};
use crate::{named, params};

params! {
    /// Titans, memory as context.
    pub struct TitansMac {
        /// Tokens of a segment.
        segment: usize = 64,
        /// A slot is hidden from the queries before its token.
        mem_causal: bool = true,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for TitansMac {
    const CARD: Card = Card {
        name: "titans-mac",
        family: Family::Linear,
        summary: "A segment attends to persistent keys, to what a memory recalled, and to itself.",
        equation: "out_i = Σ_j softmax_j(scale q_i·κ_j) ν_j over persistent keys, recalled slots and tokens j ≤ i of the segment",
        paper: "Behrouz, Zhong, Mirrokni, Titans, 2025, arXiv 2501.00663",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::real("mem_k", "B H L D"),
            InputSpec::real("mem_v", "B H L Dv"),
            InputSpec::float("p_k", "H P D"),
            InputSpec::float("p_v", "H P Dv"),
        ],
        outputs: &[OUT_SELF, LSE_SELF],
        forms: &["prefill"],
        kernels: &["attend", "attend", "attend", "combine"],
    };
}

impl Variant for TitansMac {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if self.segment == 0 {
            return Err(problem.refuse(ErrorKind::Parameter, "segment", "1 or more tokens", 0));
        }
        heads_of_q(problem, plan, &["k", "v", "mem_k", "mem_v"])?;
        let (q, length) = (plan.input("q")?, problem.size("L"));
        let op = Attend::new(default_scale(self.scale, problem));
        let (outs, lses) = parts(plan, 3)?;
        let io = |plan: &PlanBuilder, n: usize, [k, v]: [&str; 2]| -> Result<AttendIo> {
            let (k, v) = (every_batch(problem, plan.input(k)?), every_batch(problem, plan.input(v)?));
            Ok(AttendIo::new(&q, &k, &v, &outs.select(0, n)).lse(&lses.select(0, n)))
        };
        plan.attend("persistent", op, io(plan, 0, ["p_k", "p_v"])?, Vec::new())?;
        let first = |i: usize| i / self.segment * self.segment;
        let own = row_limits(plan, length, |i| first(i)..i + 1)?;
        let seen = match self.mem_causal {
            true => own.clone(),
            false => row_limits(plan, length, |i| first(i)..(first(i) + self.segment).min(length))?,
        };
        for (n, label, names, limits) in [(1, "slots", ["mem_k", "mem_v"], seen), (2, "own", ["k", "v"], own)] {
            let mut io = io(plan, n, names)?;
            (io.row_start, io.row_end) = limits;
            plan.attend(label, op, io, Vec::new())?;
        }
        let (out, lse) = (plan.output("out")?, plan.output("lse")?);
        plan.merge(&outs, &lses, None, &out, Some(&lse))
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let scale = scale(self.scale, q);
        let batched = |name: &str| {
            let x = inputs.get(name);
            Array { shape: [&[q.shape[0]], &x.shape[..]].concat(), data: x.data.repeat(q.shape[0]) }
        };
        let same = |i: usize, j: usize| i / self.segment == j / self.segment;
        let fixed = attention(q, &batched("p_k"), &batched("p_v"), scale, &|_, _, s| Some(s));
        let recalled = attention(q, inputs.get("mem_k"), inputs.get("mem_v"), scale, &|row, j, s| {
            (same(row.i, j) && (j <= row.i || !self.mem_causal)).then_some(s)
        });
        let own = attention(q, k, v, scale, &|row, j, s| (same(row.i, j) && j <= row.i).then_some(s));
        let (out, lse) = merge(&[fixed, recalled, own]);
        vec![("out", out), ("lse", lse)]
    }
}
