//! Which of `attend/decode`, `attend/decode_matrix`, `attend/matrix` and `attend/tile`, with which tile, by facts of the device and the
//! problem: the best first, then what else computes the same, for who wants to measure. `benches/NOTES.md` has the measurements that the
//! tables stand on.

use super::{Attend, Keys, Normaliser};
use crate::caps::{Caps, DeviceClass, Tier};
use crate::kernel::key::Point;
use crate::kernel::{Io, element};
use crate::tensor::DType;

/// A kernel and its tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) tier: Tier,
    pub(super) entry: &'static str,
    /// Query rows of a workgroup.
    pub(super) rows: usize,
    /// Rows of K and V are read 16 bytes a thread.
    pub(super) wide: bool,
    pub(super) workgroup: u32,
    pub(super) consts: Vec<(&'static str, u32)>,
    pub(super) imports: Vec<&'static str>,
    /// Why it is where it is in the list.
    pub(super) why: &'static str,
}

/// An entry and why it does not serve.
pub(super) type Refusal = (&'static str, &'static str);

/// What computes this, the best first, and what does not; never empty.
pub(super) fn choices(op: &Attend, io: &Io, caps: &Caps, rows: usize) -> (Vec<Choice>, Vec<Refusal>) {
    let (mut list, mut refusals) = (Vec::new(), Vec::new());
    match decode(io, rows) {
        Ok(more) => list.extend(more),
        Err(why) => refusals.push(("attend/decode", why)),
    }
    match decode_matrix(op, io, caps, rows) {
        // A software adapter has no use for matrices and compiles them for minutes.
        Ok(choice) if caps.class == DeviceClass::Software => list.push(choice),
        Ok(choice) => list.insert(0, choice),
        Err(why) => refusals.push(("attend/decode_matrix", why)),
    }
    match matrix(op, io, caps, rows) {
        Ok(more) => list.extend(more),
        Err(why) => refusals.push(("attend/matrix", why)),
    }
    let width = io.get("v").layout.shape[3];
    let small = if caps.class == DeviceClass::Software {
        Some("a software adapter takes seconds to compile more")
    } else if !io.hooks.is_empty() {
        Some("hooks run for every score of a tile, and larger tiles take seconds to compile with them")
    } else {
        None
    };
    let both = [(false, "8 x 8 scores a thread read least"), (true, small.unwrap_or("half the registers"))];
    let floats = ["k", "v"].iter().all(|role| io.get(role).dtype == DType::F32);
    let tiles = both.map(|(small, why)| tile(op, [width, rows], floats, small, why));
    let [large, little] = tiles;
    let two = large.consts != little.consts || large.workgroup != little.workgroup;
    if small.is_some() {
        list.push(little);
        list.extend(two.then_some(large));
    } else {
        list.push(large);
        list.extend(two.then_some(little));
    }
    (list, refusals)
}

/// The portable tile: runs everywhere, takes everything. `floats`: K and V are f32; `small`: half the rows, and a text that compiles fast.
fn tile(op: &Attend, [width, rows]: [usize; 2], floats: bool, small: bool, why: &'static str) -> Choice {
    let each = if small || rows <= 32 || width > 256 { 4 } else { 8 };
    // Sums of `each` rows x 8 values a thread, or as near as registers and the width allow.
    let workgroup: usize = if width <= if each == 4 { 128 } else { 96 } { 64 } else { 128 };
    let columns = workgroup / 8;
    let vecs = width.div_ceil(4).div_ceil(columns);
    // 16 columns of 8 keys are 128: a list of blocks of 64 would be no run of keys any more.
    let run = op.keys == Keys::Range && op.prefix == 0;
    let keys_each = if columns == 8 || (each == 8 && run && vecs <= 2) { 8 } else { 4 };
    let weights = 16 * (2 * each + 2);
    let room = (14 << 10) / 16 - weights;
    let keys = [16, 8, 4, 2].into_iter().find(|keys| keys * vecs * columns <= room).unwrap_or(1);
    // Loads run ahead where registers allow. All parts of the values are in the text at 64 keys; of 128 they are more machine code than
    // a GPU keeps.
    let ahead = each == 8 && vecs * keys_each <= 16;
    let unroll: usize = if small {
        2
    } else if each == 8 {
        16
    } else {
        4
    };
    Choice {
        tier: Tier::T0,
        entry: "attend/tile",
        wide: false,
        rows: 8 * each,
        workgroup: workgroup as u32,
        consts: vec![
            ("ROWS_EACH", each as u32),
            ("KEYS_EACH", keys_each as u32),
            ("VALUE_VECS", vecs as u32),
            ("VALUE_KEYS", keys as u32),
            ("UNROLL", unroll as u32),
            ("VALUE_UNROLL", unroll.min(keys) as u32),
            ("SPREAD", if ahead && columns == 8 { 4 } else { 1 }),
            ("EARLY", u32::from(ahead)),
            // A second text for tiles without masks; with halves it was slower.
            ("APART", u32::from(floats && !small && each == 8)),
        ],
        imports: vec!["attend/tile_keys", "attend/tile_stage", "attend/tile_scores"],
        why,
    }
}

