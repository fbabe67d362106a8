//! Typed verbs: one a kernel, so that a plan names what it binds.

use super::{PlanBuilder, Ref};
use crate::error::Result;
use crate::hook::Hook;
use crate::kernel::key::ScalarType;
use crate::kernel::{Op, attend, combine, diagnose, polynomial, pool, scan, select, transform};
use crate::tensor::DType;

/// What `attend` is bound to. `out`, `lse` and `mass` have a leading axis of splits, or none when there is one split.
#[derive(Clone, Debug)]
pub struct AttendIo {
    /// (B, H, Lq, D)
    pub q: Ref,
    /// (B, Hk, Lk, D)
    pub k: Ref,
    /// (B, Hk, Lk, Dv)
    pub v: Ref,
    /// (S, B, H, Lq, Dv) or (B, H, Lq, Dv)
    pub out: Ref,
    /// (S, B, H, Lq) or (B, H, Lq)
    pub lse: Option<Ref>,
    /// (S, B, H, Lq) or (B, H, Lq)
    pub mass: Option<Ref>,
    /// CSR rows (B, heads, nq + 1).
    pub indptr: Option<Ref>,
    /// Lists or a block mask.
    pub indices: Option<Ref>,
    /// First key of each row, broadcast to (B, H, Lq, 1).
    pub row_start: Option<Ref>,
    /// One past the last key of each row, broadcast to (B, H, Lq, 1).
    pub row_end: Option<Ref>,
    /// Keys in use, (B).
    pub lengths: Option<Ref>,
    /// Sink logits (H) or (H, S).
    pub sink: Option<Ref>,
}

impl AttendIo {
    /// The required bindings; the rest is set by field.
    pub fn new(q: &Ref, k: &Ref, v: &Ref, out: &Ref) -> Self {
        AttendIo {
            q: q.clone(),
            k: k.clone(),
            v: v.clone(),
            out: out.clone(),
            lse: None,
            mass: None,
            indptr: None,
            indices: None,
            row_start: None,
            row_end: None,
            lengths: None,
            sink: None,
        }
    }

    /// With a log-sum-exp.
    #[must_use]
    pub fn lse(mut self, lse: &Ref) -> Self {
        self.lse = Some(lse.clone());
        self
    }
}

/// What `scan` is bound to; see [`scan::Scan`] for shapes.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct ScanIo {
    pub q: Ref,
    pub k: Ref,
    pub v: Ref,
    pub out: Ref,
    pub state: Ref,
    pub z: Option<Ref>,
    pub state_in: Option<Ref>,
    /// Channel decay (B, H, L, D).
    pub g: Option<Ref>,
    pub a: Option<Ref>,
    pub b: Option<Ref>,
    /// Scalar decay, broadcast to (B, H, L, 1).
    pub decay: Option<Ref>,
    /// (B, L)
    pub keep: Option<Ref>,
    /// (B, H, L, 1)
    pub w: Option<Ref>,
    /// (1, H, 1, D)
    pub u: Option<Ref>,
    /// (B, H, D)
    pub z_in: Option<Ref>,
}

impl ScanIo {
    /// The required bindings; the rest is set by field.
    pub fn new(q: &Ref, k: &Ref, v: &Ref, out: &Ref, state: &Ref) -> Self {
        ScanIo {
            q: q.clone(),
            k: k.clone(),
            v: v.clone(),
            out: out.clone(),
            state: state.clone(),
            z: None,
            state_in: None,
            g: None,
            a: None,
            b: None,
            decay: None,
            keep: None,
            w: None,
            u: None,
            z_in: None,
        }
    }

