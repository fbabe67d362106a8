//! Small matrix products for the chunk form.

/// x y + z, fused where the caller's instruction set has it.
#[inline(always)]
fn add<const FUSED: bool>(x: f32, y: f32, z: f32) -> f32 {
    if FUSED { x.mul_add(y, z) } else { x * y + z }
}

/// c += a b: c is (rows, width), a (rows, depth) with its rows `stride` apart, b (depth, width). With `FUSED` on x86-64 the caller is
/// sure of AVX2 and FMA.
#[inline(always)]
pub(super) fn multiply<const FUSED: bool>(
    c: &mut [f32],
    a: &[f32],
    stride: usize,
    depth: usize,
    b: &[f32],
    width: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if FUSED {
        // SAFETY: the caller is sure of the instruction sets.
        return unsafe { x86::multiply(c, a, stride, depth, &b[..depth * width], width) };
    }
    for (c, a) in c.chunks_exact_mut(width).zip(a.chunks(stride)) {
        let (fours, rest) = a[..depth].as_chunks::<4>();
        let (in_fours, in_rest) = b[..depth * width].split_at(fours.len() * 4 * width);
        for (x, rows) in fours.iter().zip(in_fours.chunks_exact(4 * width)) {
            let (r0, r) = rows.split_at(width);
            let (r1, r) = r.split_at(width);
            let (r2, r3) = r.split_at(width);
            for n in 0..width {
                let sum = add::<FUSED>(x[0], r0[n], add::<FUSED>(x[1], r1[n], c[n]));
                c[n] = add::<FUSED>(x[2], r2[n], add::<FUSED>(x[3], r3[n], sum));
            }
        }
        for (x, row) in rest.iter().zip(in_rest.chunks_exact(width)) {
            c.iter_mut().zip(row).for_each(|(c, b)| *c = add::<FUSED>(*x, *b, *c));
        }
    }
}

/// Σ a_i b_i.
#[inline(always)]
pub(super) fn dot<const FUSED: bool>(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [0.0; 16];
    for (x, y) in a.iter().zip(b) {
        for n in 0..16 {
            sums[n] = add::<FUSED>(x[n], y[n], sums[n]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m256i, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
        _mm256_maskload_ps, _mm256_maskstore_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };

    /// Elements of a vector.
    const LANES: usize = 8;
    /// Eight words from LANES − n on have their first n set.
    static MASKS: [i32; 2 * LANES] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn multiply(c: &mut [f32], a: &[f32], stride: usize, depth: usize, b: &[f32], width: usize) {
        let rows = c.len() / width;
        assert!(b.len() >= depth * width && (rows == 0 || a.len() >= (rows - 1) * stride + depth));
        let mut row = 0;
        while row < rows {
            let (c, a) = (&mut c[row * width..], &a[row * stride..]);
            // SAFETY: the lengths were checked, and so many rows are left.
            unsafe {
                if rows - row >= 4 {
                    strip::<4>(c.as_mut_ptr(), a.as_ptr(), stride, depth, b.as_ptr(), width);
                    row += 4;
                } else {
                    strip::<1>(c.as_mut_ptr(), a.as_ptr(), stride, depth, b.as_ptr(), width);
                    row += 1;
                }
            }
        }
    }

    /// M rows of c.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn strip<const M: usize>(
        c: *mut f32,
        a: *const f32,
        stride: usize,
        depth: usize,
        b: *const f32,
        width: usize,
    ) {
        let mut column = 0;
        // SAFETY: `column` and what is read and written after it stay below `width`.
        unsafe {
            while column + 2 * LANES <= width {
                tile::<M, 2>(c.add(column), a, stride, depth, b.add(column), width, LANES);
                column += 2 * LANES;
            }
            while column < width {
                tile::<M, 1>(c.add(column), a, stride, depth, b.add(column), width, (width - column).min(LANES));
                column += LANES;
            }
        }
    }

    /// M rows and N vectors of c; of one vector only the first `lanes` elements.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile<const M: usize, const N: usize>(
        c: *mut f32,
        a: *const f32,
        stride: usize,
        depth: usize,
        b: *const f32,
        width: usize,
        lanes: usize,
    ) {
        // SAFETY: as many elements as the arguments say are there.
        unsafe {
            let mask = _mm256_loadu_si256(MASKS.as_ptr().add(LANES - lanes).cast());
            let whole = lanes == LANES;
            let mut sums = [[_mm256_setzero_ps(); N]; M];
            for k in 0..depth {
                let mut row = [_mm256_setzero_ps(); N];
                for n in 0..N {
                    row[n] = load(b.add(k * width + n * LANES), whole, mask);
                }
                for m in 0..M {
                    let x = _mm256_broadcast_ss(&*a.add(m * stride + k));
                    for n in 0..N {
                        sums[m][n] = _mm256_fmadd_ps(x, row[n], sums[m][n]);
                    }
                }
            }
            for m in 0..M {
                for n in 0..N {
                    let to = c.add(m * width + n * LANES);
                    let x = _mm256_add_ps(load(to, whole, mask), sums[m][n]);
                    if whole { _mm256_storeu_ps(to, x) } else { _mm256_maskstore_ps(to, mask, x) }
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn load(from: *const f32, whole: bool, mask: __m256i) -> __m256 {
        // SAFETY: the elements that the mask names are there.
        unsafe { if whole { _mm256_loadu_ps(from) } else { _mm256_maskload_ps(from, mask) } }
    }
}
