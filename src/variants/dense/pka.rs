//! Attention of an image generator to many conditions: spatial ones token by token, subjects where their keyword is.
//!
//! ```text
//! layout [text | noise n | spatial conditions S × n | subject conditions]
//! text and noise see text and noise; noise token p also sees token p of each spatial condition, and subject s iff
//! region_sp; a condition sees only itself
//! merged:   one softmax over all that a row sees
//! separate: Attn(text and noise) + Σ_S v of the aligned tokens + Σ_s Attn(subject s) on the rows of its region
//! ```
//!
//! C. Zhou, T. Wei, Y. Chen, W. Zhou, N. Yu, "Rethinking Multi-Condition DiTs: Eliminating Redundant Attention via
//! Position-Alignment and Keyword-Scoping" (PKA), 2026, arXiv 2602.06850. Unit weights of the separate branches are an
//! assumption: the code is not public.
//!
//! Kernels `attend` once for what is joint or own (ranges of keys), once for the aligned tokens (a list a row: linear in
//! S), once a subject (mask hook region); `combine` merges, or `diagnose` adds.
//!
//! Limits: `region` is required where there are subjects; the lengths sum to L. Only `merged` gives an lse.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::attend::{Attend, Keys, Normaliser};
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs, attention, scale, shared_head};
use crate::plan::{AttendIo, PlanBuilder};
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use crate::variant::{Card, Family, InputSpec, Named, Variant};
use crate::variants::common::{K_SELF, LSE_SELF, OUT_SELF, Q_SELF, V_SELF, default_scale, row_limits, segments};
use crate::{named, params};

