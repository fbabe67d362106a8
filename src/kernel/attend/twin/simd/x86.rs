//! AVX2 with FMA and F16C, and AVX-512F.

use super::{Lanes, vector_set};
use half::f16;
use std::arch::x86_64::*;

// 6 x 2 sums, 2 vectors of b and one broadcast of the 16 registers.
vector_set!(AVX2, "AVX2", __m256, rows [6, 4, 2], vectors 2, enable "avx2,fma,f16c");
// 12 x 2 sums of the 32 registers; b is read half as often as with 8 x 3.
vector_set!(AVX512, "AVX-512", __m512, rows [12, 8, 4], vectors 2, enable "avx512f,avx2,fma,f16c");

impl Lanes for __m256 {
    const N: usize = 8;
    const SQUARE: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        unsafe {
            let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), index))
        }
    }
    #[inline(always)]
    unsafe fn load_half(from: *const f16) -> Self {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { _mm256_add_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { _mm256_sub_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { _mm256_mul_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        unsafe { _mm256_fmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { _mm256_max_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn shift_exponent(self, t: Self) -> Self {
        unsafe {
            let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(t));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self), n))
        }
    }
    #[inline(always)]
    unsafe fn keep(self, x: Self, limit: Self) -> Self {
        unsafe { _mm256_and_ps(self, _mm256_cmp_ps::<_CMP_NLT_UQ>(x, limit)) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    unsafe fn maximum(self) -> f32 {
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn transpose(rows: *const *const f32, at: usize, to: *mut f32, stride: usize) {
        unsafe {
            // Halves of rows n and n + 4 are loaded into one register, which saves the lane permutations at the end.
            let mut x = [_mm256_setzero_ps(); 8];
            for n in 0..4 {
                let (a, b) = ((*rows.add(n)).add(at), (*rows.add(n + 4)).add(at));
                x[n] = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b));
                let (a, b) = (a.add(4), b.add(4));
                x[n + 4] = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b));
            }
            for half in 0..2 {
                let [a, b, c, d] = [x[4 * half], x[4 * half + 1], x[4 * half + 2], x[4 * half + 3]];
                let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                let to = to.add(4 * half * stride);
                _mm256_storeu_ps(to, _mm256_shuffle_ps::<0x44>(ab, cd));
                _mm256_storeu_ps(to.add(stride), _mm256_shuffle_ps::<0xee>(ab, cd));
                _mm256_storeu_ps(to.add(2 * stride), _mm256_shuffle_ps::<0x44>(ab_high, cd_high));
                _mm256_storeu_ps(to.add(3 * stride), _mm256_shuffle_ps::<0xee>(ab_high, cd_high));
            }
        }
    }
}

impl Lanes for __m512 {
    const N: usize = 16;
    const SQUARE: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        unsafe { _mm512_maskz_loadu_ps(((1u32 << n) - 1) as __mmask16, from) }
    }
    #[inline(always)]
    unsafe fn load_half(from: *const f16) -> Self {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { _mm512_add_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { _mm512_sub_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { _mm512_mul_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { _mm512_max_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn shift_exponent(self, t: Self) -> Self {
        unsafe {
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(t));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self), n))
        }
    }
    #[inline(always)]
    unsafe fn keep(self, x: Self, limit: Self) -> Self {
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, limit), self) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self) }
    }
    #[inline(always)]
    unsafe fn maximum(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self) }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn transpose(rows: *const *const f32, at: usize, to: *mut f32, stride: usize) {
        unsafe { <__m256 as Lanes>::transpose(rows, at, to, stride) }
    }
}
