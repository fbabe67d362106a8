//! The stages of a scan in chunks by matrices.

use super::verbs::{Bindings, ScanIo};
use super::{PlanBuilder, Ref, SlotRole};
use crate::error::Result;
use crate::kernel::key::ScalarType;
use crate::kernel::{Op, scan};
use crate::tensor::DType;

/// Parts of the workgroups that fill a large device: a workgroup of matrices fills a processor, and a head has several.
const LARGER: usize = 10;

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
        let record = scan::Chunks::record(op.delta, depth);
        io.v.dtype == DType::F16
            && [&io.q, &io.k].into_iter().all(half)
            && plain
            && queries == tokens
            && width.is_multiple_of(4)
            && depth.is_multiple_of(4)
            && scan::fits(tokens, depth)
            && (undivided || !op.delta)
            && (2 * record * batch * heads * tokens.div_ceil(scan::CHUNK)) as u64 <= bytes
    }

    /// What each chunk is, all chunks at once, then the chunks in order: of all tokens, or of several segments at once.
    pub(super) fn scan_chunks(&mut self, label: &str, op: scan::Scan, mut io: ScanIo) -> Result<()> {
        let [batch, heads, tokens, width] = [0, 1, 2, 3].map(|axis| io.out.shape[axis]);
        let depth = io.k.shape[3];
        let mut scratch = |name: &str, dtype, inner: usize| {
            let shape = [batch, heads, tokens.div_ceil(scan::CHUNK), inner];
            self.scratch(&format!("{label}_{name}"), dtype, &shape)
        };
        let records = scratch("chunks", DType::F16, scan::Chunks::record(op.delta, depth));
        let marks = scratch("marks", DType::F32, scan::Chunks::marks(depth));
        let made = scan::Chunks { decay: op.decay, delta: op.delta, scale: op.scale };
        let mut list: Bindings = vec![("q", io.q.clone()), ("k", io.k.clone())];
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
}

/// The table of a mask of keys (B, L).
pub(super) fn keep_table(mask: Ref) -> (&'static str, Ref, ScalarType) {
    ("keep", mask.insert(1).insert(3), ScalarType::Bool)
}