    pub(super) fn bindings(self) -> (Bindings, Vec<(&'static str, Ref, ScalarType)>) {
        let io = self;
        let mut list: Bindings = vec![("q", io.q), ("k", io.k), ("v", io.v), ("out", io.out), ("state", io.state)];
        optional(&mut list, "z", io.z);
        optional(&mut list, "state_in", io.state_in);
        optional(&mut list, "g", io.g);
        optional(&mut list, "a", io.a);
        optional(&mut list, "b", io.b);
        let mut tables = Vec::new();
        tables.extend(io.decay.map(|r| ("g_scalar", r, ScalarType::F32)));
        tables.extend(io.keep.map(super::chunks::keep_table));
        tables.extend(io.w.map(|r| ("w", r, ScalarType::F32)));
        tables.extend(io.u.map(|r| ("u", r, ScalarType::F32)));
        tables.extend(io.z_in.map(|r| ("z_in", r.insert(2), ScalarType::F32)));
        (list, tables)
    }

    /// Storage bindings of the scan in one stage.
    pub(super) fn count(&self) -> usize {
        let (list, tables) = self.clone().bindings();
        list.len() + usize::from(!tables.is_empty())
    }

    /// Tokens of a segment, where the scan is better cut and its bindings leave room for the states between.
    pub(super) fn segment(&self, op: &scan::Scan, workgroups: usize) -> Option<usize> {
        let ([batch, heads, queries, width], [_, _, tokens, depth]) =
            (self.out.shape[..].try_into().ok()?, self.k.shape[..].try_into().ok()?);
        let (list, tables) = ScanIo { state_in: None, z_in: None, ..self.clone() }.bindings();
        let z = op.divide != scan::Divide::None || self.z.is_some();
        let bindings = list.len() + 1 + usize::from(z || !tables.is_empty());
        let fits = self.a.is_none() && queries == tokens && bindings <= PORTABLE_BINDINGS;
        op.segment([batch, heads, tokens, depth, width], workgroups).filter(|_| fits)
    }
}

/// What `solve` is bound to; see [`scan::Solve`] for shapes.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct SolveIo {
    /// None for a gain.
    pub q: Option<Ref>,
    pub k: Ref,
    pub out: Ref,
    pub state_in: Option<Ref>,
    pub state: Option<Ref>,
    /// Log decay, broadcast to (B, H, L, 1).
    pub g: Option<Ref>,
    /// (B, H, L, 1)
    pub w: Option<Ref>,
    /// Broadcast to (B, H, Lq, D).
    pub ridge: Option<Ref>,
}

impl SolveIo {
    /// The required bindings; the rest is set by field.
    pub fn new(k: &Ref, out: &Ref) -> Self {
        let (k, out) = (k.clone(), out.clone());
        SolveIo { q: None, k, out, state_in: None, state: None, g: None, w: None, ridge: None }
    }
}

/// Storage bindings of every device.
pub(super) const PORTABLE_BINDINGS: usize = 8;