params! {
    /// Attention to aligned and keyword-scoped conditions.
    pub struct PkaAttention {
        /// Tokens of the text.
        n_text: usize = 4,
        /// Tokens of the noise, and of each spatial condition.
        n_noise: usize = 8,
        /// Spatial conditions.
        n_spatial: usize = 1,
        /// Tokens of each subject condition.
        subject_lengths: Vec<usize> = vec![5],
        /// One softmax over all; else separate branches are added.
        merged: bool = true,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for PkaAttention {
    const CARD: Card = Card {
        name: "pka-attention",
        family: Family::Dense,
        summary: "Attention to spatial conditions token by token and to subjects in the region of their keyword.",
        equation: "out_p over text, noise, token p of each spatial condition, and subjects s with region_sp",
        paper: "Zhou et al., Rethinking Multi-Condition DiTs, 2026, arXiv 2602.06850",
        inputs: &[Q_SELF, K_SELF, V_SELF, InputSpec::flag("region", "n_subjects n_noise").optional()],
        outputs: &[OUT_SELF, LSE_SELF.optional()],
        forms: &["bidirectional"],
        kernels: &["attend", "attend", "attend", "combine"],
    };
}

impl PkaAttention {
    /// Text and noise together, each spatial condition, each subject.
    fn lengths(&self) -> Vec<usize> {
        let joint = self.n_text.saturating_add(self.n_noise);
        [&[joint], &vec![self.n_noise; self.n_spatial][..], &self.subject_lengths[..]].concat()
    }
}

impl Variant for PkaAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (length, subjects) = (problem.size("L"), self.subject_lengths.len());
        if self.n_spatial > length {
            let expected = format!("at most L = {length}");
            return Err(problem.refuse(ErrorKind::Parameter, "n_spatial", expected, self.n_spatial));
        }
        let list = segments(problem, "subject_lengths", &self.lengths(), length)?;
        if self.subject_lengths.contains(&0) || self.n_noise == 0 {
            let expected = "lengths of 1 or more";
            return Err(problem.refuse(ErrorKind::Parameter, "subject_lengths", expected, 0));
        }
        if (subjects > 0) != problem.has("region") || (subjects > 0 && problem.size("n_subjects") != subjects) {
            let found = if problem.has("region") { problem.size("n_subjects").to_string() } else { "nothing".into() };
            return Err(problem.refuse(
                ErrorKind::Shape,
                "region",
                format!("one row for each of {subjects} subjects"),
                found,
            ));
        }
        let (q, k, v) = (plan.input("q")?, plan.input("k")?, plan.input("v")?);
        let parts = 1 + usize::from(self.n_spatial > 0) + subjects;
        let outs = plan.scratch("outs", DType::F32, &[&[parts], &problem.shape("B H L Dv")?[..]].concat());
        let lses = plan.scratch("lses", DType::F32, &[&[parts], &problem.shape("B H L")?[..]].concat());
        let part = |n: usize| AttendIo::new(&q, &k, &v, &outs.select(0, n)).lse(&lses.select(0, n));
        let op = Attend::new(default_scale(self.scale, problem));

        let own: Vec<usize> = list.iter().enumerate().flat_map(|(n, s)| s.clone().map(move |_| n)).collect();
        let mut io = part(0);
        (io.row_start, io.row_end) = row_limits(plan, length, |i| list[own[i]].clone())?;
        plan.attend("own", op, io, Vec::new())?;
        if self.n_spatial > 0 {
            let aligned = |n: usize| {
                let (i, s) = (n / self.n_spatial, n % self.n_spatial);
                let noise = (self.n_text..list[0].end).contains(&i);
                if noise { (list[1 + s].start + i - self.n_text) as i32 } else { -1 }
            };
            let indices = (0..length * self.n_spatial).map(aligned).collect::<Vec<_>>();
            let mut io = part(1);
            io.indices = Some(
                plan.constant("aligned", HostTensor::new(&[1, 1, length, self.n_spatial], indices)?).broadcast(&[
                    q.shape[0],
                    1,
                    length,
                    self.n_spatial,
                ]),
            );
            let op = Attend { keys: Keys::Tokens { block: 1 }, ..op };
            // Alone, each aligned token has weight 1.
            match self.merged {
                true => plan.attend("aligned", op, io, Vec::new())?,
                false => {
                    io.lse = None;
                    let op = Attend { normaliser: Normaliser::Weights, ..op };
                    plan.attend("aligned", op, io, vec![hooks::one()])?;
                }
            }
        }
        for (s, keys) in list[1 + self.n_spatial..].iter().enumerate() {
            let mut io = part(parts - subjects + s);
            (io.k, io.v) = (k.narrow(2, keys.start, keys.len()), v.narrow(2, keys.start, keys.len()));
            let region = hooks::region(&plan.input("region")?, self.n_text, s);
            plan.attend(&format!("subject {s}"), op, io, vec![region])?;
        }
        let out = plan.output("out")?;
        if self.merged {
            let lse = plan.output("lse")?;
            return plan.merge(&outs, &lses, None, &out, Some(&lse));
        }
        let sums = (1..parts).map(|n| hooks::plus(outs.select(0, n), 1.0)).collect();
        plan.fold("sum", Fold::each(), &outs.select(0, 0), &out, sums)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (text, noise, joint) = (self.n_text, self.n_noise, self.n_text + self.n_noise);
        let condition: Vec<usize> =
            self.lengths().iter().enumerate().flat_map(|(n, &length)| vec![n; length]).collect();
        let in_region =
            |s: usize, i: usize| (text..joint).contains(&i) && inputs.get("region").get(&[s, i - text]) != 0.0;
        let aligned = |i: usize, j: usize| {
            (text..joint).contains(&i)
                && (joint..joint + self.n_spatial * noise).contains(&j)
                && (j - joint) % noise == i - text
        };
        let subject = |j: usize| condition[j].checked_sub(1 + self.n_spatial);
        let own = |i: usize, j: usize| condition[i] == condition[j];
        let factor = scale(self.scale, q);
        if self.merged {
            let (out, lse) = attention(q, k, v, factor, &|row, j, s| {
                let scoped = condition[row.i] == 0 && subject(j).is_some_and(|s| in_region(s, row.i));
                (own(row.i, j) || aligned(row.i, j) || scoped).then_some(s)
            });
            return vec![("out", out), ("lse", lse)];
        }
        let (mut out, _) = attention(q, k, v, factor, &|row, j, s| own(row.i, j).then_some(s));
        let add = |out: &mut Array, more: &Array| out.data.iter_mut().zip(&more.data).for_each(|(o, x)| *o += x);
        for s in 0..self.subject_lengths.len() {
            let pairs =
                |row: crate::oracle::Row, j: usize, x: f64| (subject(j) == Some(s) && in_region(s, row.i)).then_some(x);
            add(&mut out, &attention(q, k, v, factor, &pairs).0);
        }
        let heads = q.shape[1];
        let values = out.map_rows(|at, row| {
            let mut sum = vec![0.0; row.len()];
            for j in (0..k.shape[2]).filter(|&j| aligned(at[2], j)) {
                sum.iter_mut().zip(v.row(&[at[0], shared_head(at[1], heads, v), j])).for_each(|(o, x)| *o += x);
            }
            sum
        });
        add(&mut out, &values);
        vec![("out", out)]
    }
}
