//! The stages of a scan in chunks by matrices.

use super::verbs::{Bindings, ScanIo, Tables};
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
        let least = (4 * scan::Chunks::record(op.delta, depth) * batch * heads) as u64;
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

    /// What each chunk is, all chunks at once, then the chunks in order; in stretches of the tokens where the records of all are more than
    /// they may be.
    pub(super) fn scan_chunks(&mut self, label: &str, op: scan::Scan, mut io: ScanIo) -> Result<()> {
        let (tokens, channel) = (io.out.shape[2], op.decay == scan::Decay::Channel);
        let mut turns = None;
        let (q, k);
        (q, io.q) = self.made(&io.q, channel, &mut turns)?;
        (k, io.k) = self.made(&io.k, channel, &mut turns)?;
        let turns = turns.map(|turns: Turns| turns.made);
        let made = scan::Chunks { decay: op.decay, delta: op.delta, scale: op.scale, q, k };
        let each = self.stretch(&op, &io);
        if each >= tokens {
            return self.scan_stretch(label, op, made, io, turns);
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
            self.scan_stretch(label, op, made, part, turns.as_ref().map(|r| of(r, 2)))?;
        }
        Ok(())
    }

    /// Tokens whose records are made at once.
    fn stretch(&self, op: &scan::Scan, io: &ScanIo) -> usize {
        let (heads, tokens) = (io.out.shape[0] * io.out.shape[1], io.out.shape[2]);
        let pair = (4 * scan::Chunks::record(op.delta, io.k.shape[3]) * heads) as u64;
        let most = (self.matrices().unwrap_or(0).min(MOST) / pair.max(1)).max(1) as usize * 2 * scan::CHUNK;
        tokens.div_ceil(tokens.div_ceil(most)).next_multiple_of(2 * scan::CHUNK)
    }

    /// The stages of one stretch: of all its tokens in order, or of several segments at once.
    fn scan_stretch(
        &mut self,
        label: &str,
        op: scan::Scan,
        made: scan::Chunks,
        mut io: ScanIo,
        turns: Option<Ref>,
    ) -> Result<()> {
        let [batch, heads, tokens, width] = [0, 1, 2, 3].map(|axis| io.out.shape[axis]);
        let depth = io.k.shape[3];
        let mut scratch = |name: &str, dtype, inner: usize| {
            let shape = [batch, heads, tokens.div_ceil(scan::CHUNK), inner];
            self.scratch(&format!("{label}_{name}"), dtype, &shape)
        };
        let records = scratch("chunks", DType::F16, scan::Chunks::record(op.delta, depth));
        let marks = scratch("marks", DType::F32, scan::Chunks::marks(depth));
        let mut list: Bindings = vec![("q", io.q.clone()), ("k", io.k.clone())];
        list.extend(turns.map(|turns| ("turns", turns)));
        list.extend(io.g.clone().map(|g| ("g", g)));
        list.extend([("chunks", records.clone()), ("marks", marks.clone())]);
        let tables = ScanIo { u: None, z_in: None, ..io.clone() }.bindings().1;
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
    fn made(&mut self, rows: &Ref, channel: bool, turns: &mut Option<Turns>) -> Result<(scan::Rows, Ref)> {
        let given = (scan::Rows::Given, rows.clone());
        let Some(stage) = self.maker(rows).filter(|stage| stage.hooks.is_empty()) else { return Ok(given) };
        let bound = |role: &str| stage.bindings.iter().find(|(name, _)| *name == role).map(|(_, r)| r.clone());
        let Some(x) = bound("x").filter(|x| x.shape == rows.shape) else { return Ok(given) };
        let found = match stage.op {
            Op::Map(op) if op.feature.elementwise() => scan::Rows::Map(op.feature),
            // With a decay a channel no invocation sees the sum of a row.
            Op::Norm(op) if bound("gate").is_none() && !channel => scan::Rows::Norm(op),
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
