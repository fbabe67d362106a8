//! The stages of a scan by kernels of every device.

use super::verbs::{Bindings, PORTABLE_BINDINGS, ScanIo, Tables, optional};
use super::{PlanBuilder, Ref};
use crate::error::Result;
use crate::kernel::key::ScalarType;
use crate::kernel::{Op, scan, transform};
use crate::tensor::{DType, HostTensor};

impl PlanBuilder<'_> {
    /// The linear recurrence; in segments where few heads do not fill a device.
    ///
    /// # Errors
    /// As [`PlanBuilder::stage`].
    pub fn scan(&mut self, label: &str, op: scan::Scan, io: ScanIo) -> Result<()> {
        if self.chunked(&op, &io) {
            return self.scan_chunks(label, op, io);
        }
        match io.segment(&op, self.workgroups()) {
            Some(segment) => self.scan_segments(label, op, io, segment),
            None => self.scan_whole(label, op, io),
        }
    }

    /// One stage, and what has to come out of it to fit the bindings of every device: z, the state before, both erase vectors.
    fn scan_whole(&mut self, label: &str, op: scan::Scan, mut io: ScanIo) -> Result<()> {
        if io.count() > PORTABLE_BINDINGS
            && let Some(z) = io.z.take()
        {
            // z is the state of values of 1.
            let tokens = io.k.shape[2];
            let ones = self.constant("ones", HostTensor::from_fn(&[1, 1, tokens, 1], |_| 1.0));
            let mut list: Bindings = vec![("k", io.k.clone()), ("state", z.insert(3))];
            list.push(("v", ones.broadcast(&[io.k.shape[0], 1, tokens, 1])));
            optional(&mut list, "g", io.g.clone());
            let mut tables = ScanIo { u: None, z_in: None, ..io.clone() }.bindings().1;
            tables.extend(io.z_in.clone().map(|r| ("s_in", r.insert(3), ScalarType::F32)));
            let sum = scan::Scan {
                pass: scan::Pass::Sums(tokens),
                read_before: false,
                delta: false,
                divide: scan::Divide::None,
                ..op
            };
            self.stage(&format!("{label} z"), Op::Scan(sum), list, tables, Vec::new())?;
            if op.divide == scan::Divide::None {
                io.z_in = None;
            }
        }
        let (state, count) = (io.state_in.clone(), io.count());
        let (mut list, mut tables) = io.bindings();
        if count > PORTABLE_BINDINGS && list.iter().any(|(role, _)| *role == "a") {
            let pick = |role: &str| list.iter().find(|(name, _)| *name == role).map(|(_, r)| r.clone());
            if let (Some(a), Some(b)) = (pick("a"), pick("b")) {
                let ab = self.scratch(&format!("{label}_ab"), DType::F32, &[&[2], &a.shape[..]].concat());
                for (n, x) in [a, b].iter().enumerate() {
                    let map = transform::Map { feature: transform::Feature::Identity };
                    self.map(&format!("{label} pack"), map, x, &ab.select(0, n))?;
                }
                list.retain(|(role, _)| !matches!(*role, "a" | "b"));
                list.push(("ab", ab));
            }
        }
        if list.len() + usize::from(!tables.is_empty()) > PORTABLE_BINDINGS
            && let Some(state) = state
        {
            list.retain(|(role, _)| *role != "state_in");
            tables.push(("s_in", state, ScalarType::F32));
        }
        self.stage(label, Op::Scan(op), list, tables, Vec::new())
    }

    /// What each segment adds, the states at their starts, then all segments at once.
    fn scan_segments(&mut self, label: &str, op: scan::Scan, mut io: ScanIo, each: usize) -> Result<()> {
        let (sums, z) = self.segment_states(label, &op, &mut io, each, |io| segment_sums(&op, io, each))?;
        (io.state_in, io.z_in) = (Some(sums), z);
        let (list, tables) = io.bindings();
        self.stage(label, Op::Scan(scan::Scan { pass: scan::Pass::Reads(each), ..op }), list, tables, Vec::new())
    }

    /// The states (B, H S, D, Dv) and normalisers (B, H S, D) at the starts of S segments of `each` tokens; `sums` is the stage of what each
    /// adds, but for what it writes. Takes the states before.
    pub(super) fn segment_states(
        &mut self,
        label: &str,
        op: &scan::Scan,
        io: &mut ScanIo,
        each: usize,
        sums: impl FnOnce(&ScanIo) -> (Op, Bindings, Tables),
    ) -> Result<(Ref, Option<Ref>)> {
        let [batch, heads, tokens, width] = [0, 1, 2, 3].map(|axis| io.out.shape[axis]);
        let (depth, count) = (io.k.shape[3], tokens.div_ceil(each));
        let mut scratch = |name: &str, inner: &[usize]| {
            let shape = [&[batch, heads * count], inner].concat();
            self.scratch(&format!("{label}_{name}"), DType::F32, &shape)
        };
        let state = scratch("sums", &[depth, width]);
        let z = (io.z.is_some() || op.divide != scan::Divide::None).then(|| scratch("z_sums", &[depth]));
        let total = match op.decay {
            scan::Decay::None => None,
            scan::Decay::Scalar => Some(scratch("total", &[1])),
            scan::Decay::Channel => Some(scratch("total", &[depth])),
        };

        let (op, mut list, tables) = sums(io);
        list.push(("state", state.clone()));
        optional(&mut list, "z", z.clone());
        optional(&mut list, "total", total.clone());
        self.stage(&format!("{label} sums"), op, list, tables, Vec::new())?;

        let mut list: Bindings = vec![("state", state.clone())];
        optional(&mut list, "z", z.clone());
        optional(&mut list, "total", total);
        optional(&mut list, "state_in", io.state_in.take());
        let tables = io.z_in.take().map(|r| ("z_in", r.insert(2), ScalarType::F32)).filter(|_| z.is_some());
        let carry = Op::Carry(scan::Carry { segments: count });
        self.stage(&format!("{label} carry"), carry, list, tables.into_iter().collect(), Vec::new())?;
        Ok((state, z))
    }
}

/// The stage of what each segment adds to the state, but for what it writes.
pub(super) fn segment_sums(op: &scan::Scan, io: &ScanIo, each: usize) -> (Op, Bindings, Tables) {
    let mut list: Bindings = vec![("k", io.k.clone()), ("v", io.v.clone())];
    optional(&mut list, "g", io.g.clone());
    let tables = ScanIo { u: None, z_in: None, ..io.clone() }.bindings().1;
    let pass = scan::Pass::Sums(each);
    (Op::Scan(scan::Scan { pass, read_before: false, divide: scan::Divide::None, ..*op }), list, tables)
}
