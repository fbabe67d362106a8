//! Softmax attention under a mask that is a rule on a few numbers a token: exact, and never an (Lq, Lk) array.
//!
//! ```text
//! order   = (pos_k ≤ pos_q if causal) and pos_q − left ≤ pos_k ≤ pos_q + right,  or k_prefix,  or span_q = span_k ≠ 0
//! scope   = seg_q = seg_k          flags = k_shared or q_global
//! allowed = order and (scope or flags)          or, with flags_override, (order and scope) or flags
//! out_i   = Σ_j e^(scale q_i·k_j − lse_i) v_j   over the allowed j
//! ```
//!
//! T. Bu, Q. Wang, B. Zeng, H. Sun, Y. Huang, C. Cao, J. Xu, "Long-Context Attention Benchmark: From Kernel Efficiency to
//! Distributed Context Parallelism", ICLR 2026, arXiv 2510.17896, the static masks; this rule has each of them as one
//! setting.
//!
//! Kernel `attend`, softmax weights; mask hook attributes.
//!
//! Limits: `seg_q` with `seg_k` and `span_q` with `span_k`, both or none. Every pair is scored and then masked: a
//! pattern that is known when the plan is made is cheaper as `static-mask-patterns`, which skips what it hides. A row
//! without keys has out = 0 and lse = −∞.

use crate::error::{ErrorKind, Result};
use crate::hooks::{self, Rule};
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LSE, OUT, Q, V, default_scale, of_keys, of_rows, softmax};
use crate::{named, params};

params! {
    /// Softmax attention under a rule on attributes of tokens.
    pub struct MaskRules {
        /// Later positions are hidden.
        causal: bool = false,
        /// Positions seen before the query's own; absent: all.
        left: Option<usize> = None,
        /// Positions seen after the query's own; absent: all.
        right: Option<usize> = None,
        /// Shared keys and global queries are allowed whatever the order.
        flags_override: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for MaskRules {
    const CARD: Card = Card {
        name: "mask-rules",
        family: Family::Dense,
        summary: "Softmax attention under a mask that is a rule on positions, segments, spans and flags of tokens.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over order ∧ (same segment ∨ shared ∨ global)",
        paper: "Bu et al., Long-Context Attention Benchmark, ICLR 2026, arXiv 2510.17896",
        inputs: &[
            Q,
            K,
            V,
            InputSpec::index("pos_q", "Lq"),
            InputSpec::index("pos_k", "Lk"),
            InputSpec::index("seg_q", "Lq").optional(),
            InputSpec::index("seg_k", "Lk").optional(),
            InputSpec::index("span_q", "Lq").optional(),
            InputSpec::index("span_k", "Lk").optional(),
            InputSpec::flag("k_prefix", "Lk").optional(),
            InputSpec::flag("k_shared", "Lk").optional(),
            InputSpec::flag("q_global", "Lq").optional(),
        ],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend"],
    };
}

impl Variant for MaskRules {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        for (a, b) in [("seg_q", "seg_k"), ("span_q", "span_k")] {
            if problem.has(a) != problem.has(b) {
                let (given, missing) = if problem.has(a) { (a, b) } else { (b, a) };
                let expected = format!("a tensor, because `{given}` is given");
                return Err(problem.refuse(ErrorKind::MissingInput, missing, expected, "nothing"));
            }
        }
        let rows = |name: &str| plan.optional(name).map(|r| of_rows(&r));
        let keys = |name: &str| plan.optional(name).map(|r| of_keys(&r));
        let rule = Rule {
            causal: self.causal,
            left: self.left,
            right: self.right,
            flags_override: self.flags_override,
            prefix: None,
            pos_q: rows("pos_q"),
            pos_k: keys("pos_k"),
            seg_q: rows("seg_q"),
            seg_k: keys("seg_k"),
            span_q: rows("span_q"),
            span_k: keys("span_k"),
            k_prefix: keys("k_prefix"),
            k_shared: keys("k_shared"),
            q_global: rows("q_global"),
        };
        softmax(plan, Attend::new(default_scale(self.scale, problem)), vec![hooks::attributes(rule)])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let number = |name: &str, at: usize| inputs.number(name, &[at], 0.0);
        let left = self.left.map_or(f64::INFINITY, |n| n as f64);
        let right = self.right.map_or(f64::INFINITY, |n| n as f64);
        let (out, lse) = attention(q, k, v, scale(self.scale, q), &|row, j, s| {
            let (p, t) = (number("pos_q", row.i), number("pos_k", j));
            let near = (!self.causal || t <= p) && p - left <= t && t <= p + right;
            let one_span = number("span_q", row.i) == number("span_k", j) && number("span_k", j) != 0.0;
            let order = near || number("k_prefix", j) != 0.0 || one_span;
            let scope = number("seg_q", row.i) == number("seg_k", j);
            let flags = number("k_shared", j) != 0.0 || number("q_global", row.i) != 0.0;
            let allowed = if self.flags_override { (order && scope) || flags } else { order && (scope || flags) };
            allowed.then_some(s)
        });
        vec![("out", out), ("lse", lse)]
    }
}
