//! Attention as a recurrence: one learned query a head over every prefix, in constant memory a token.
//!
//! ```text
//! s_t = scale q_token·k_t
//! m_t = max(m_(t−1), s_t)     u_t = e^(m_(t−1) − m_t) u_(t−1) + e^(s_t − m_t)     w_t = e^(m_(t−1) − m_t) w_(t−1) + e^(s_t − m_t) v_t
//! out_t = w_t / u_t     lse_t = m_t + ln u_t
//! ```
//!
//! L. Feng, F. Tung, H. Hajimirsadeghi, M. O. Ahmed, Y. Bengio, G. Mori, "Attention as an RNN", 2024, arXiv 2405.13956,
//! section 3.
//!
//! Kernels: the recurrence is the merge of softmax parts, so a prefix is the chunks before it and the part of its own chunk:
//! `diagnose` for the scores, `attend` over each chunk, `attend` over the chunks before each, `attend` inside the chunks,
//! `combine` with the state (w / u, m + ln u). Chunks of about (2 L)^(1/3) tokens: O(L^(4/3) Dv) work in few stages.
//!
//! Limits: causal. m, u and w go together; a state with u = 0 is the empty one. k and v have as many heads as each other.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::{Fold, Of};
use crate::oracle::{Array, Inputs, Outputs, dot, scale, shared_head};
use crate::plan::{AttendIo, PlanBuilder, Ref};
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::default_scale;
use crate::variants::steps::scratch;
use crate::{named, params};

