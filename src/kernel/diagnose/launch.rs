//! The launch of `diagnose/fold`.

use super::{Fold, Of, Reduce, TABLES};
use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, Point};
use crate::kernel::{Io, LaunchBuilder};
use crate::tensor::DType;

/// 16 threads take turns at the pairs of a row.
const WORKGROUP: u32 = 128;
const LANES: usize = 16;

/// Sizes of a fold.
pub(super) struct Sizes {
    pub batch: usize,
    pub heads: usize,
    pub rows: usize,
    /// Pairs of a row.
    pub keys: usize,
    pub depth: usize,
}

impl Sizes {
    /// The sizes, checked against each other: plans are made by hand.
    pub(super) fn of(op: &Fold, io: &Io) -> Result<Self> {
        let shape = |role: &str| -> Result<[usize; 4]> {
            let meta = io.find(role).ok_or_else(|| refuse(role, "a tensor", "nothing"))?;
            let shape = meta.layout.shape[..].try_into();
            shape.map_err(|_| refuse(role, "rank 4", format!("{:?}", meta.layout.shape)))
        };
        let [batch, heads, rows, width] = shape("out")?;
        let (keys, depth) = match op.of {
            Of::Given => {
                let x = shape("x")?;
                let fits = x[0] == batch && heads.is_multiple_of(x[1]) && x[2] * op.share >= rows;
                fits.then_some((x[3], 1)).ok_or_else(|| refuse("x", "the sizes of `out`", format!("{x:?}")))?
            }
            _ => {
                let (q, k) = (shape("q")?, shape("k")?);
                let fits =
                    q[..3] == [batch, heads, rows] && k[0] == batch && heads.is_multiple_of(k[1]) && k[3] == q[3];
                fits.then_some((k[2], k[3]))
                    .ok_or_else(|| refuse("k", "the sizes of `q` and `out`", format!("{k:?}")))?
            }
        };
        let want = if op.reduce == Reduce::Each { keys } else { 1 };
        if width != want {
            return Err(refuse("out", format!("rows of {want}"), width.to_string()));
        }
        let flags = io.get("out").dtype == DType::U8;
        // Bytes are written a word at a time.
        if flags && (op.reduce != Reduce::Each || !io.get("out").layout.offset.is_multiple_of(4)) {
            return Err(refuse("out", "f32 or i32, or whole words of flags", "u8"));
        }
        if op.of == Of::Tanh && !io.has_table("w") || op.of == Of::Distance && !io.has_table("edge") {
            return Err(Error::new(ErrorKind::Unsupported, format!("diagnose.fold: {:?} needs its table", op.of)));
        }
        Ok(Sizes { batch, heads, rows, keys, depth })
    }
}

pub(super) fn launch(op: &Fold, io: &Io, caps: &Caps) -> Result<Launch> {
    let s = Sizes::of(op, io)?;
    let total = s.batch * s.heads * s.rows;
    let heads = |role: &str| io.find(role).map_or(1, |m| m.layout.shape[1]);
    let put = match io.get("out").dtype {
        DType::U8 => "diagnose/put_flags",
        DType::I32 => "diagnose/put_index",
        _ => "diagnose/put_real",
    };
    // With `Each` a thread writes four neighbours, which are one word of flags.
    let groups = match op.reduce {
        Reduce::Each => (total * s.keys).div_ceil(4 * WORKGROUP as usize),
        _ => total.div_ceil(WORKGROUP as usize / LANES),
    };
    Ok(LaunchBuilder::new(op, "diagnose/fold", WORKGROUP, io, caps, &TABLES)
        .import(put)
        .constant("OF", op.of as u32)
        .constant("REDUCE", op.reduce as u32)
        .switch("HAS_MASK", io.hooks.iter().any(|h| h.point == Point::Mask))
        .u32("total", total)
        .u32("heads", s.heads)
        .u32("rows", s.rows)
        .u32("keys", s.keys)
        .u32("depth", s.depth)
        .u32("share_x", s.heads / heads("x").max(1))
        .u32("share_k", s.heads / heads("k").max(1))
        .u32("share", op.share)
        .u32("causal", usize::from(op.causal))
        .f32("scale", op.scale)
        .f32("empty", op.empty)
        .f32("eps", op.eps)
        .strides("x", 4)
        .strides("q", 4)
        .strides("k", 4)
        .strides("out", 4)
        .groups(groups))
}

fn refuse(role: &str, expected: impl ToString, found: impl ToString) -> Error {
    Error::expected(ErrorKind::Shape, "diagnose.fold", role, expected.to_string(), found.to_string())
}