pub(super) type Bindings = Vec<(&'static str, Ref)>;

pub(super) type Tables = Vec<(&'static str, Ref, ScalarType)>;

pub(super) fn optional(list: &mut Bindings, role: &'static str, bound: Option<Ref>) {
    list.extend(bound.map(|r| (role, r)));
}

impl PlanBuilder<'_> {
    /// O and lse over a set of keys.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn attend(&mut self, label: &str, op: attend::Attend, io: AttendIo, hooks: Vec<Hook>) -> Result<()> {
        let whole = op.splits > 1 || io.mass.is_some() || io.out.shape.len() != 4 || !self.may_cut(io.q.shape[2]);
        let matrices = self.matrices().is_some() && io.q.dtype == DType::F16;
        let small = self.is_large() && !matrices;
        let (q, k, workgroups) = (&io.q.shape, &io.k.shape, self.workgroups());
        let parts = if whole { 1 } else { op.parts(q, k, io.v.shape[3], workgroups, small) };
        if parts > 1 { self.attend_parts(label, op, io, hooks, parts) } else { self.attend_whole(label, op, io, hooks) }
    }

    /// Ranges of keys at the same time, and their merge.
    fn attend_parts(
        &mut self,
        label: &str,
        op: attend::Attend,
        mut io: AttendIo,
        hooks: Vec<Hook>,
        parts: usize,
    ) -> Result<()> {
        self.note(format!(
            "{label}: {} rows over {} keys are cut in {parts} ranges of keys",
            io.q.shape[2], io.k.shape[2]
        ));
        let [batch, heads, queries, _] = io.q.shape[..] else { return self.attend_whole(label, op, io, hooks) };
        let width = io.v.shape[3];
        let outs = self.scratch(&format!("{label}_outs"), DType::F32, &[parts, batch, heads, queries, width]);
        let lses = self.scratch(&format!("{label}_lses"), DType::F32, &[parts, batch, heads, queries]);
        let (out, lse) = (std::mem::replace(&mut io.out, outs.clone()), io.lse.replace(lses.clone()));
        // Sink logits count once, not in every range.
        let sink = io.sink.take();
        self.attend_whole(label, attend::Attend { splits: parts, ..op }, io, hooks)?;
        self.merge(&outs, &lses, sink.as_ref(), &out, lse.as_ref())
    }

    fn attend_whole(&mut self, label: &str, op: attend::Attend, io: AttendIo, hooks: Vec<Hook>) -> Result<()> {
        let lead = |r: Ref, rank: usize| if r.shape.len() < rank { r.insert(0) } else { r };
        let mut list: Bindings = vec![("q", io.q), ("k", io.k), ("v", io.v), ("out", lead(io.out, 5))];
        optional(&mut list, "lse", io.lse.map(|r| lead(r, 4)));
        optional(&mut list, "mass", io.mass.map(|r| lead(r, 4)));
        optional(&mut list, "indptr", io.indptr);
        optional(&mut list, "indices", io.indices);
        let mut tables = Vec::new();
        tables.extend(io.row_start.map(|r| ("row_start", r, ScalarType::I32)));
        tables.extend(io.row_end.map(|r| ("row_end", r, ScalarType::I32)));
        tables.extend(io.lengths.map(|r| ("lengths", r.insert(1).insert(1).insert(1), ScalarType::I32)));
        tables.extend(io.sink.map(|r| ("sink", sink_table(&r), ScalarType::F32)));
        self.stage(label, Op::Attend(op), list, tables, hooks)
    }

    /// Scores of candidates.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn score(&mut self, label: &str, op: select::Score, bindings: Bindings) -> Result<()> {
        self.stage(label, Op::Score(op), bindings, Vec::new(), Vec::new())
    }

    /// Indices of the largest scores.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn top_k(
        &mut self,
        label: &str,
        op: select::TopK,
        scores: &Ref,
        list: Option<&Ref>,
        indices: &Ref,
    ) -> Result<()> {
        let mut bindings: Bindings = vec![("scores", scores.clone()), ("indices", indices.clone())];
        optional(&mut bindings, "list", list.cloned());
        self.stage(label, Op::TopK(op), bindings, Vec::new(), Vec::new())
    }

    /// Key ranges of packed rows: `(start, end)`, each (Tq).
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn segments(&mut self, op: select::Segments, cu_q: &Ref, cu_k: &Ref, rows: usize) -> Result<(Ref, Ref)> {
        let start = self.scratch("row_start", DType::I32, &[rows]);
        let end = self.scratch("row_end", DType::I32, &[rows]);
        let list = vec![("cu_q", cu_q.clone()), ("cu_k", cu_k.clone()), ("start", start.clone()), ("end", end.clone())];
        self.stage("segments", Op::Segments(op), list, Vec::new(), Vec::new())?;
        Ok((start, end))
    }

    /// A linear system of each token; in segments where few heads do not fill a device.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn solve(&mut self, label: &str, mut op: scan::Solve, mut io: SolveIo) -> Result<()> {
        let [batch, heads, queries, _] = [0, 1, 2, 3].map(|axis| io.out.shape[axis]);
        op.segment = op.segment(batch * heads, queries);
        if let Some(each) = op.segment {
            let decay = if io.g.is_some() { scan::Decay::Scalar } else { scan::Decay::None };
            let mut sums = ScanIo::new(&io.k, &io.k, &io.k, &io.out, &io.out);
            (sums.decay, sums.w, sums.state_in) = (io.g.clone(), io.w.clone(), io.state_in.take());
            let op = scan::Scan { decay, ..scan::Scan::new(1.0) };
            io.state_in = Some(
                self.segment_states(label, &op, &mut sums, each, |io| super::scan::segment_sums(&op, io, each))?.0,
            );
        }
        let mut list: Bindings = vec![("k", io.k), ("out", io.out)];
        optional(&mut list, "q", io.q);
        optional(&mut list, "state_in", io.state_in);
        optional(&mut list, "state", io.state);
        let mut tables = Vec::new();
        tables.extend(io.g.map(|r| ("g", r, ScalarType::F32)));
        tables.extend(io.w.map(|r| ("w", r, ScalarType::F32)));
        tables.extend(io.ridge.map(|r| ("ridge", r, ScalarType::F32)));
        self.stage(label, Op::Solve(op), list, tables, Vec::new())
    }

    /// A network that learns the tokens: q, k, v, then its one or two layers (3, B, H, rows, columns), changed in place, then theta, alpha and
    /// eta (B, H, L), then out and surprise. Stages of bounded work, each a stretch of the tokens.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn memory(
        &mut self,
        label: &str,
        op: scan::Memory,
        [q, k, v]: [&Ref; 3],
        layers: &[Ref],
        rates: [Ref; 3],
        [out, surprise]: [&Ref; 2],
    ) -> Result<()> {
        let roles = [("q", q), ("k", k), ("v", v), ("out", out), ("surprise", surprise)];
        let mut list: Bindings = roles.map(|(role, r)| (role, r.clone())).into();
        list.extend(["last", "hidden"].into_iter().zip(layers.iter().rev().cloned()));
        let tables = ["theta", "alpha", "eta"].into_iter().zip(rates);
        let tables: Vec<_> = tables.map(|(name, r)| (name, r.insert(3), ScalarType::F32)).collect();
        let (inner, tokens) = ((layers.len() > 1).then(|| layers[0].shape[4]), out.shape[2]);
        let each = scan::Memory::tokens(k.shape[3], inner, out.shape[3]);
        for first in (0..tokens).step_by(each) {
            let stretch = (each < tokens).then_some((first, (first + each).min(tokens)));
            let op = Op::Memory(scan::Memory { stretch, ..op });
            self.stage(label, op, list.clone(), tables.clone(), Vec::new())?;
        }
        Ok(())
    }

    /// The elementwise recurrence of u, dt, a, b and c, from a state before, with a skip (P), into out and state.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn selective(
        &mut self,
        label: &str,
        [u, dt, a, b, c]: [&Ref; 5],
        [state_in, skip]: [Option<Ref>; 2],
        [out, state]: [&Ref; 2],
    ) -> Result<()> {
        let roles = [("u", u), ("dt", dt), ("a", a), ("b", b), ("c", c), ("out", out), ("state", state)];
        let mut list: Bindings = roles.map(|(role, r)| (role, r.clone())).into();
        optional(&mut list, "state_in", state_in);
        let tables = skip.map(|r| ("skip", r.lead(4), ScalarType::F32));
        self.stage(label, Op::Selective(scan::Selective), list, tables.into_iter().collect(), Vec::new())
    }

    /// Row-wise feature map.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn map(&mut self, label: &str, op: transform::Map, x: &Ref, out: &Ref) -> Result<()> {
        self.stage(label, Op::Map(op), vec![("x", x.clone()), ("out", out.clone())], Vec::new(), Vec::new())
    }

    /// Causal depthwise convolution; bias is (H, D), state and state_in (B, H, K-1, D).
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn conv(
        &mut self,
        label: &str,
        [x, weight, out, state]: [&Ref; 4],
        [bias, state_in]: [Option<Ref>; 2],
        silu: bool,
    ) -> Result<()> {
        let roles = [("x", x), ("weight", weight), ("out", out), ("state", state)];
        let mut list: Bindings = roles.map(|(role, r)| (role, r.clone())).into();
        optional(&mut list, "state_in", state_in);
        let tables = bias.map(|r| ("bias", r.insert(1).insert(0), ScalarType::F32));
        self.stage(label, Op::Conv(transform::Conv { silu }), list, tables.into_iter().collect(), Vec::new())
    }

    /// Rotary embedding with tables `cos` and `sin`, `theta`, or `channel` and `position`; see [`transform::Rotary`].
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn rotary(
        &mut self,
        label: &str,
        op: transform::Rotary,
        x: &Ref,
        out: &Ref,
        tables: Vec<(&'static str, Ref)>,
    ) -> Result<()> {
        let kind = |name: &str| if name == "channel" { ScalarType::I32 } else { ScalarType::F32 };
        let tables = tables.into_iter().map(|(name, r)| (name, r, kind(name))).collect();
        self.stage(label, Op::Rotary(op), vec![("x", x.clone()), ("out", out.clone())], tables, Vec::new())
    }

    /// Per-row norm and gate.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn norm(&mut self, label: &str, op: transform::Norm, x: &Ref, gate: Option<&Ref>, out: &Ref) -> Result<()> {
        let mut list: Bindings = vec![("x", x.clone()), ("out", out.clone())];
        optional(&mut list, "gate", gate.cloned());
        self.stage(label, Op::Norm(op), list, Vec::new(), Vec::new())
    }

    /// A shortened sequence; `weight` is (size), or (A, B, C, size) with axes of 1 for weights that do not differ.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn pool(&mut self, label: &str, op: pool::Pool, x: &Ref, weight: Option<&Ref>, out: &Ref) -> Result<()> {
        let tables = weight.map(|r| ("tap", r.lead(4), ScalarType::F32));
        let list = vec![("x", x.clone()), ("out", out.clone())];
        self.stage(label, Op::Pool(op), list, tables.into_iter().collect(), Vec::new())
    }

    /// Merge of partial results.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn merge(&mut self, outs: &Ref, lses: &Ref, sink: Option<&Ref>, out: &Ref, lse: Option<&Ref>) -> Result<()> {
        let mut list: Bindings = vec![("outs", outs.clone()), ("lses", lses.clone()), ("out", out.clone())];
        optional(&mut list, "lse", lse.cloned());
        let tables = sink.map(|r| ("sink", sink_table(r), ScalarType::F32));
        self.stage("merge", Op::Merge(combine::Merge), list, tables.into_iter().collect(), Vec::new())
    }

    /// Numbers of x (B, H, I, J), changed by hooks, into out (B, H, I, J) or, folded, (B, H, I, 1). Tensors of lower rank get leading axes.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn fold(&mut self, label: &str, op: diagnose::Fold, x: &Ref, out: &Ref, hooks: Vec<Hook>) -> Result<()> {
        let list = vec![("x", x.lead(4)), ("out", out.lead(4))];
        self.stage(label, Op::Fold(op), list, Vec::new(), hooks)
    }

    /// The same of the pairs of q (B, H, I, D) and k (B, Hk, J, D), with the table that [`diagnose::Of`] names.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn fold_pairs(
        &mut self,
        label: &str,
        op: diagnose::Fold,
        [q, k, out]: [&Ref; 3],
        table: Option<(&'static str, Ref)>,
        hooks: Vec<Hook>,
    ) -> Result<()> {
        let list = vec![("q", q.clone()), ("k", k.clone()), ("out", out.clone())];
        let tables = table.into_iter().map(|(name, r)| (name, r, ScalarType::F32)).collect();
        self.stage(label, Op::Fold(op), list, tables, hooks)
    }

    /// Regression of v on k around q by given weights.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn polynomial(
        &mut self,
        label: &str,
        op: polynomial::Polynomial,
        [q, k, v, p]: [&Ref; 4],
        out: &Ref,
    ) -> Result<()> {
        let list = [("q", q), ("k", k), ("v", v), ("p", p), ("out", out)].map(|(role, r)| (role, r.clone()));
        self.stage(label, Op::Polynomial(op), list.to_vec(), Vec::new(), Vec::new())
    }

    /// A result times the gate of each row.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn weigh(&mut self, label: &str, x: &Ref, gates: &Ref, out: &Ref) -> Result<()> {
        let list = vec![("x0", x.clone()), ("gates", gates.clone()), ("out", out.clone())];
        self.stage(label, Op::Mix(combine::Mix), list, Vec::new(), Vec::new())
    }

    /// Weighted sum of one to three results.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn mix<const N: usize>(&mut self, parts: [&Ref; N], gates: &Ref, out: &Ref) -> Result<()> {
        const { assert!(N >= 1 && N <= 3, "one to three results") };
        let mut list: Bindings = ["x0", "x1", "x2"].into_iter().zip(parts.map(Clone::clone)).collect();
        list.extend([("gates", gates.clone()), ("out", out.clone())]);
        self.stage("mix", Op::Mix(combine::Mix), list, Vec::new(), Vec::new())
    }
}

/// (H) or (H, S) as (1, H, 1, S).
fn sink_table(sink: &Ref) -> Ref {
    let sink = if sink.shape.len() == 1 { sink.insert(1) } else { sink.clone() };
    sink.insert(1).insert(0)
}
