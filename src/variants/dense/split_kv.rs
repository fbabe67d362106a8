//! Attention of a few queries whose keys are cut in ranges that run at the same time and are merged afterwards.
//!
//! ```text
//! range r: keys r·c ≤ j < min((r+1)·c, n)     c = ⌈n / splits⌉, n = kv_len
//! (out_r, lse_r) = softmax attention over range r     lse = ln Σ_r e^(lse_r)     out = Σ_r e^(lse_r − lse) out_r
//! sink:   lse' = ln(e^lse + e^sink_h)     out' = e^(lse − lse') out          once, after the merge
//! ```
//!
//! T. Dao, D. Haziza, F. Massa, G. Sizov, "Flash-Decoding for long-context inference", 2023 (a note, no paper).
//!
//! Kernels `attend` over every range, then `combine`; mask hook lengths.
//!
//! Limits: no causal mask, each of the Lq rows sees every key in use. Ranges beyond the keys are empty and count
//! nothing, so any number of splits gives the one-pass result up to rounding. Keys in use are the first
//! `min(kv_len, lengths[b])`; where there are none out = 0 and lse = −∞ (with a sink: lse = sink).

use crate::error::{ErrorKind, Result};
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, merge, scale, with_sink};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K, LENGTHS, LSE, OUT, Q, V, attend_io, default_scale, lengths, parts};
use crate::{named, params};

params! {
    /// Decode with the keys cut in ranges.
    pub struct SplitKvDecode {
        /// Ranges of keys.
        splits: usize = 4,
        /// Keys in use, from the first; absent: all.
        kv_len: Option<usize> = None,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for SplitKvDecode {
    const CARD: Card = Card {
        name: "split-kv-decode",
        family: Family::Dense,
        summary: "Decode attention over ranges of keys that are merged by their log-sum-exp.",
        equation: "out = Σ_r e^(lse_r − lse) out_r over ranges of ⌈n / splits⌉ keys",
        paper: "Dao, Haziza, Massa, Sizov, Flash-Decoding for long-context inference, 2023",
        inputs: &[Q, K, V, InputSpec::float("sink", "H").optional(), LENGTHS],
        outputs: &[OUT, LSE],
        forms: &["decode", "cross"],
        kernels: &["attend", "combine"],
    };
}

impl Variant for SplitKvDecode {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let keys = problem.size("Lk");
        let used = self.kv_len.unwrap_or(keys);
        if self.splits == 0 {
            return Err(problem.refuse(ErrorKind::Parameter, "splits", "1 or more", 0));
        }
        if used == 0 || used > keys {
            return Err(problem.refuse(ErrorKind::Parameter, "kv_len", format!("1 to Lk = {keys}"), used));
        }
        let mut io = attend_io(plan)?;
        let (outs, lses) = parts(plan, self.splits)?;
        let out = std::mem::replace(&mut io.out, outs.clone());
        (io.k, io.v) = (io.k.narrow(2, 0, used), io.v.narrow(2, 0, used));
        io.lse = Some(lses.clone());
        io.lengths = lengths(problem, plan);
        let op = Attend { splits: self.splits, ..Attend::new(default_scale(self.scale, problem)) };
        plan.attend("attend ranges", op, io, Vec::new())?;
        let lse = plan.output("lse")?;
        // The sink joins here, once, and not in every range.
        plan.merge(&outs, &lses, plan.optional("sink").as_ref(), &out, Some(&lse))
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let n = self.kv_len.map_or(k.shape[2], |n| n.min(k.shape[2]));
        let c = n.div_ceil(self.splits);
        let parts: Vec<_> = (0..self.splits)
            .map(|r| {
                attention(q, k, v, scale(self.scale, q), &|row, j, s| {
                    let in_use = j < n && (j as f64) < inputs.number("lengths", &[row.b], n as f64);
                    (in_use && r * c <= j && j < (r + 1) * c).then_some(s)
                })
            })
            .collect();
        let (out, lse) = with_sink(merge(&parts), inputs.find("sink"));
        vec![("out", out), ("lse", lse)]
    }
}
