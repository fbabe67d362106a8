//! Small matrix products for the chunk form. Written for the compiler's vectors: tiles of fixed size in registers.

/// x y + z, fused where the caller's instruction set has it.
#[inline(always)]
fn add<const FUSED: bool>(x: f32, y: f32, z: f32) -> f32 {
    if FUSED { x.mul_add(y, z) } else { x * y + z }
}

/// c += a b: c is (rows, width), a (rows, depth) with its rows `stride` apart, b (depth, width).
#[inline(always)]
pub(super) fn multiply<const FUSED: bool>(
    c: &mut [f32],
    a: &[f32],
    stride: usize,
    depth: usize,
    b: &[f32],
    width: usize,
) {
    if depth == 0 {
        return;
    }
    let b = &b[..depth * width];
    for (n, rows) in c.chunks_mut(4 * width).enumerate() {
        let a = &a[n * 4 * stride..];
        if rows.len() == 4 * width {
            strip::<4, FUSED>(rows, a, stride, depth, b, width);
        } else {
            for (m, row) in rows.chunks_exact_mut(width).enumerate() {
                strip::<1, FUSED>(row, &a[m * stride..], stride, depth, b, width);
            }
        }
    }
}

/// M rows of c.
#[inline(always)]
fn strip<const M: usize, const FUSED: bool>(
    c: &mut [f32],
    a: &[f32],
    stride: usize,
    depth: usize,
    b: &[f32],
    width: usize,
) {
    let mut column = 0;
    while column + 16 <= width {
        tile::<M, 16, FUSED>(c, a, stride, depth, b, width, column);
        column += 16;
    }
    while column + 4 <= width {
        tile::<M, 4, FUSED>(c, a, stride, depth, b, width, column);
        column += 4;
    }
    while column < width {
        tile::<M, 1, FUSED>(c, a, stride, depth, b, width, column);
        column += 1;
    }
}

/// M rows and N columns of c.
#[inline(always)]
fn tile<const M: usize, const N: usize, const FUSED: bool>(
    c: &mut [f32],
    a: &[f32],
    stride: usize,
    depth: usize,
    b: &[f32],
    width: usize,
    column: usize,
) {
    let a: [&[f32]; M] = std::array::from_fn(|m| &a[m * stride..][..depth]);
    let mut sums = [[0.0; N]; M];
    for (k, row) in b.chunks_exact(width).enumerate() {
        let row = &row[column..][..N];
        for m in 0..M {
            for n in 0..N {
                sums[m][n] = add::<FUSED>(a[m][k], row[n], sums[m][n]);
            }
        }
    }
    for m in 0..M {
        for n in 0..N {
            c[m * width + column + n] += sums[m][n];
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
    for half in [8, 4, 2, 1] {
        for n in 0..half {
            sums[n] += sums[n + half];
        }
    }
    sums[0] + rest
}
