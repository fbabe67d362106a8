//! Softmax attention over the first few and the most recent keys: constant memory for endless generation.
//!
//! ```text
//! p = i + Lk − Lq     allowed: j ≤ p and (j < sink or j ≥ first)
//! first = p − recent + 1     with chunk c: first = ⌊p / c⌋ c − recent
//! out_i = Σ_j e^(s_ij − lse_i) v_j     lse_i = ln Σ_j e^(s_ij)     s_ij = scale q_i·k_j
//! position = cache: s_ij = scale (R(slot p) q_i)·(R(slot j) k_j), slot n the n-th key that row i sees
//! ```
//!
//! G. Xiao, Y. Tian, B. Chen, S. Han, M. Lewis, "Efficient Streaming Language Models with Attention Sinks", ICLR 2024,
//! arXiv 2309.17453, section 3.2.
//!
//! Kernel `attend` over a prefix and a window, softmax weights; mask hook streaming, and for `position = cache` the
//! rotary embedding by slot on load.
//!
//! Limits: always causal. `chunk` gives what a ring cache yields that takes a prompt chunk by chunk and keeps sink +
//! recent keys between chunks: with chunk 1 a row sees recent + 1 recent keys. R turns channel c with channel c + D/2
//! by slot · rope_base^(−2c/D). A row without keys has out = 0 and lse = −∞.

use crate::error::{ErrorKind, Result};
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, Row, attention, bottom_right, dot, frequencies, rotate, scale};
use crate::plan::{AttendIo, PlanBuilder};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, Named, Variant};
use crate::variants::Position;
use crate::variants::common::{K, LSE, OUT, Q, V, attend_io, default_scale, parts};
use crate::variants::rotary::turned_at;
use crate::{named, params};

params! {
    /// Softmax attention over attention sinks and a window.
    pub struct StreamingAttention {
        /// First keys that every query sees.
        sink: usize = 4,
        /// Last keys, the query's own included; with `chunk` those kept from before the chunk.
        recent: usize = 1024,
        /// Tokens that a ring cache takes at once; absent: the window slides by one.
        chunk: Option<usize> = None,
        /// Whether q and k come as they are to be used or are rotated here by cache slot.
        position: Position = Position::Text,
        /// Base of the rotary angles of `position = cache`.
        rope_base: f32 = 10000.0,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for StreamingAttention {
    const CARD: Card = Card {
        name: "streaming-attention",
        family: Family::Sparse,
        summary: "Softmax attention over the first few and the most recent keys.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over j < sink and p − recent < j ≤ p = i + Lk − Lq",
        paper: "Xiao et al., Efficient Streaming Language Models with Attention Sinks, ICLR 2024, arXiv 2309.17453",
        inputs: &[Q, K, V],
        outputs: &[OUT, LSE],
        forms: &["prefill", "decode"],
        kernels: &["attend"],
    };
}

impl Variant for StreamingAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [lq, lk] = [problem.size("Lq"), problem.size("Lk")];
        if self.chunk == Some(0) {
            return Err(problem.refuse(ErrorKind::Parameter, "chunk", "1 or more tokens", 0));
        }
        // First key of the window of each row, where it is not a window of fixed length that ends at the row.
        let first: Vec<i64> = (0..lq as i64)
            .map(|i| {
                let p = i + lk as i64 - lq as i64;
                let recent = self.recent as i64;
                self.chunk.map_or(p - recent + 1, |c| p.div_euclid(c as i64) * c as i64 - recent)
            })
            .collect();
        let scale = default_scale(self.scale, problem);
        let mut op = Attend { prefix: self.sink, ..Attend::new(scale).causal(true) };
        let mut io = attend_io(plan)?;
        io.lse = Some(plan.output("lse")?);
        match self.recent.checked_sub(1).filter(|_| self.chunk.is_none()) {
            Some(left) => op.window_left = Some(left),
            None => {
                let starts: Vec<i32> = first.iter().map(|&j| j.clamp(0, lk as i64) as i32).collect();
                io.row_start = Some(plan.constant("row_start", HostTensor::new(&[1, 1, lq, 1], starts)?));
            }
        }
        match self.position {
            Position::Text => plan.attend("attend", op, io, Vec::new()),
            Position::Cache => self.plan_by_slot(problem, plan, op, io, &first),
        }
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (d, scale) = (q.shape[3], scale(self.scale, q));
        let (sink, recent) = (self.sink as i64, self.recent as i64);
        let theta = frequencies(f64::from(self.rope_base), d);
        let turned = |x: &[f64], slot: i64| rotate(x, &theta, slot as f64, |c| (c, c + d / 2));
        let (out, lse) = attention(q, k, v, scale, &|Row { b, h, i }, j, s| {
            let (p, j) = (bottom_right(i, q, k), j as i64);
            let first = match self.chunk {
                None => p - recent + 1,
                Some(c) => p.div_euclid(c as i64) * c as i64 - recent,
            };
            // The keys between the sinks and the window have left the cache: later ones move up.
            let dropped = (first - sink).max(0);
            let slot = |j: i64| if j < sink { j } else { j - dropped };
            let s = match self.position {
                Position::Text => s,
                Position::Cache => {
                    let hk = h / (q.shape[1] / k.shape[1]);
                    scale * dot(&turned(q.row(&[b, h, i]), slot(p)), &turned(k.row(&[b, hk, j as usize]), slot(j)))
                }
            };
            (j <= p && (j < sink || j >= first)).then_some(s)
        });
        vec![("out", out), ("lse", lse)]
    }
}