params! {
    /// Softmax attention of one query a head over every prefix.
    pub struct Aaren {
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for Aaren {
    const CARD: Card = Card {
        name: "aaren",
        family: Family::Linear,
        summary: "Softmax attention of one learned query a head over every prefix.",
        equation: "out_t = Σ_(j ≤ t) e^(s_j − lse_t) v_j, s_j = scale q_token·k_j",
        paper: "Feng et al., Attention as an RNN, 2024, arXiv 2405.13956",
        inputs: &[
            InputSpec::float("q_token", "H D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::float("m", "B H").optional(),
            InputSpec::float("u", "B H").optional(),
            InputSpec::float("w", "B H Dv").optional(),
        ],
        outputs: &[OutputSpec::float("out", "B H L Dv"), OutputSpec::float("lse", "B H L")],
        forms: &["prefill", "chunked", "step"],
        kernels: &["diagnose", "attend", "attend", "attend", "combine"],
    };
}

/// Tokens a chunk: near (2 L)^(1/3), where the work inside and between the chunks is least.
fn chunk(length: usize) -> usize {
    (2.0 * length as f64).cbrt().ceil().max(1.0) as usize
}

impl Variant for Aaren {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (k, v) = (plan.input("k")?, plan.input("v")?);
        let [batch, heads, length, width] = problem.shape("B H L Dv")?[..] else { unreachable!("four words") };
        if k.shape[1] != v.shape[1] {
            return Err(problem.refuse(ErrorKind::Shape, "v", format!("{} heads like `k`", k.shape[1]), v.shape[1]));
        }
        let state = [plan.optional("m"), plan.optional("u"), plan.optional("w")];
        if let Some(lacking) = ["m", "u", "w"].iter().zip(&state).find(|(_, r)| r.is_none()).map(|(name, _)| *name)
            && state.iter().any(Option::is_some)
        {
            return Err(problem.refuse(ErrorKind::MissingInput, lacking, "m, u and w together", "nothing"));
        }
        let size = chunk(length);
        let chunks = length.div_ceil(size);
        let bounds = |plan: &mut PlanBuilder, name, list: Vec<usize>| -> Result<Ref> {
            let list: Vec<i32> = list.into_iter().map(|n| n as i32).collect();
            Ok(plan.constant(name, HostTensor::new(&[1, 1, list.len(), 1], list)?))
        };

        let scores = scratch(plan, "scores", &[batch, heads, 1, length]);
        let query = plan.input("q_token")?.insert(0).insert(2).broadcast(&[batch, heads, 1, problem.size("D")]);
        let op = Fold::each().of(Of::Dot).scaled(default_scale(self.scale, problem));
        plan.fold_pairs("scores", op, [&query, &k, &scores], None, Vec::new())?;

        // Queries and keys are not looked at: the scores are a table.
        let (zero, op) = (plan.constant("zero", HostTensor::zeros(&[1])), Attend::new(1.0));
        let rows = |count: usize| zero.broadcast(&[batch, heads, count, 1]);
        let keys = |v: &Ref| zero.broadcast(&[batch, v.shape[1], v.shape[2], 1]);
        let part = |plan: &mut PlanBuilder,
                    name: &'static str,
                    [out, lse]: [&Ref; 2],
                    v: &Ref,
                    s: &Ref,
                    start: Vec<usize>,
                    end: Vec<usize>| {
            let mut io = AttendIo::new(&rows(start.len()), &keys(v), v, out).lse(lse);
            io.row_start = Some(bounds(plan, "row_start", start)?);
            io.row_end = Some(bounds(plan, "row_end", end)?);
            plan.attend(name, op, io, vec![hooks::take(s, 1.0)])
        };
        let total = scratch(plan, "total", &[batch, heads, chunks, width]);
        let total_lse = scratch(plan, "total_lse", &[batch, heads, chunks]);
        let (first, end) = ((0..chunks).map(|c| c * size), (0..chunks).map(|c| ((c + 1) * size).min(length)));
        part(plan, "chunks", [&total, &total_lse], &v, &scores, first.collect(), end.collect())?;
        let before = scratch(plan, "before", &[batch, heads, chunks, width]);
        let before_lse = scratch(plan, "before_lse", &[batch, heads, chunks]);
        let (first, end) = (vec![0; chunks], (0..chunks).collect());
        part(plan, "prefixes", [&before, &before_lse], &total, &total_lse.insert(2), first, end)?;

        let count = if state[0].is_some() { 3 } else { 2 };
        let outs = plan.scratch("outs", DType::F32, &[count, batch, heads, length, width]);
        let lses = plan.scratch("lses", DType::F32, &[count, batch, heads, length]);
        let place = |n: usize| (outs.select(0, n), lses.select(0, n).insert(3));
        let (out, lse) = (outs.select(0, 0), lses.select(0, 0));
        let (first, end) = ((0..length).map(|t| t / size * size), (0..length).map(|t| t + 1));
        part(plan, "inside", [&out, &lse], &v, &scores, first.collect(), end.collect())?;
        let (out, lse) = place(1);
        let spread = Fold { share: size, ..Fold::each() };
        plan.fold("spread", spread, &before, &out, Vec::new())?;
        plan.fold("spread_lse", spread, &before_lse.insert(3), &lse, Vec::new())?;
        if let [Some(m), Some(u), Some(w)] = state {
            let (out, lse) = place(2);
            let (m, u) = (m.insert(2).insert(3), u.insert(2).insert(3));
            plan.fold("state", Fold::each(), &w.insert(2).broadcast(&out.shape), &out, vec![hooks::over(&u)])?;
            plan.fold("state_lse", Fold::each(), &m.broadcast(&lse.shape), &lse, vec![hooks::log_factor(u)])?;
        }
        let (out, lse) = (plan.output("out")?, plan.output("lse")?);
        plan.merge(&outs, &lses, None, &out, Some(&lse))
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let (query, k, v) = (inputs.get("q_token"), inputs.get("k"), inputs.get("v"));
        let ([heads, _], [batch, _, length, width]) =
            (query.shape[..].try_into().expect("rank 2"), v.shape[..].try_into().expect("rank 4"));
        let mut out = Array::zeros(&[batch, heads, length, width]);
        let mut lse = Array::zeros(&[batch, heads, length]);
        for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            let mut m = inputs.number("m", &[b, h], f64::NEG_INFINITY);
            let mut u = inputs.number("u", &[b, h], 0.0);
            let mut w: Vec<f64> = (0..width).map(|d| inputs.number("w", &[b, h, d], 0.0)).collect();
            for t in 0..length {
                let s = scale(self.scale, query) * dot(query.row(&[h]), k.row(&[b, shared_head(h, heads, k), t]));
                let top = m.max(s);
                let (old, new) = ((m - top).exp(), (s - top).exp());
                (m, u) = (top, u * old + new);
                let value = v.row(&[b, shared_head(h, heads, v), t]);
                w.iter_mut().zip(value).for_each(|(w, v)| *w = *w * old + v * new);
                out.row_mut(&[b, h, t]).iter_mut().zip(&w).for_each(|(o, w)| *o = w / u);
                lse.set(&[b, h, t], m + u.ln());
            }
        }
        vec![("out", out), ("lse", lse)]
    }
}
