//! The stages of the delta rule.

use super::PlanBuilder;
use super::verbs::{Bindings, ScanIo};
use crate::error::Result;
use crate::kernel::{Op, scan};
use crate::tensor::DType;

impl PlanBuilder<'_> {
    /// The delta rule: what the tokens of each chunk do to each other, all chunks at once, then the chunks in order.
    pub(super) fn scan_delta(&mut self, label: &str, op: scan::Scan, mut io: ScanIo) -> Result<()> {
        let [batch, heads, tokens] = [0, 1, 2].map(|axis| io.out.shape[axis]);
        let shape = [batch, heads, scan::rows(tokens), scan::ROW];
        let pairs = self.scratch(&format!("{label}_pairs"), DType::F32, &shape);
        let tables = ScanIo { u: None, z_in: None, ..io.clone() }.bindings().1;
        let list: Bindings = vec![("q", io.q.clone()), ("k", io.k.clone()), ("pairs", pairs.clone())];
        let decay = op.decay != scan::Decay::None;
        let step = Op::Pairs(scan::Pairs { decay, scale: op.scale, half: op.half });
        self.stage(&format!("{label} pairs"), step, list, tables, Vec::new())?;
        io.pairs = Some(pairs);
        self.scan_whole(label, op, io)
    }
}
