//! NEON, which every aarch64 machine has.

use super::{Lanes, portable, vector_set};
use half::f16;
use std::arch::aarch64::*;

// 6 x 4 sums, 4 vectors of b and one broadcast of the 32 registers.
vector_set!(NEON, "NEON", float32x4_t, rows [6, 4, 2], vectors 4);

impl Lanes for float32x4_t {
    const N: usize = 4;
    const SQUARE: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        unsafe {
            let mut x = [0.0f32; 4];
            for i in 0..n {
                x[i] = *from.add(i);
            }
            vld1q_f32(x.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn load_half(from: *const f16) -> Self {
        unsafe {
            let mut x = [0.0f32; 4];
            for i in 0..4 {
                x[i] = portable::widen(*from.add(i));
            }
            vld1q_f32(x.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { vaddq_f32(self, b) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { vsubq_f32(self, b) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { vmulq_f32(self, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        unsafe { vfmaq_f32(c, self, b) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { vmaxq_f32(self, b) }
    }
    #[inline(always)]
    unsafe fn shift_exponent(self, t: Self) -> Self {
        unsafe {
            let n = vshlq_n_u32::<23>(vreinterpretq_u32_f32(t));
            vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(self), n))
        }
    }
    #[inline(always)]
    unsafe fn keep(self, x: Self, limit: Self) -> Self {
        unsafe { vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(self), vcltq_f32(x, limit))) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { vaddvq_f32(self) }
    }
    #[inline(always)]
    unsafe fn maximum(self) -> f32 {
        unsafe { vmaxvq_f32(self) }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe { std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly)) }
    }
    #[inline(always)]
    unsafe fn transpose(rows: *const *const f32, at: usize, to: *mut f32, stride: usize) {
        unsafe {
            let a = vld1q_f32((*rows).add(at));
            let b = vld1q_f32((*rows.add(1)).add(at));
            let c = vld1q_f32((*rows.add(2)).add(at));
            let d = vld1q_f32((*rows.add(3)).add(at));
            let (ac, bd) = (vzipq_f32(a, c), vzipq_f32(b, d));
            let (low, high) = (vzipq_f32(ac.0, bd.0), vzipq_f32(ac.1, bd.1));
            vst1q_f32(to, low.0);
            vst1q_f32(to.add(stride), low.1);
            vst1q_f32(to.add(2 * stride), high.0);
            vst1q_f32(to.add(3 * stride), high.1);
        }
    }
}