impl StreamingAttention {
    /// Rotary by cache slot in two parts. In the window, slots differ as positions do, so text positions serve; the sinks see the query
    /// at its slot, which is its position less the tokens dropped between sinks and window.
    fn plan_by_slot(
        &self,
        problem: &Problem,
        plan: &mut PlanBuilder,
        op: Attend,
        io: AttendIo,
        first: &[i64],
    ) -> Result<()> {
        let [lq, lk] = [problem.size("Lq"), problem.size("Lk")];
        if self.rope_base <= 0.0 || !problem.size("D").is_multiple_of(2) {
            let expected = "a base above 0 and an even D";
            return Err(problem.refuse(ErrorKind::Parameter, "rope_base", expected, self.rope_base));
        }
        let text: Vec<i64> = (0..lq).map(|i| i as i64 + lk as i64 - lq as i64).collect();
        let slot: Vec<i64> = text.iter().zip(first).map(|(p, f)| p - (f - self.sink as i64).max(0)).collect();
        let real = |list: &[i64]| list.iter().map(|&p| p as f64).collect::<Vec<_>>();
        let k = turned_at(plan, "k_turned", &io.k, self.rope_base, &real(&(0..lk as i64).collect::<Vec<_>>()))?;
        let q_text = turned_at(plan, "q_text", &io.q, self.rope_base, &real(&text))?;
        let q_slot = turned_at(plan, "q_slot", &io.q, self.rope_base, &real(&slot))?;
        let (outs, lses) = parts(plan, 2)?;
        let (out, lse) = (io.out.clone(), plan.output("lse")?);

        // Only the sinks: keys below `sink` that the window does not hold already belong to the first part, all others to the second.
        let ends: Vec<i32> = vec![self.sink.min(lk) as i32; lq];
        let mut sinks = AttendIo::new(&q_slot, &k, &io.v, &outs.select(0, 0)).lse(&lses.select(0, 0));
        sinks.row_end = Some(plan.constant("sink_end", HostTensor::new(&[1, 1, lq, 1], ends)?));
        plan.attend("sinks", Attend { prefix: 0, window_left: None, ..op }, sinks, Vec::new())?;

        let starts: Vec<i32> =
            first.iter().map(|&f| f.clamp(0, lk as i64).max(self.sink as i64).min(lk as i64) as i32).collect();
        let mut window = AttendIo::new(&q_text, &k, &io.v, &outs.select(0, 1)).lse(&lses.select(0, 1));
        window.row_start = Some(plan.constant("window_start", HostTensor::new(&[1, 1, lq, 1], starts)?));
        plan.attend("window", Attend { prefix: 0, window_left: None, ..op }, window, Vec::new())?;
        plan.merge(&outs, &lses, None, &out, Some(&lse))
    }
}
