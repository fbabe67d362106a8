//! The CPU's ceilings: multiply-adds in registers on every thread, and copies.

use super::Ceilings;
use rayon::prelude::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Independent sums a thread: enough to hide the latency of two units of four or five cycles.
const SUMS: usize = 12;
const TURNS: usize = 4_000_000;
const COPY: usize = 128 << 20;
const WARM_UP: Duration = Duration::from_millis(300);

/// Measures for about a second.
pub fn measure() -> Ceilings {
    Ceilings { copy: copy(), fma: fma(), matrix: None, exp: None, workgroup: None }
}

fn best(times: usize, mut run: impl FnMut() -> f64) -> f64 {
    (0..times).map(|_| run()).fold(0.0, f64::max)
}

/// GFLOP/s.
fn fma() -> f64 {
    // Clocks and threads take a while to come up.
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        rayon::broadcast(|_| turns(TURNS));
    }
    best(12, || {
        let start = Instant::now();
        let lanes = rayon::broadcast(|_| turns(TURNS));
        let flops = lanes.iter().map(|n| (n * SUMS * TURNS * 2) as f64).sum::<f64>();
        flops / start.elapsed().as_secs_f64() / 1e9
    })
}

/// GB/s.
fn copy() -> f64 {
    let from = vec![1_u8; COPY];
    let mut to = vec![0_u8; COPY];
    let part = COPY.div_ceil(rayon::current_num_threads());
    best(6, || {
        let start = Instant::now();
        to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
        let seconds = start.elapsed().as_secs_f64();
        black_box(&to);
        2.0 * COPY as f64 / seconds / 1e9
    })
}

/// `count` multiply-adds on each of [`SUMS`] vectors; returns the lanes of a vector.
fn turns(count: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the machine has the instructions.
            unsafe { x86::wide(count) };
            return 16;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            unsafe { x86::narrow(count) };
            return 8;
        }
    }
    portable(count)
}

/// For machines whose compiler baseline has what is needed (NEON), or nothing better is known.
fn portable(count: usize) -> usize {
    let (a, b) = (black_box(0.999_f32), black_box(0.001_f32));
    let mut sums = [[1.0_f32; 4]; SUMS];
    for _ in 0..count {
        for x in sums.iter_mut().flatten() {
            *x = if cfg!(target_arch = "aarch64") { x.mul_add(a, b) } else { *x * a + b };
        }
    }
    black_box(sums);
    4
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::SUMS;
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps, _mm512_fmadd_ps, _mm512_set1_ps};
    use std::hint::black_box;

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn narrow(count: usize) {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut sums = [_mm256_set1_ps(1.0); SUMS];
        for _ in 0..count {
            for x in &mut sums {
                *x = _mm256_fmadd_ps(*x, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn wide(count: usize) {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut sums = [_mm512_set1_ps(1.0); SUMS];
        for _ in 0..count {
            for x in &mut sums {
                *x = _mm512_fmadd_ps(*x, a, b);
            }
        }
        black_box(sums);
    }
}
