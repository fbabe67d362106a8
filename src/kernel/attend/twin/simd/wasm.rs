//! WebAssembly SIMD of 128 bits; a module is compiled with or without it, so there is nothing to detect.

use super::{Lanes, portable, vector_set};
use half::f16;
use std::arch::wasm32::*;

// 4 x 2 sums: machines below have 16 registers at least.
vector_set!(SIMD128, "wasm SIMD", v128, rows [4, 2, 1], vectors 2);

impl Lanes for v128 {
    const N: usize = 4;
    const SQUARE: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        f32x4_splat(x)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { v128_load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        unsafe {
            let mut x = [0.0f32; 4];
            for i in 0..n {
                x[i] = *from.add(i);
            }
            v128_load(x.as_ptr().cast())
        }
    }
    #[inline(always)]
    unsafe fn load_half(from: *const f16) -> Self {
        unsafe {
            let x = |n: usize| portable::widen(*from.add(n));
            f32x4(x(0), x(1), x(2), x(3))
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { v128_store(to.cast(), self) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        f32x4_add(self, b)
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        f32x4_sub(self, b)
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        f32x4_mul(self, b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        #[cfg(target_feature = "relaxed-simd")]
        return f32x4_relaxed_madd(self, b, c);
        #[cfg(not(target_feature = "relaxed-simd"))]
        f32x4_add(f32x4_mul(self, b), c)
    }
    /// The pseudo-maximum is one instruction on every machine, the IEEE one is not.
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        f32x4_pmax(b, self)
    }
    #[inline(always)]
    unsafe fn shift_exponent(self, t: Self) -> Self {
        i32x4_add(self, i32x4_shl(t, 23))
    }
    #[inline(always)]
    unsafe fn keep(self, x: Self, limit: Self) -> Self {
        v128_andnot(self, f32x4_lt(x, limit))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        (f32x4_extract_lane::<0>(self) + f32x4_extract_lane::<2>(self))
            + (f32x4_extract_lane::<1>(self) + f32x4_extract_lane::<3>(self))
    }
    #[inline(always)]
    unsafe fn maximum(self) -> f32 {
        let (a, b) = (f32x4_extract_lane::<0>(self), f32x4_extract_lane::<1>(self));
        let (c, d) = (f32x4_extract_lane::<2>(self), f32x4_extract_lane::<3>(self));
        a.max(b).max(c.max(d))
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn transpose(rows: *const *const f32, at: usize, to: *mut f32, stride: usize) {
        unsafe {
            let x = |n: usize| v128_load((*rows.add(n)).add(at).cast());
            let (a, b, c, d) = (x(0), x(1), x(2), x(3));
            let (ab, cd) = (i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<0, 4, 1, 5>(c, d));
            let (ab_high, cd_high) = (i32x4_shuffle::<2, 6, 3, 7>(a, b), i32x4_shuffle::<2, 6, 3, 7>(c, d));
            v128_store(to.cast(), i32x4_shuffle::<0, 1, 4, 5>(ab, cd));
            v128_store(to.add(stride).cast(), i32x4_shuffle::<2, 3, 6, 7>(ab, cd));
            v128_store(to.add(2 * stride).cast(), i32x4_shuffle::<0, 1, 4, 5>(ab_high, cd_high));
            v128_store(to.add(3 * stride).cast(), i32x4_shuffle::<2, 3, 6, 7>(ab_high, cd_high));
        }
    }
}
