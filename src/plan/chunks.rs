//! The stages of a scan in chunks by matrices.

use super::PlanBuilder;
use super::verbs::{Bindings, ScanIo};
use crate::error::Result;
use crate::kernel::{Op, scan};
use crate::tensor::DType;

/// Storage bindings of the widest stage.
const BINDINGS: usize = 12;

impl PlanBuilder<'_> {
    /// Whether the device is known to have matrices, and the scan is one that they serve: causal, read after the write, f16 values, keys
    /// and queries of f16 or made of such, erase only by the delta rule.
    pub(super) fn chunked(&self, op: &scan::Scan, io: &ScanIo) -> bool {
        let Some((bindings, bytes)) = self.matrices() else { return false };
        let &[batch, heads, queries, _] = &io.out.shape[..] else { return false };
        let (tokens, depth) = (io.k.shape[2], io.k.shape[3]);
        let plain = !op.read_before && !op.bidirectional && io.a.is_none() && io.b.is_none() && io.u.is_none();
        let undivided = op.divide == scan::Divide::None && io.z.is_none();
        let record = chunks(op).record(depth);
        op.half
            && plain
            && queries == tokens
            && scan::fits(tokens, depth)
            && (undivided || !op.delta)
            && bindings >= BINDINGS
            && 2 * record * batch * heads * tokens.div_ceil(scan::CHUNK) <= bytes as usize
    }

    /// What each chunk is, all chunks at once, then the chunks in order: of all tokens, or of several segments at once.
    pub(super) fn scan_chunks(&mut self, label: &str, op: scan::Scan, mut io: ScanIo) -> Result<()> {
        let [batch, heads, tokens] = [0, 1, 2].map(|axis| io.out.shape[axis]);
        let (made, depth) = (chunks(&op), io.k.shape[3]);
        let mut scratch = |name: &str, dtype, inner: usize| {
            let shape = [batch, heads, tokens.div_ceil(scan::CHUNK), inner];
            self.scratch(&format!("{label}_{name}"), dtype, &shape)
        };
        let records = scratch("chunks", DType::F16, made.record(depth));
        let marks = scratch("marks", DType::F32, scan::Chunks::marks(depth));
        let mut list: Bindings = vec![("q", io.q.clone()), ("k", io.k.clone())];
        list.extend(io.g.clone().map(|g| ("g", g)));
        list.extend([("chunks", records.clone()), ("marks", marks.clone())]);
        let tables = ScanIo { u: None, z_in: None, ..io.clone() }.bindings().1;
        self.stage(&format!("{label} chunks"), Op::Chunks(made), list, tables, Vec::new())?;
        io.records = Some([records, marks]);
        // A head has several workgroups here, and one fills a processor.
        match op.segment([batch, heads, tokens, depth, io.out.shape[3]], self.workgroups() * 3 / 32) {
            Some(each) => self.scan_segments(label, op, io, each),
            None => {
                let (list, tables) = io.bindings();
                self.stage(label, Op::Scan(op), list, tables, Vec::new())
            }
        }
    }
}

fn chunks(op: &scan::Scan) -> scan::Chunks {
    scan::Chunks { decay: op.decay, delta: op.delta, scale: op.scale }
}
