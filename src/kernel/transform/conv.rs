//! `transform.conv`: causal depthwise convolution.

use super::launch::{WORKGROUP, refuse, shape};
use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, ScalarType};
use crate::kernel::reals::Reals;
use crate::kernel::{Io, Kernel, LaunchBuilder, Role, TwinIo};
use crate::tensor::DType;

const TABLES: [(&str, ScalarType); 1] = [("bias", ScalarType::F32)];

/// y_t = f(bias + Σ_s w_{K-1-s} x_{t-s}): roles x (B, H, L, D), weight (H, D, K), state_in (B, H, K-1, D) the inputs
/// before, zeros where absent, out (B, H, L, D), state (B, H, K-1, D) the last inputs, oldest first; table bias (1, H, 1, D). K of 2 or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// f(x) = x sigmoid(x); else f(x) = x.
    pub silu: bool,
}

impl Conv {
    /// The shape of x and the taps.
    fn sizes(&self, io: &Io) -> Result<([usize; 4], usize)> {
        let x = shape(self, io, "x")?;
        let weight = &io.get("weight").layout.shape;
        let &[heads, channels, taps] = &weight[..] else {
            return Err(refuse(self, "weight", "rank 3", weight));
        };
        if heads != x[1] || channels != x[3] || taps < 2 {
            return Err(refuse(self, "weight", format!("({}, {}, 2 or more)", x[1], x[3]), weight));
        }
        for (role, rows) in [("out", x[2]), ("state", taps - 1), ("state_in", taps - 1)] {
            let want = [x[0], x[1], rows, x[3]];
            if io.find(role).is_some() && shape(self, io, role)? != want {
                return Err(refuse(self, role, format!("{want:?}"), &io.get(role).layout.shape));
            }
        }
        Ok((x, taps))
    }
}

impl Kernel for Conv {
    fn name(&self) -> &'static str {
        "transform.conv"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 5] = [
            Role::read("x", DType::F32),
            Role::read("weight", DType::F32).scalar(),
            Role::read("state_in", DType::F32).optional(),
            Role::write("out", DType::F32),
            Role::write("state", DType::F32),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let (x, taps) = self.sizes(io)?;
        let rows = x[0] * x[1] * (x[2] + taps - 1);
        let vectors = x[3].div_ceil(4);
        Ok(LaunchBuilder::new(self, "transform/conv", WORKGROUP, io, caps, &TABLES)
            .switch("SILU", self.silu)
            .u32("rows", rows)
            .u32("heads", x[1])
            .u32("length", x[2])
            .u32("taps", taps)
            .u32("width", x[3])
            .u32("vectors", vectors)
            .strides("x", 4)
            .strides("weight", 3)
            .strides("state_in", 4)
            .strides("out", 4)
            .strides("state", 4)
            .groups((rows * vectors).div_ceil(WORKGROUP as usize)))
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        let ([batch, heads, length, width], taps) = self.sizes(io.io)?;
        let missing = || Error::new(ErrorKind::Unsupported, "transform.conv: a role is missing or holds no reals");
        let (Some(out), Some(state)) = (io.write_f32("out"), io.write_f32("state")) else { return Err(missing()) };
        let (Some(x), Some(weight)) = (Reals::of(io, "x"), Reals::of(io, "weight")) else { return Err(missing()) };
        let before = Reals::of(io, "state_in");
        let input = |b, h, t: usize, d| match (t.checked_sub(taps - 1), &before) {
            (Some(t), _) => x.get(&[b, h, t, d]),
            (None, Some(before)) => before.get(&[b, h, t, d]),
            (None, None) => 0.0,
        };
        for head in 0..batch * heads {
            let (b, h) = (head / heads, head % heads);
            let bias = io.table_row("bias", [b, h, 0]);
            for d in 0..width {
                for t in 0..length {
                    let start = bias.map_or(0.0, |bias| bias.f32(d as i32));
                    let sum = (0..taps).fold(start, |sum, s| sum + weight.get(&[h, d, s]) * input(b, h, t + s, d));
                    let y = if self.silu { sum / (1.0 + (-sum).exp()) } else { sum };
                    out[(head * length + t) * width + d] = y;
                }
                for s in 0..taps - 1 {
                    state[(head * (taps - 1) + s) * width + d] = input(b, h, length + s, d);
                }
            }
        }
        Ok(())
    }

    fn flops(&self, io: &Io) -> f64 {
        let taps = io.get("weight").layout.shape.last().copied().unwrap_or(1);
        2.0 * (taps * io.get("out").layout.len()) as f64
    }
}