/// Rows that a decode step may have, and how wide.
pub(super) const DECODE_ROWS: usize = 16;
const DECODE_WIDEST: usize = 256;

/// By the rows packed, the loads of 16 bytes in flight: as many as registers allow beside Q and the sums of the rows.
const DECODE_LOADS: [(usize, u32); 3] = [(1, 8), (4, 4), (8, 2)];

/// A few rows over many keys: bound by the bytes of K and V.
fn decode(io: &Io, rows: usize) -> Result<Vec<Choice>, &'static str> {
    let depth = io.get("q").layout.shape[3];
    let width = io.get("v").layout.shape[3];
    if rows > DECODE_ROWS {
        return Err("more than 16 rows share a read of K and V");
    }
    if depth.max(width) > DECODE_WIDEST {
        return Err("D or Dv is over 256");
    }
    let lanes = depth.max(width).div_ceil(8).next_power_of_two().max(4);
    let packed = rows.next_power_of_two().min(8);
    let wide = is_wide(io);
    let best = DECODE_LOADS.iter().find(|(most, _)| packed <= *most).map_or(2, |(_, loads)| *loads);
    let mut loads = vec![best];
    loads.extend([8, 4, 2].into_iter().filter(|n| *n != best));
    let choice = |loads| Choice {
        tier: Tier::T0,
        entry: "attend/decode",
        wide,
        rows: packed,
        workgroup: 128,
        consts: vec![("ROWS", packed as u32), ("LANES", lanes as u32), ("LOADS", loads)],
        imports: vec!["attend/decode_stage"],
        why: "a few rows share every read of K and V, as many bytes in flight as registers allow",
    };
    Ok(loads.into_iter().map(choice).collect())
}

/// Whether rows of K and V can be read 16 bytes a thread.
fn is_wide(io: &Io) -> bool {
    ["k", "v"].iter().all(|role| {
        let layout = &io.get(role).layout;
        let eight = |n: &usize| n.is_multiple_of(8);
        element(io.get(role)).vector
            && eight(&layout.offset)
            && layout.strides[..3].iter().all(eight)
            && eight(&layout.shape[3])
    })
}

/// Subgroups of a decode step by matrices, at most: their tiles leave room for a second workgroup on a processor.
const DECODE_SUBGROUPS: usize = 4;
const DECODE_MATRIX_WIDEST: usize = 128;

/// One query of several heads that share their keys, by matrices.
fn decode_matrix(op: &Attend, io: &Io, caps: &Caps, rows: usize) -> Result<Choice, &'static str> {
    let (side, lanes) = matrices(io, caps)?;
    let depth = io.get("q").layout.shape[3].div_ceil(side);
    let width = io.get("v").layout.shape[3].div_ceil(side);
    if !(2..=DECODE_ROWS).contains(&rows) || io.get("q").layout.shape[2] != 1 {
        return Err("it is for one query of 2 to 16 heads that share their keys");
    }
    let alike = op.keys == Keys::Range && op.prefix == 0 && op.normaliser == Normaliser::Softmax;
    let masked =
        io.has_table("row_start") || io.has_table("row_end") || io.hooks.iter().any(|h| h.point == Point::Mask);
    if !alike || masked {
        return Err("it is for softmax over one range of keys that all heads see");
    }
    if depth.max(width) * side > DECODE_MATRIX_WIDEST {
        return Err("D or Dv is over 128");
    }
    if !is_wide(io) {
        return Err("rows of K and V are no multiples of 16 bytes");
    }
    if lanes != side && lanes != 2 * side {
        return Err("subgroups do not hold whole rows of matrices");
    }
    let together = caps.class == DeviceClass::Software;
    let bytes = |n: usize| n * side * (2 * (depth.max(width) * side + 8) + 4 * (side + 4) + 2 * side) + 16;
    let fits =
        |n: &usize| bytes(*n) <= caps.max_workgroup_memory as usize && n * lanes <= caps.max_invocations as usize;
    let subgroups = [DECODE_SUBGROUPS, 2, 1].into_iter().find(fits).ok_or("its tile needs more workgroup memory")?;
    Ok(Choice {
        tier: Tier::T2,
        entry: "attend/decode_matrix",
        wide: true,
        rows: side,
        workgroup: (subgroups * lanes) as u32,
        consts: vec![
            ("SUBGROUPS", subgroups as u32),
            ("SHARE", (lanes / side) as u32),
            ("DEPTH_TILES", depth as u32),
            ("VALUE_TILES", width as u32),
            // Unlike any shape of attend/matrix, which is tested for itself.
            ("QUERIES", 1),
        ],
        imports: vec![
            if side == 16 { "attend/matrix_16" } else { "attend/matrix_8" },
            "attend/matrix_rows",
            if together { "attend/matrix_epoch_together" } else { "attend/matrix_epoch_alone" },
        ],
        why: "one query of heads that share their keys: matrices leave time for the bytes",
    })
}

