//! The launches of `scan/matrix` and `scan/matrix_sums`: which problems cooperative matrices serve, and their tiles.

use super::launch::{Sizes, common};
use super::{Decay, Pass, Scan, TABLES};
use crate::caps::{Caps, Tier};
use crate::kernel::key::Launch;
use crate::kernel::{Io, LaunchBuilder, element};
use crate::tensor::DType;

/// Tokens of a chunk.
const CHUNK: usize = 32;
/// Subgroups of a workgroup on 16 x 16 matrices, at most.
const SUBGROUPS: usize = 8;
/// The state of a deeper key does not fit the registers.
const DEEPEST: usize = 128;

/// A launch by matrices, where the device has them and the problem fills them: f16 values, and keys and queries of f16 or made of such.
///
/// z is kept whether it is wanted or not: without it an NVIDIA driver (580.159) gives wrong sums (benches/NOTES.md).
pub(super) fn launch(op: &Scan, io: &Io, caps: &Caps, s: Sizes) -> Option<Launch> {
    let side = caps.matrix? as usize;
    let lanes = caps.subgroups.filter(|(least, most)| least == most)?.0 as usize;
    let vectors = ["q", "k", "v"].iter().filter_map(|role| io.find(role)).all(|meta| element(meta).vector);
    let half = io.get("v").dtype == DType::F16
        && (op.half || ["q", "k"].iter().filter_map(|r| io.find(r)).all(|m| m.dtype == DType::F16));
    let plain = op.decay != Decay::Channel && !op.read_before && !op.bidirectional;
    if !(vectors && half && plain && s.depth <= DEEPEST && s.tokens >= CHUNK && lanes.is_multiple_of(side)) {
        return None;
    }
    // A subgroup owns all rows of the state and as many columns as it has lanes for.
    let column_tiles = (lanes / (2 * side)).max(1);
    let wanted = s.width.div_ceil(side * column_tiles).next_power_of_two();
    let most = (caps.max_invocations.min(256) as usize / lanes).min(if side == 16 { SUBGROUPS } else { 4 * SUBGROUPS });
    let subgroups = wanted.min(most);
    let columns = subgroups * column_tiles * side;
    let depth_tiles = s.depth.div_ceil(2 * side) * 2;
    let tiles = s.width.div_ceil(columns);
    let segments = op.pass.segments(s.tokens);
    let sums = matches!(op.pass, Pass::Sums(_));
    let bytes = |patches: usize| match sums {
        true => sums_memory(side, depth_tiles, subgroups, columns),
        false => memory(side, depth_tiles, subgroups, columns, patches),
    };
    // Two matrices a subgroup on their way through workgroup memory wait for each other half as often.
    let z_bytes = 4 * depth_tiles * side;
    let patches = [2, 1].into_iter().find(|&n| bytes(n) + z_bytes <= caps.max_workgroup_memory as usize)?;
    let entry = if sums { "scan/matrix_sums" } else { "scan/matrix" };
    let builder = LaunchBuilder::new(op, entry, (subgroups * lanes) as u32, io, caps, &TABLES)
        .tier(Tier::T2)
        .constant("SUBGROUPS", subgroups as u32)
        .constant("DEPTH_TILES", depth_tiles as u32)
        .constant("COLUMN_TILES", column_tiles as u32)
        .constant("COLUMNS", (columns / 4) as u32)
        .constant("PATCHES", patches as u32)
        .constant("NORM", (depth_tiles * side) as u32)
        .switch("SUMS", sums)
        .import(if side == 16 { "attend/matrix_16" } else { "attend/matrix_8" })
        .import("lib/less_one")
        .import("scan/common")
        .import("scan/matrix_stage");
    let builder = if sums { builder } else { builder.import("scan/matrix_pairs") };
    Some(common(builder, op, io, s, tiles, true).groups(s.batch * s.heads * segments * tiles))
}

/// Bytes of workgroup memory of `scan/matrix`, without z.
fn memory(side: usize, depth_tiles: usize, subgroups: usize, columns: usize, patches: usize) -> usize {
    let staged = CHUNK * (2 * (depth_tiles * side + 8) + columns + 8 + CHUNK + 8) * 2;
    let sums = (2 * CHUNK * (CHUNK + 4)).max(patches * subgroups * side * (side + 4)) * 4;
    staged + sums + patches * subgroups * side * (side + 8) * 2 + 4 * (8 * CHUNK + 2 * CHUNK + subgroups * 64)
}

/// Bytes of workgroup memory of `scan/matrix_sums`, without z.
fn sums_memory(side: usize, depth_tiles: usize, subgroups: usize, columns: usize) -> usize {
    CHUNK * (depth_tiles * side + 8 + columns + 8) * 2 + subgroups * side * (side + 4) * 4 + 4 * 2 * CHUNK
}
