//! The launches of `transform/*`.

use super::{Gate, Map, Norm, Rotary};
use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, ScalarType};
use crate::kernel::{Io, Kernel, LaunchBuilder};

pub(super) const WORKGROUP: u32 = 128;
/// Rows of a workgroup of `map` and `norm`.
const ROWS: usize = 8;
pub(super) const TABLES: [(&str, ScalarType); 5] = [
    ("cos", ScalarType::F32),
    ("sin", ScalarType::F32),
    ("theta", ScalarType::F32),
    ("channel", ScalarType::I32),
    ("position", ScalarType::F32),
];

/// (B, H, L, width) of a role.
pub(super) fn shape(kernel: &dyn Kernel, io: &Io, role: &str) -> Result<[usize; 4]> {
    let found = &io.get(role).layout.shape;
    found[..].try_into().map_err(|_| refuse(kernel, role, "rank 4", found))
}

pub(super) fn refuse(kernel: &dyn Kernel, role: &str, expected: impl std::fmt::Display, found: &[usize]) -> Error {
    Error::expected(ErrorKind::Shape, kernel.name(), role, expected, format!("{found:?}"))
}

/// The shape of x, and that of out checked to be the same but for its width.
pub(super) fn rows(kernel: &dyn Kernel, io: &Io, width: impl Fn(usize) -> usize) -> Result<[usize; 4]> {
    let x = shape(kernel, io, "x")?;
    let out = shape(kernel, io, "out")?;
    let expected = [x[0], x[1], x[2], width(x[3])];
    if out != expected {
        return Err(refuse(kernel, "out", format!("{expected:?}"), &out));
    }
    Ok(x)
}

fn builder<'a>(
    kernel: &dyn Kernel,
    entry: &'static str,
    io: &'a Io,
    caps: &Caps,
    [batch, heads, length, _]: [usize; 4],
) -> LaunchBuilder<'a> {
    let tables: &[_] = if entry == "transform/rotary" { &TABLES } else { &[] };
    LaunchBuilder::new(kernel, entry, WORKGROUP, io, caps, tables)
        .u32("rows", batch * heads * length)
        .u32("heads", heads)
        .u32("length", length)
        .strides("x", 4)
        .strides("out", 4)
}

pub(super) fn map(op: &Map, io: &Io, caps: &Caps) -> Result<Launch> {
    let x = rows(op, io, |d| op.feature.width(d))?;
    let (rows, depth) = (x[0] * x[1] * x[2], x[3] as f64);
    Ok(builder(op, "transform/map", io, caps, x)
        .import("lib/elementwise")
        .constant("FEATURE", op.feature.number())
        .u32("depth", x[3])
        .u32("width", op.feature.width(x[3]))
        .f32("linear", depth.powf(-0.25) as f32)
        .f32("square", (2.0 * depth).powf(-0.5) as f32)
        .f32("cross", depth.powf(-0.5) as f32)
        .groups(rows.div_ceil(ROWS)))
}

pub(super) fn rotary(op: &Rotary, io: &Io, caps: &Caps) -> Result<Launch> {
    let x = rows(op, io, |d| d)?;
    let pair = |a: &str, b: &str| io.has_table(a) && io.has_table(b);
    if !io.has_table("theta") && !pair("cos", "sin") && !pair("channel", "position") {
        let message = "transform.rotary: no table `theta`, nor `cos` and `sin`, nor `channel` and `position`";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let vectors = x[3].div_ceil(4);
    Ok(builder(op, "transform/rotary", io, caps, x)
        .switch("INTERLEAVED", op.interleaved)
        .switch("THETA", io.has_table("theta"))
        .switch("BY_CHANNEL", io.has_table("channel"))
        .u32("depth", x[3])
        .u32("vectors", vectors)
        .u32("position", op.offset)
        .f32("scale", op.scale)
        .groups((x[0] * x[1] * x[2] * vectors).div_ceil(WORKGROUP as usize)))
}

pub(super) fn norm(op: &Norm, io: &Io, caps: &Caps) -> Result<Launch> {
    let x = rows(op, io, |d| d)?;
    let gate = gate_heads(op, io, x)?;
    Ok(builder(op, "transform/norm", io, caps, x)
        .switch("GATED", io.find("gate").is_some())
        .switch("SILU", op.gate == Gate::Silu)
        .u32("width", x[3])
        .u32("gate_share", x[1] / gate)
        .f32("eps", op.eps)
        .f32("scale", op.scale)
        .strides("gate", 4)
        .groups((x[0] * x[1] * x[2]).div_ceil(ROWS)))
}

/// Heads of the gate, which may be shared.
pub(super) fn gate_heads(op: &Norm, io: &Io, x: [usize; 4]) -> Result<usize> {
    if io.find("gate").is_none() {
        return Ok(x[1]);
    }
    let gate = shape(op, io, "gate")?;
    if gate[1] == 0 || !x[1].is_multiple_of(gate[1]) || [gate[0], gate[2], gate[3]] != [x[0], x[2], x[3]] {
        return Err(refuse(op, "gate", format!("{x:?}"), &gate));
    }
    Ok(gate[1])
}