/// The side of the device's matrices and the invocations of a subgroup, where they serve these tensors.
fn matrices(io: &Io, caps: &Caps) -> Result<(usize, usize), &'static str> {
    let side = caps.matrix.ok_or("the device has no cooperative matrices, or they are off")? as usize;
    let lanes = caps.subgroups.filter(|(least, most)| least == most).ok_or("subgroups have no one size")?.0 as usize;
    let halves = ["q", "k", "v"].map(|role| element(io.get(role))).iter().all(|e| e.dtype == DType::F16 && e.vector);
    if !halves {
        return Err("q, k and v are not all f16 in rows of a multiple of four");
    }
    Ok((side, lanes))
}

/// A tile of matrices: for rows up to so wide, invocations a workgroup and those that share a row, and why.
struct Tile(usize, usize, usize, &'static str);

/// What was best of the tiles tried on one discrete GPU; other classes take the same until one of them is measured.
const MATRIX: [Tile; 3] = [
    Tile(
        64,
        128,
        1,
        "narrow rows leave registers for several workgroups a processor, which hide each other's barriers",
    ),
    Tile(128, 256, 1, "wide rows need many subgroups to share what is staged"),
    Tile(256, 256, 2, "rows over 128 wide leave registers for half as many: two invocations share one"),
];

/// Cooperative matrices, where the device has them and the problem fills them.
fn matrix(op: &Attend, io: &Io, caps: &Caps, rows: usize) -> Result<Vec<Choice>, &'static str> {
    let (side, lanes) = matrices(io, caps)?;
    let depth = io.get("q").layout.shape[3].div_ceil(side);
    let width = io.get("v").layout.shape[3].div_ceil(side);
    let widest = depth.max(width) * side;
    if rows <= 32 {
        return Err("32 rows or fewer do not fill a tile of matrices");
    }
    if matches!(op.keys, Keys::Tokens { .. }) {
        return Err("every query has a list of keys of its own");
    }
    let Some(first) = MATRIX.iter().position(|tile| widest <= tile.0) else { return Err("D or Dv is over 256") };
    let Tile(_, invocations, share, why) = MATRIX[first];
    let share = if lanes >= share * side { share } else { 1 };
    if !lanes.is_multiple_of(side) || lanes / share < side || lanes / share / side > 4 {
        return Err("subgroups do not hold whole rows of matrices");
    }
    // There a barrier of a subgroup waits for the whole workgroup, so its subgroups have to meet as many.
    let together = caps.class == DeviceClass::Software;
    let listed = io.has_table("row_start") || io.has_table("row_end");
    let other = if invocations == 256 { 128 } else { 256 };
    let tiles =
        [(invocations, why), (other, "the other number of subgroups")].into_iter().filter_map(|(invocations, why)| {
            let subgroups = invocations / lanes;
            let tile = invocations / share;
            let staged = 2 * side * ((depth * side + 8) + (width * side + 8)) * 2;
            let bytes = staged
                + tile * (side + 4) * (4 + 2)
                + if listed { subgroups * 16 } else { 0 }
                + if together { 16 } else { 0 };
            let fits = bytes <= caps.max_workgroup_memory as usize && invocations <= caps.max_invocations as usize;
            (fits && subgroups > 0).then(|| Choice {
                tier: Tier::T2,
                entry: "attend/matrix",
                wide: false,
                rows: tile,
                workgroup: invocations as u32,
                consts: vec![
                    ("SUBGROUPS", subgroups as u32),
                    ("ROW_TILES", (lanes / share / side) as u32),
                    ("SHARE", share as u32),
                    ("DEPTH_TILES", depth as u32),
                    ("VALUE_TILES", width as u32),
                ],
                imports: vec![
                    if side == 16 { "attend/matrix_16" } else { "attend/matrix_8" },
                    "attend/matrix_stage",
                    "attend/matrix_rows",
                    if together { "attend/matrix_epoch_together" } else { "attend/matrix_epoch_alone" },
                    if listed { "attend/matrix_bounds_listed" } else { "attend/matrix_bounds" },
                ],
                why,
            })
        });
    let mut tiles: Vec<Choice> = tiles.collect();
    if matches!(op.keys, Keys::Blocks { .. }) {
        // A tile does not go beyond its block: what is larger computes rows that nobody asked for.
        tiles.sort_by_key(|tile| tile.rows > rows);
    }
    if tiles.is_empty() {
        Err("its tile needs more workgroup memory or invocations than the device has")
    } else {
        Ok(tiles)
    }
}
