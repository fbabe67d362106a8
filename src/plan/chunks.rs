//! The stages of a scan in chunks by matrices.

use super::verbs::{Bindings, ScanIo, Tables, optional};
use super::{PlanBuilder, Ref, SlotRole};
use crate::error::Result;
use crate::kernel::key::ScalarType;
use crate::kernel::{Op, scan, transform};
use crate::tensor::{DType, HostTensor};

/// Parts of the workgroups that fill a large device: a workgroup of matrices fills a processor, and a head has several.
const LARGER: usize = 10;
/// Bytes of the records that are made at once, at most.
const MOST: u64 = 1 << 30;

impl PlanBuilder<'_> {
    /// Whether the device is known to have matrices, and the scan is one that they serve: causal, read after the write, f16 values, keys
    /// and queries of f16 or made of such, erase only by the delta rule.
    pub(super) fn chunked(&self, op: &scan::Scan, io: &ScanIo) -> bool {
        let Some(bytes) = self.matrices() else { return false };
        let &[batch, heads, queries, width] = &io.out.shape[..] else { return false };
        let (tokens, depth) = (io.k.shape[2], io.k.shape[3]);
        let half = |r: &Ref| r.dtype == DType::F16 || self.plan_role(r) == &SlotRole::Transient;
        let plain = !op.read_before && !op.bidirectional && io.a.is_none() && io.b.is_none() && io.u.is_none();
        let undivided = op.divide == scan::Divide::None && io.z.is_none();
        let unit = [false, true].map(|at_once| unit(op, at_once, depth, width).1);
        let least = (unit[0].max(unit[1]) * batch * heads) as u64;
        io.v.dtype == DType::F16
            && [&io.q, &io.k].into_iter().all(half)
            && plain
            && queries == tokens
            && width.is_multiple_of(4)
            && depth.is_multiple_of(4)
            && scan::fits(tokens, depth)
            && (undivided || !op.delta)
            && least <= bytes
    }

    /// By matrices. Without erase and with one decay a token at most, a segment's tokens may see each other as pairs, all segments at once. Else what
    /// each chunk is, all chunks at once, then the chunks in order. In stretches of the tokens where the scratch of all is more than it may be.
    pub(super) fn scan_chunks(&mut self, label: &str, op: scan::Scan, mut io: ScanIo) -> Result<()> {
        let tokens = io.out.shape[2];
        let mut turns = None;
        // No invocation sees the sum of a row with a decay a channel, or where segments are staged.
        let norms = op.decay != scan::Decay::Channel && !pairs(&op);
        let (q, k);
        (q, io.q) = self.made(&io.q, norms, &mut turns)?;
        (k, io.k) = self.made(&io.k, norms, &mut turns)?;
        // Rows that are turned are turned once for a record, and more often where segments are staged: read 1.19 ms against 1.40.
        let at_once = pairs(&op) && turns.is_none();
        let made = Made { q, k, turns: turns.map(|turns: Turns| turns.made), at_once };
        let each = self.stretch(&op, &io, at_once);
        if each >= tokens {
            return self.scan_stretch(label, op, made, io);
        }
        let counts = op.divide != scan::Divide::None || io.z.is_some();
        let (mut state, mut z) = (io.state_in.take(), io.z_in.take());
        for start in (0..tokens).step_by(each) {
            let length = each.min(tokens - start);
            let of =
                |r: &Ref, axis: usize| if r.shape[axis] == tokens { r.narrow(axis, start, length) } else { r.clone() };
            let mut part = io.clone();
            for r in [&mut part.q, &mut part.k, &mut part.v, &mut part.out] {
                *r = of(r, 2);
            }
            for r in [&mut part.g, &mut part.decay, &mut part.w].into_iter().flatten() {
                *r = of(r, 2);
            }
            part.keep = part.keep.map(|r| of(&r, 1));
            (part.state_in, part.z_in) = (state.take(), z.take());
            if start + length < tokens {
                part.state = self.scratch(&format!("{label}_state"), DType::F32, &io.state.shape);
                let shape = [io.state.shape[0], io.state.shape[1], io.state.shape[2]];
                part.z = counts.then(|| self.scratch(&format!("{label}_z"), DType::F32, &shape));
                (state, z) = (Some(part.state.clone()), part.z.clone());
            }
            let made = Made { turns: made.turns.as_ref().map(|r| of(r, 2)), ..made };
            self.scan_stretch(label, op, made, part)?;
        }
        Ok(())
    }

    /// Tokens whose records, or states of segments, are made at once.
    fn stretch(&self, op: &scan::Scan, io: &ScanIo, at_once: bool) -> usize {
        let (heads, tokens) = (io.out.shape[0] * io.out.shape[1], io.out.shape[2]);
        let (unit, bytes) = unit(op, at_once, io.k.shape[3], io.out.shape[3]);
        let most = self.units(bytes * heads) * unit;
        tokens.div_ceil(tokens.div_ceil(most)).next_multiple_of(unit)
    }

    /// Units of so many bytes that scratch may have.
    fn units(&self, bytes: usize) -> usize {
        (self.matrices().unwrap_or(0).min(MOST) / bytes.max(1) as u64).max(1) as usize
    }

    fn scan_stretch(&mut self, label: &str, op: scan::Scan, made: Made, io: ScanIo) -> Result<()> {
        if made.at_once { self.scan_at_once(label, op, made, io) } else { self.scan_in_order(label, op, made, io) }
    }

    /// What spans of segments add, the states at their starts, then what all segments read.
    fn scan_at_once(&mut self, label: &str, op: scan::Scan, made: Made, io: ScanIo) -> Result<()> {
        let [batch, heads, tokens, width] = [0, 1, 2, 3].map(|axis| io.out.shape[axis]);
        let depth = io.k.shape[3];
        let bytes = unit(&op, true, depth, width).1;
        let most = self.units(bytes * batch * heads);
        let whole = |span: usize| tokens.div_ceil(scan::SEGMENT).next_multiple_of(span);
        let wanted = scan::span([batch * heads, tokens, width], self.is_software());
        let span = (1..=wanted).rev().find(|&span| whole(span) <= most).unwrap_or(1);
        let count = whole(span);
        let mut scratch = |name: &str, inner: &[usize]| {
            let shape = [&[batch, heads * count], inner].concat();
            self.scratch(&format!("{label}_{name}"), DType::F32, &shape)
        };
        let states = scratch("states", &scan::padded_state(depth, width));
        let z = (io.z.is_some() || op.divide != scan::Divide::None).then(|| scratch("z_states", &[depth]));
        let total = (op.decay == scan::Decay::Scalar).then(|| scratch("total", &[1]));
        let tables = ScanIo { u: None, z_in: None, ..io.clone() }.bindings().1;

        let mut list: Bindings = vec![("k", io.k.clone()), ("v", io.v.clone()), ("state", states.clone())];
        optional(&mut list, "z", z.clone());
        optional(&mut list, "total", total.clone());
        let sums = Op::Sums(scan::Sums { decay: op.decay, k: made.k, span });
        self.stage(&format!("{label} sums"), sums, list, tables.clone(), Vec::new())?;

        // From span to span: the places of their first segments.
        let firsts = |r: &Ref| r.split(1, heads * count / span).select(2, 0);
        let inner = firsts(&states.narrow(2, 0, depth).narrow(3, 0, width));
        let mut list: Bindings = vec![("state", inner), ("end", io.state)];
        optional(&mut list, "z", z.as_ref().map(firsts));
        optional(&mut list, "z_end", io.z);
        optional(&mut list, "total", total.as_ref().map(firsts));
        optional(&mut list, "state_in", io.state_in);
        let before = io.z_in.map(|r| ("z_in", r.insert(2), ScalarType::F32)).filter(|_| z.is_some());
        let carry = Op::Carry(scan::Carry { segments: count / span });
        self.stage(&format!("{label} carry"), carry, list, before.into_iter().collect(), Vec::new())?;

        let mut list: Bindings = vec![("q", io.q), ("k", io.k), ("v", io.v), ("state_in", states), ("out", io.out)];
        optional(&mut list, "total", total);
        let mut tables = tables;
        tables.extend(z.filter(|_| op.divide != scan::Divide::None).map(|z| ("z_in", z.insert(2), ScalarType::F32)));
        let reads = scan::Reads { decay: op.decay, scale: op.scale, divide: op.divide, q: made.q, k: made.k, span };
        self.stage(label, Op::Reads(reads), list, tables, Vec::new())
    }

    /// Records, then all tokens in order, or of several segments at once.
    fn scan_in_order(&mut self, label: &str, op: scan::Scan, made: Made, mut io: ScanIo) -> Result<()> {
        let [batch, heads, tokens, width] = [0, 1, 2, 3].map(|axis| io.out.shape[axis]);
        let depth = io.k.shape[3];
        let mut scratch = |name: &str, dtype, inner: usize| {
            let shape = [batch, heads, tokens.div_ceil(scan::CHUNK), inner];
            self.scratch(&format!("{label}_{name}"), dtype, &shape)
        };
        let records = scratch("chunks", DType::F16, scan::Chunks::record(op.delta, depth));
        let marks = scratch("marks", DType::F32, scan::Chunks::marks(depth));
        let mut list: Bindings = vec![("q", io.q.clone()), ("k", io.k.clone())];
        list.extend(made.turns.map(|turns| ("turns", turns)));
        list.extend(io.g.clone().map(|g| ("g", g)));
        list.extend([("chunks", records.clone()), ("marks", marks.clone())]);
        let tables = ScanIo { u: None, z_in: None, ..io.clone() }.bindings().1;
        let made = scan::Chunks { decay: op.decay, delta: op.delta, scale: op.scale, q: made.q, k: made.k };
        self.stage(&format!("{label} chunks"), Op::Chunks(made), list, tables, Vec::new())?;

        let own: Bindings = vec![("v", io.v.clone()), ("chunks", records), ("marks", marks)];
        let keep: Vec<_> = io.keep.clone().map(keep_table).into_iter().collect();
        let part = |pass, divide| Op::Chunked(scan::Chunked { depth, decay: op.decay, delta: op.delta, divide, pass });
        let mut pass = scan::Pass::Whole;
        if let Some(each) = op.segment([batch, heads, tokens, depth, width], self.workgroups() / LARGER) {
            let sums = part(scan::Pass::Sums(each), scan::Divide::None);
            let given = (own.clone(), keep.clone());
            let (state, z) = self.segment_states(label, &op, &mut io, each, |_| (sums, given.0, given.1))?;
            (io.state_in, io.z_in, pass) = (Some(state), z, scan::Pass::Reads(each));
        }
        let (mut list, mut tables) = (own, keep);
        list.extend([("out", io.out), ("state", io.state)]);
        list.extend(io.state_in.map(|r| ("state_in", r)));
        list.extend(io.z.map(|r| ("z", r)));
        tables.extend(io.z_in.map(|r| ("z_in", r.insert(2), ScalarType::F32)));
        self.stage(label, part(pass, op.divide), list, tables, Vec::new())
    }

    /// What the stage that made a tensor does to its rows, where the records can do it, and what it is made of. What `turns` holds is shared by
    /// both tensors.
    fn made(&mut self, rows: &Ref, norms: bool, turns: &mut Option<Turns>) -> Result<(scan::Rows, Ref)> {
        let given = (scan::Rows::Given, rows.clone());
        let Some(stage) = self.maker(rows).filter(|stage| stage.hooks.is_empty()) else { return Ok(given) };
        let bound = |role: &str| stage.bindings.iter().find(|(name, _)| *name == role).map(|(_, r)| r.clone());
        let Some(x) = bound("x").filter(|x| x.shape == rows.shape) else { return Ok(given) };
        let found = match stage.op {
            Op::Map(op) if op.feature.elementwise() => scan::Rows::Map(op.feature),
            Op::Norm(op) if bound("gate").is_none() && norms => scan::Rows::Norm(op),
            Op::Rotary(op) if op.interleaved => {
                let (tables, like) = (stage.tables.clone(), transform::Rotary { scale: 1.0, ..op });
                // Tables of rows alone, the same for all heads.
                let shared = tables.iter().all(|(name, r, _)| *name != "channel" && r.shape[..2] == [1, 1]);
                if !shared || turns.as_ref().is_some_and(|t| t.op != like || t.tables != tables) {
                    return Ok(given);
                }
                if turns.is_none() {
                    *turns = Some(self.turns(like, tables, [x.shape[2], x.shape[3]])?);
                }
                scan::Rows::Turned(op.scale)
            }
            _ => return Ok(given),
        };
        self.fused();
        Ok((found, x))
    }

    /// Cosines and sines of all positions: what becomes of (1, 0) pairs.
    fn turns(&mut self, op: transform::Rotary, tables: Tables, [tokens, depth]: [usize; 2]) -> Result<Turns> {
        let first =
            self.constant("first", HostTensor::from_fn(&[1, 1, 1, depth], |n| if n % 2 == 0 { 1.0 } else { 0.0 }));
        let made = self.scratch("turns", DType::F32, &[1, 1, tokens, depth]);
        let list = vec![("x", first.broadcast(&[1, 1, tokens, depth])), ("out", made.clone())];
        self.stage("turns", Op::Rotary(op), list, tables.clone(), Vec::new())?;
        Ok(Turns { op, tables, made })
    }
}

/// What becomes of rows of q and k on their way into the scan.
#[derive(Clone)]
struct Made {
    q: scan::Rows,
    k: scan::Rows,
    turns: Option<Ref>,
    /// All segments at once.
    at_once: bool,
}

/// Whether a segment's tokens may see each other as pairs: decays of a pair are one number, and nothing is erased.
fn pairs(op: &scan::Scan) -> bool {
    !op.delta && op.decay != scan::Decay::Channel
}

/// Tokens of which scratch is made together, and its bytes a head: two records, or a state.
fn unit(op: &scan::Scan, at_once: bool, depth: usize, width: usize) -> (usize, usize) {
    if at_once {
        return (scan::SEGMENT, 4 * scan::padded_state(depth, width).iter().product::<usize>());
    }
    (2 * scan::CHUNK, 4 * scan::Chunks::record(op.delta, depth))
}

/// Cosines and sines (1, 1, L, D) in turn, and what they were made of.
struct Turns {
    op: transform::Rotary,
    tables: Tables,
    made: Ref,
}

/// The table of a mask of keys (B, L).
pub(super) fn keep_table(mask: Ref) -> (&'static str, Ref, ScalarType) {
    ("keep", mask.insert(1).insert(3), ScalarType::Bool)
}
