//! Plain Rust, for machines without a set of their own; compilers turn the loops of eight into what vectors there are.

use super::{Lanes, vector_set};
use half::f16;

vector_set!(PORTABLE, "portable", Eight, rows [4, 2, 1], vectors 1);

#[derive(Clone, Copy)]
pub(super) struct Eight([f32; 8]);

macro_rules! each {
    ($n:ident, $value:expr) => {{
        let mut x = [0.0f32; 8];
        for $n in 0..8 {
            x[$n] = $value;
        }
        Eight(x)
    }};
}

/// f16 to f32 by a shift and a product, which also makes normal numbers of subnormal ones.
#[inline(always)]
pub(super) fn widen(x: f16) -> f32 {
    const TWO_112: f32 = f32::from_bits(239 << 23);
    let bits = u32::from(x.to_bits());
    let size = f32::from_bits((bits & 0x7fff) << 13) * TWO_112;
    // Infinity and NaN come out as 65536 and more.
    let top = if size >= 65536.0 { 0x7f80_0000 } else { 0 };
    f32::from_bits(size.to_bits() | top | (bits & 0x8000) << 16)
}

impl Lanes for Eight {
    const N: usize = 8;
    const SQUARE: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Eight([x; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { each!(n, *from.add(n)) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        unsafe { each!(n, if n < count { *from.add(n) } else { 0.0 }) }
    }
    #[inline(always)]
    unsafe fn load_half(from: *const f16) -> Self {
        unsafe { each!(n, widen(*from.add(n))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        for n in 0..8 {
            unsafe { *to.add(n) = self.0[n] }
        }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        each!(n, self.0[n] + b.0[n])
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        each!(n, self.0[n] - b.0[n])
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        each!(n, self.0[n] * b.0[n])
    }
    /// Not fused: without the instruction `f32::mul_add` is a slow function.
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        each!(n, self.0[n] * b.0[n] + c.0[n])
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        each!(n, if self.0[n] > b.0[n] { self.0[n] } else { b.0[n] })
    }
    #[inline(always)]
    unsafe fn shift_exponent(self, t: Self) -> Self {
        each!(n, f32::from_bits(self.0[n].to_bits().wrapping_add(t.0[n].to_bits() << 23)))
    }
    #[inline(always)]
    unsafe fn keep(self, x: Self, limit: Self) -> Self {
        each!(n, if x.0[n] < limit.0[n] { 0.0 } else { self.0[n] })
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let x = self.0;
        ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
    }
    #[inline(always)]
    unsafe fn maximum(self) -> f32 {
        let mut high = self.0[0];
        for n in 1..8 {
            high = if self.0[n] > high { self.0[n] } else { high };
        }
        high
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn transpose(rows: *const *const f32, at: usize, to: *mut f32, stride: usize) {
        unsafe {
            for n in 0..8 {
                let row = (*rows.add(n)).add(at);
                for d in 0..8 {
                    *to.add(d * stride + n) = *row.add(d);
                }
            }
        }
    }
}
