//! What the machine can do at most, measured at every run: figures are read as fractions of these.

mod cpu;
mod gpu;

pub use cpu::measure as of_cpu;
pub use gpu::{Clock, measure as of_gpu};

use crate::table::short;
use serde_json::{Value, json};
use std::fmt;

/// Ceilings of one device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// GB/s of a copy, read and written bytes both counted.
    pub copy: f64,
    /// f32 GFLOP/s of fused multiply-adds in registers, an FMA being two.
    pub fma: f64,
    /// GFLOP/s of cooperative matrices in registers, f16 factors and f32 sums, where kernels may use them.
    pub matrix: Option<f64>,
    /// 10^9 exp2 a second; absent on the CPU engine, whose exponential is its own.
    pub exp: Option<f64>,
    /// GB/s read from workgroup memory, 16 bytes a thread; absent on the CPU engine, which has none.
    pub workgroup: Option<f64>,
}

impl Ceilings {
    /// As a part of a JSON line.
    pub fn json(&self) -> Value {
        json!({
            "copy_gbs": round(self.copy),
            "f32_fma_gflops": round(self.fma),
            "matrix_gflops": self.matrix.map(round),
            "exp2_gops": self.exp.map(round),
            "workgroup_gbs": self.workgroup.map(round),
        })
    }
}

impl fmt::Display for Ceilings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "f32 FMA {} GFLOP/s, copy {} GB/s", short(self.fma), short(self.copy))?;
        if let Some(matrix) = self.matrix {
            write!(f, ", cooperative matrices {} GFLOP/s", short(matrix))?;
        }
        if let Some(exp) = self.exp {
            write!(f, ", exp2 {} G/s", short(exp))?;
        }
        self.workgroup.map_or(Ok(()), |read| write!(f, ", workgroup memory {} GB/s", short(read)))
    }
}

/// Four significant digits: more would pretend a precision that no measurement here has.
pub fn round(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return 0.0;
    }
    let unit = 10_f64.powi(3 - x.abs().log10().floor() as i32);
    (x * unit).round() / unit
}
