//! The launches of `combine/*`.

use super::{Merge, Mix};
use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, ScalarType};
use crate::kernel::{Io, LaunchBuilder};

const WORKGROUP: u32 = 128;
/// Parts that one thread of a merge takes before others share them, and the most that share.
const MERGE_PARTS: usize = 8;
const MERGE_SHARE: usize = 32;
/// The parts of a mix, in the order of their gates.
pub(super) const PARTS: [&str; 3] = ["x0", "x1", "x2"];

pub(super) fn merge(op: &Merge, io: &Io, caps: &Caps) -> Result<Launch> {
    let [parts, batch, heads, rows, width] = io.get("outs").layout.shape[..] else { return Err(rank("outs", 5)) };
    let vectors = width.div_ceil(4);
    let total = batch * heads * rows * vectors;
    let share = parts.div_ceil(MERGE_PARTS).next_power_of_two().min(MERGE_SHARE);
    Ok(LaunchBuilder::new(op, "combine/merge", WORKGROUP, io, caps, &[("sink", ScalarType::F32)])
        .u32("total", total)
        .u32("vectors", vectors)
        .u32("parts", parts)
        .u32("share", share)
        .u32("heads", heads)
        .u32("rows", rows)
        .u32("width", width)
        .u32("sinks", sinks(io))
        .f32("neg_inf", f32::NEG_INFINITY)
        .strides("outs", 5)
        .strides("lses", 4)
        .strides("out", 4)
        .strides("lse", 3)
        .groups(total.div_ceil(WORKGROUP as usize / share)))
}

pub(super) fn mix(op: &Mix, io: &Io, caps: &Caps) -> Result<Launch> {
    let [batch, heads, rows, width] = io.get("out").layout.shape[..] else { return Err(rank("out", 4)) };
    let gates = &io.get("gates").layout.shape;
    if gates.last() != Some(&parts(io)) {
        let expected = format!("{} gates a row", parts(io));
        return Err(Error::expected(ErrorKind::Shape, "combine.mix", "gates", expected, format!("{gates:?}")));
    }
    let vectors = width.div_ceil(4);
    let total = batch * heads * rows * vectors;
    Ok(LaunchBuilder::new(op, "combine/mix", WORKGROUP, io, caps, &[])
        .constant("PARTS", parts(io) as u32)
        .u32("total", total)
        .u32("vectors", vectors)
        .u32("heads", heads)
        .u32("rows", rows)
        .u32("width", width)
        .strides("x0", 4)
        .strides("x1", 4)
        .strides("x2", 4)
        .strides("gates", 4)
        .strides("out", 4)
        .groups(total.div_ceil(WORKGROUP as usize)))
}

/// Parts of a mix that are bound.
pub(super) fn parts(io: &Io) -> usize {
    PARTS.iter().take_while(|part| io.find(part).is_some()).count()
}

/// Sink logits a head.
pub(super) fn sinks(io: &Io) -> usize {
    io.tables.iter().find(|t| t.name == "sink").map_or(0, |t| t.meta.layout.shape[3])
}

fn rank(role: &str, n: usize) -> Error {
    Error::expected(ErrorKind::Shape, "combine", role, format!("rank {n}"), "another rank")
}
