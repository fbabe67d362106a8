//! Random inputs: normal, the same at every run and with any number of threads.

use half::f16;
use rayon::prelude::*;
use wgpu_attention::{DType, HostData, HostTensor, Result};

const CHUNK: usize = 1 << 14;

/// A stream of numbers from a counter (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1, without 0.
    fn uniform(&mut self) -> f32 {
        ((self.next() >> 40) + 1) as f32 / (1 << 24) as f32
    }

    /// Two normal numbers (Box and Muller).
    fn normals(&mut self) -> [f32; 2] {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let (sin, cos) = (std::f32::consts::TAU * self.uniform()).sin_cos();
        [radius * cos, radius * sin]
    }
}

/// Normal numbers of an element type, F32 or F16.
pub fn normal(shape: &[usize], dtype: DType, seed: u64) -> Result<HostTensor> {
    let len = shape.iter().product();
    // A chunk has a seed of its own, so that no chunk waits for another.
    let numbers = |chunk: usize| {
        let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ (chunk as u64) << 20);
        std::iter::repeat_with(move || random.normals()).flatten()
    };
    let data = match dtype {
        DType::F16 => {
            let mut list = vec![f16::ZERO; len];
            list.par_chunks_mut(CHUNK)
                .enumerate()
                .for_each(|(n, to)| to.iter_mut().zip(numbers(n)).for_each(|(t, x)| *t = f16::from_f32(x)));
            HostData::F16(list)
        }
        _ => {
            let mut list = vec![0.0; len];
            list.par_chunks_mut(CHUNK)
                .enumerate()
                .for_each(|(n, to)| to.iter_mut().zip(numbers(n)).for_each(|(t, x)| *t = x));
            HostData::F32(list)
        }
    };
    HostTensor::new(shape, data)
}

/// f32 numbers that `of` makes of normal ones.
pub fn made(shape: &[usize], seed: u64, of: fn(f32) -> f32) -> Result<HostTensor> {
    let mut list = normal(shape, DType::F32, seed)?.to_f32();
    list.par_iter_mut().for_each(|x| *x = of(*x));
    HostTensor::new(shape, list)
}

/// ln σ(x) / 16.
pub fn log_gate(x: f32) -> f32 {
    (x.min(0.0) - (-x.abs()).exp().ln_1p()) / 16.0
}

/// σ(x).
pub fn gate(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `count` numbers from 0 to 1.
pub fn uniform(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    (0..count).map(|_| random.uniform()).collect()
}
