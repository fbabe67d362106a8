//! `pool`: shortens a sequence.

use super::reals::Reals;
use super::{Io, Kernel, LaunchBuilder, Role, TwinIo, for_each_row};
use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, ScalarType};
use crate::tensor::DType;

const WORKGROUP: u32 = 128;

/// Windows along axis 3: role x (A, B, C, L, W), output out (A, B, C, N, W): `out[n] = Σ_t w_t x[n * stride + t − offset]` over taps
/// t < size that fall inside 0..L. Weights are table `tap`, broadcast to (A, B, C, size), else 1. With `mean` the sum is divided by
/// the number of taps inside (the weights are then 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Taps.
    pub size: usize,
    /// Elements from one window to the next.
    pub stride: usize,
    /// Elements that the first window starts before element 0.
    pub offset: usize,
    /// Divide by the number of taps inside.
    pub mean: bool,
}

impl Kernel for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 2] = [Role::read("x", DType::F32), Role::write("out", DType::F32)];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let [a, b, c, length, width] = io.get("x").layout.shape[..] else { return Err(rank("x")) };
        let [.., windows, _] = io.get("out").layout.shape[..] else { return Err(rank("out")) };
        let vectors = width.div_ceil(4);
        let total = a * b * c * windows * vectors;
        Ok(LaunchBuilder::new(self, "pool/pool", WORKGROUP, io, caps, &[("tap", ScalarType::F32)])
            .switch("WEIGHTED", io.has_table("tap"))
            .switch("MEAN", self.mean)
            .u32("total", total)
            .u32("vectors", vectors)
            .u32("windows", windows)
            .u32("size_b", b)
            .u32("size_c", c)
            .u32("width", width)
            .i32("length", length as i64)
            .i32("taps", self.size as i64)
            .i32("step", self.stride as i64)
            .i32("before", self.offset as i64)
            .strides("x", 5)
            .strides("out", 5)
            .groups(total.div_ceil(WORKGROUP as usize)))
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        let [_, b, c, length, width] = io.io.get("x").layout.shape[..] else { return Err(rank("x")) };
        let [.., windows, _] = io.io.get("out").layout.shape[..] else { return Err(rank("out")) };
        let (Some(x), Some(out)) = (Reals::of(io, "x"), io.write_f32("out")) else {
            return Err(Error::new(ErrorKind::Unsupported, "pool: `x` and `out` are tensors of reals"));
        };
        // Narrow rows are taken many at a time: the fork of a thread costs more than one.
        let many = if width < 16 { windows } else { 1 };
        for_each_row(out, many * width, |r, rows| {
            for (n, row) in rows.chunks_mut(width).enumerate() {
                let (outer, n) = ((r * many + n) / windows, (r * many + n) % windows);
                let at = [outer / (b * c), outer / c % b, outer % c];
                let start = (n * self.stride) as i64 - self.offset as i64;
                let taps = (-start).max(0)..(self.size as i64).min(length as i64 - start);
                let count = taps.clone().count();
                let tap = io.table_row("tap", at);
                row.fill(0.0);
                for t in taps {
                    let weight = tap.map_or(1.0, |tap| tap.f32(t as i32));
                    let from = x.row(&[at[0], at[1], at[2], (start + t) as usize]);
                    row.iter_mut().zip(from).for_each(|(sum, x)| *sum += weight * x);
                }
                if self.mean {
                    row.iter_mut().for_each(|sum| *sum /= count.max(1) as f32);
                }
            }
        });
        Ok(())
    }

    fn flops(&self, io: &Io) -> f64 {
        2.0 * self.size as f64 * io.get("out").layout.len() as f64
    }
}

fn rank(role: &str) -> Error {
    Error::expected(ErrorKind::Shape, "pool", role, "rank 5", "another rank")
}
