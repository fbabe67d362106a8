//! The launches of `scan/matrix` and `scan/delta`, which go through the chunks that [`Chunks`](super::Chunks) made.

use super::chunks::{CHUNK, matrices, padded};
use super::launch::{Sizes, common, has_z};
use super::{Divide, Pass, Scan, TABLES};
use crate::caps::{Caps, Tier};
use crate::kernel::key::Launch;
use crate::kernel::{Io, LaunchBuilder, element};
use crate::tensor::DType;

/// Subgroups of a workgroup, at most.
const SUBGROUPS: usize = 8;
/// Matrices of value columns of a workgroup, at most: more of them share the records, fewer give more workgroups.
const COLUMN_TILES: usize = 2;

/// A launch by matrices, where the device has them and the stage the records.
pub(super) fn launch(op: &Scan, io: &Io, caps: &Caps, s: Sizes) -> Option<Launch> {
    let (side, lanes) = matrices(caps)?;
    let vectors = ["v", "chunks"].iter().all(|role| io.find(role).is_some_and(|meta| element(meta).vector));
    if !(vectors && io.get("v").dtype == DType::F16) {
        return None;
    }
    let (depth, tiles) = (padded(s.depth), CHUNK / side);
    let column_tiles = s.width.div_ceil(side).min(COLUMN_TILES);
    let columns = column_tiles * side;
    // Products of queries, for the delta rule of keys too; without it in halves of the depth.
    let jobs = 2 * tiles * column_tiles;
    let most = caps.max_invocations as usize / lanes;
    let subgroups = [SUBGROUPS, 4, 2, 1].into_iter().find(|&n| n <= most.min(depth / side).min(jobs))?;
    let workgroup = subgroups * lanes;
    let (z, sums) = (has_z(op, io), matches!(op.pass, Pass::Sums(_)));
    let divides = op.divide != Divide::None;
    let slots = if op.delta { 1 } else { jobs / subgroups };
    let (norm, divisors) = (if z { depth } else { 1 }, if divides { workgroup } else { 1 });
    let tall = depth + CHUNK * if op.delta { 2 } else { 1 };
    let bytes =
        2 * tall * (columns + 8) + 4 * (subgroups * slots * side * (side + 4) + norm + divisors + 2 * SUBGROUPS);
    // An invocation has a share of one row's divisor.
    if bytes > caps.max_workgroup_memory as usize || !workgroup.is_multiple_of(CHUNK) || depth / 4 * CHUNK < workgroup {
        return None;
    }
    let (segments, width_tiles) = (op.pass.segments(s.tokens), s.width.div_ceil(columns));
    let entry = if op.delta { "scan/delta" } else { "scan/matrix" };
    let builder = LaunchBuilder::new(op, entry, workgroup as u32, io, caps, &TABLES)
        .tier(Tier::T2)
        .constant("SUBGROUPS", subgroups as u32)
        .constant("DEPTH_TILES", (depth / side) as u32)
        .constant("COLUMN_TILES", column_tiles as u32)
        .constant("COLUMNS", (columns / 4) as u32)
        .constant("SLOTS", slots as u32)
        .constant("NORM", norm as u32)
        .constant("DIVISORS", divisors as u32)
        // Numbers, so that the records of each are tested for themselves.
        .constant("DECAY", op.decay as u32)
        .constant("DELTA", u32::from(op.delta))
        .switch("SUMS", sums)
        .import(if side == 16 { "attend/matrix_16" } else { "attend/matrix_8" })
        .import("scan/common")
        .import("scan/chunk_state");
    let builder = if op.delta { builder } else { builder.import("scan/matrix_parts") };
    let builder = builder.u32("records", s.tokens.div_ceil(CHUNK)).strides("chunks", 4).strides("marks", 4);
    Some(common(builder, op, io, s, width_tiles, z).groups(s.batch * s.heads * segments * width_tiles))
}
