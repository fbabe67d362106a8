//! Cross-attention with rotary embedding of progress: source and target run over the same range of positions, so that the
//! diagonal follows how far each has come.
//!
//! ```text
//! pos_q(i) = min((first + i)/(T − 1) · S, S)     pos_k(j) = min(j/(Ls − 1) · S, S)
//! s_ij = scale (R_pos_q(i) q_i)·(R_pos_k(j) k_j)     R turns the pair (c, c + D/2) by pos · base^(−2c/D)
//! ```
//!
//! C. Arata, K. Kurihara, "T5Gemma-TTS Technical Report", 2026, arXiv 2604.01760, the section on progress-monitoring
//! rotary embedding.
//!
//! Kernels `transform` (rotary), `attend`; mask hook given.
//!
//! Limits: T = `target_len` is the true or estimated length of the whole target; a decode step has Lq = 1 and `first` its
//! index. A length below 2 puts all its positions at 0. Keys from Ls = `source_len` on are padding at position S, hidden
//! by `key_valid`. D is even. Angles are made on the host in f64: 2000 times an f32 rounding would show.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::oracle::{Array, Inputs, Outputs, attention, frequencies, rotate, scale};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{K, LSE, OUT, Q, V, attend_io, constant_output, default_scale};
use crate::variants::rotary::turned_at;
use crate::{named, params};

params! {
    /// Cross-attention with rotary embedding of progress.
    pub struct PmRopeAttention {
        /// Queries of the whole target.
        target_len: usize = 32,
        /// Keys that are not padding; default Lk.
        source_len: Option<usize> = None,
        /// Position of the end.
        progress_scale: f32 = 2000.0,
        /// Base of the frequencies.
        base: f32 = 10000.0,
        /// Index of the first query.
        first: usize = 0,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for PmRopeAttention {
    const CARD: Card = Card {
        name: "pm-rope-attention",
        family: Family::Dense,
        summary: "Cross-attention with rotary embedding of progress in source and target.",
        equation: "s_ij = scale (R_p q_i)·(R_p' k_j), p = min(i/(T − 1), 1) S, p' = min(j/(Ls − 1), 1) S",
        paper: "Arata, Kurihara, T5Gemma-TTS Technical Report, 2026, arXiv 2604.01760",
        inputs: &[Q, K, V, InputSpec::flag("key_valid", "B Lk").optional()],
        outputs: &[OUT, LSE, OutputSpec::float("pos_q", "Lq"), OutputSpec::float("pos_k", "Lk")],
        forms: &["cross", "prefill", "decode"],
        kernels: &["transform", "transform", "attend", "diagnose", "diagnose"],
    };
}

impl Variant for PmRopeAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [lq, lk, width] = [problem.size("Lq"), problem.size("Lk"), problem.size("D")];
        if !width.is_multiple_of(2) || self.base <= 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "base", "a base above 0 and an even D", self.base));
        }
        let source = self.source_len.unwrap_or(lk);
        if source > lk {
            return Err(problem.refuse(ErrorKind::Parameter, "source_len", format!("at most Lk = {lk}"), source));
        }
        let end = f64::from(self.progress_scale);
        let progress =
            |at: usize, length: usize| if length < 2 { 0.0 } else { (at as f64 / (length - 1) as f64).min(1.0) * end };
        let pos_q: Vec<f64> = (0..lq).map(|i| progress(self.first + i, self.target_len)).collect();
        let pos_k: Vec<f64> = (0..lk).map(|j| progress(j, source)).collect();
        let mut io = attend_io(plan)?;
        io.q = turned_at(plan, "q_turned", &io.q, self.base, &pos_q)?;
        io.k = turned_at(plan, "k_turned", &io.k, self.base, &pos_k)?;
        io.lse = Some(plan.output("lse")?);
        let valid = plan.optional("key_valid").map(|valid| hooks::given(valid.insert(1).insert(1)));
        plan.attend("attend", Attend::new(default_scale(self.scale, problem)), io, valid.into_iter().collect())?;
        constant_output(plan, "pos_q", HostTensor::from_fn(&[lq], |i| pos_q[i] as f32))?;
        constant_output(plan, "pos_k", HostTensor::from_fn(&[lk], |j| pos_k[j] as f32))
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (lq, lk, d) = (q.shape[2], k.shape[2], q.shape[3]);
        let (s, t, ls) = (f64::from(self.progress_scale), self.target_len, self.source_len.unwrap_or(lk));
        let pos_q: Vec<f64> = (0..lq)
            .map(|i| if t < 2 { 0.0 } else { ((self.first + i) as f64 / (t as f64 - 1.0) * s).min(s) })
            .collect();
        let pos_k: Vec<f64> =
            (0..lk).map(|j| if ls < 2 { 0.0 } else { (j as f64 / (ls as f64 - 1.0) * s).min(s) }).collect();
        let theta = frequencies(f64::from(self.base), d);
        let turned = |x: &Array, pos: &[f64]| x.map_rows(|at, row| rotate(row, &theta, pos[at[2]], |c| (c, c + d / 2)));
        let (q_turned, k_turned) = (turned(q, &pos_q), turned(k, &pos_k));
        let (out, lse) = attention(&q_turned, &k_turned, v, scale(self.scale, q), &|row, j, s| {
            inputs.flag("key_valid", &[row.b, j]).then_some(s)
        });
        let list = |data: Vec<f64>| Array { shape: vec![data.len()], data };
        vec![("out", out), ("lse", lse), ("pos_q", list(pos_q)), ("pos_k", list(pos_k))]
    }
}
