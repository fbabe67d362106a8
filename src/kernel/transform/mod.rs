//! `transform`: row-wise maps.

mod conv;
mod exp;
mod launch;
#[cfg(test)]
mod tests;
mod twin;

pub use conv::Conv;
pub(super) use exp::exp_all;

use super::key::Launch;
use super::{Io, Kernel, Role, TwinIo};
use crate::caps::Caps;
use crate::error::Result;
use crate::tensor::DType;

/// A feature map without weights (catalogue: feature-maps).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// x.
    Identity,
    /// x + 1 if x > 0 else e^x.
    Elu1,
    /// max(x, 0).
    Relu,
    /// max(x, 0)^2.
    Relu2,
    /// x sigmoid(x).
    Silu,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// e^x.
    Exp,
    /// Softmax over the row.
    Softmax,
    /// softmax([2x, -2x]); width 2 D.
    Hedgehog,
    /// [1, x / D^1/4, vec(x x^T) / sqrt(2 D)]; width 1 + D + D^2.
    Taylor,
    /// [1, x / D^1/4, x_i^2 / sqrt(2 D), x_i x_j / sqrt(D) (i < j)]; width 1 + D + D (D + 1) / 2.
    TaylorCompact,
    /// [e^x, e^-x]; width 2 D.
    ExpPm,
    /// [x, 0]; width 2 D.
    Pad,
    /// r = relu([x, -x]); r * roll(r, s), s = 1..nu; width 2 D nu.
    Dpfp(usize),
}

impl Feature {
    /// Whether each feature hangs on one channel.
    pub(crate) fn elementwise(self) -> bool {
        self.number() <= Feature::Exp.number()
    }

    /// Its place in the shaders.
    pub(crate) fn number(self) -> u32 {
        match self {
            Feature::Identity => 0,
            Feature::Elu1 => 1,
            Feature::Relu => 2,
            Feature::Relu2 => 3,
            Feature::Silu => 4,
            Feature::Sigmoid => 5,
            Feature::Exp => 6,
            Feature::Softmax => 7,
            Feature::Hedgehog => 8,
            Feature::Taylor => 9,
            Feature::TaylorCompact => 10,
            Feature::Dpfp(_) => 11,
            Feature::ExpPm => 12,
            Feature::Pad => 13,
        }
    }

    /// Features of a row of `d` channels.
    pub fn width(self, d: usize) -> usize {
        match self {
            Feature::Hedgehog | Feature::ExpPm | Feature::Pad => 2 * d,
            Feature::Taylor => 1 + d + d * d,
            Feature::TaylorCompact => 1 + d + d * (d + 1) / 2,
            Feature::Dpfp(nu) => 2 * d * nu,
            _ => d,
        }
    }
}

/// Feature map of rows, after the feature hooks of the stage: roles x (B, H, L, D), out (B, H, L, width).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// The map.
    pub feature: Feature,
}

/// Rotary position embedding: roles x (B, H, L, D), out (B, H, L, D). Angles come as tables made by the host in f64: `cos` and `sin`
/// (1, 1, L, D/2); or, where they are data, as table `theta` (1, 1, 1, D/2): the angle a position of pair i, positions from `offset`.
/// With D odd the last channel is not turned.
///
/// Or what turns is data too: table `channel` (1, 1, 4, D) of i32 holds for each channel the high and the low word of its turns a position
/// (angle / 2 pi in 2^-64), 2 partner + 1 for the second of a pair (or -1: the channel passes through, unscaled), and the column of its
/// position; table `position` (B, H, L, axes) holds real positions below 2^31. Angles are exact to 2^-32 of a turn whatever the position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// Pairs are (2i, 2i + 1); else (i, i + D/2).
    pub interleaved: bool,
    /// Position of row 0 (with `theta`).
    pub offset: usize,
    /// Factor of the result.
    pub scale: f32,
}

/// Activation of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// x sigmoid(x).
    Silu,
    /// sigmoid(x).
    Sigmoid,
}

/// Per-row RMS norm without weights, then a gate: roles x (B, H, L, D), optional gate (B, H, L, D), out (B, H, L, D). A row of zeros
/// gives 0, also with eps 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Added to the mean square.
    pub eps: f32,
    /// Activation of role `gate`.
    pub gate: Gate,
    /// Factor of the result.
    pub scale: f32,
}

impl Norm {
    /// Unit length instead of unit mean square: x / √(Σ x² + eps) of rows of width d.
    pub fn unit(d: usize, eps: f32) -> Self {
        let d = d as f64;
        Norm { eps: (f64::from(eps) / d) as f32, gate: Gate::Silu, scale: d.powf(-0.5) as f32 }
    }
}

impl Kernel for Map {
    fn name(&self) -> &'static str {
        "transform.map"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 2] = [Role::read("x", DType::F32), Role::write("out", DType::F32)];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        launch::map(self, io, caps)
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        twin::map(self, io)
    }

    fn flops(&self, io: &Io) -> f64 {
        4.0 * io.get("out").layout.len() as f64
    }
}

impl Kernel for Rotary {
    fn name(&self) -> &'static str {
        "transform.rotary"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 2] = [Role::read("x", DType::F32), Role::write("out", DType::F32)];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        launch::rotary(self, io, caps)
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        twin::rotary(self, io)
    }

    fn flops(&self, io: &Io) -> f64 {
        3.0 * io.get("out").layout.len() as f64
    }
}

impl Kernel for Norm {
    fn name(&self) -> &'static str {
        "transform.norm"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 3] =
            [Role::read("x", DType::F32), Role::read("gate", DType::F32).optional(), Role::write("out", DType::F32)];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        launch::norm(self, io, caps)
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        twin::norm(self, io)
    }

    fn flops(&self, io: &Io) -> f64 {
        8.0 * io.get("out").layout.len() as f64
    }
}
