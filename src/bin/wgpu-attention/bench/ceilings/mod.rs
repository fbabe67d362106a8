//! What the machine can do at most, measured at every run: figures are read as fractions of these.

mod cpu;
mod gpu;

pub use cpu::measure as of_cpu;
pub use gpu::measure as of_gpu;

use serde_json::{Value, json};

/// Ceilings of one device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// GB/s of a copy, read and written bytes both counted.
    pub copy: f64,
    /// f32 GFLOP/s of fused multiply-adds in registers, an FMA being two.
    pub fma: f64,
    /// 10^9 exp2 a second; absent on the CPU engine, whose exponential is its own.
    pub exp: Option<f64>,
}

impl Ceilings {
    /// As a part of a JSON line.
    pub fn json(&self) -> Value {
        json!({ "copy_gbs": round(self.copy), "f32_fma_gflops": round(self.fma), "exp2_gops": self.exp.map(round) })
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
