//! Eigenvalues of symmetric matrices.

use super::Array;

/// Eigenvalues, ascending, and their eigenvectors of a symmetric matrix (N, N): Jacobi's rotations, one pair of rows and columns at a time.
pub fn eigen(matrix: &Array) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = matrix.shape[0];
    let mut a = matrix.clone();
    let mut v = Array::zeros(&[n, n]);
    (0..n).for_each(|i| v.set(&[i, i], 1.0));
    // Convergence is quadratic: a few sweeps reach rounding.
    for _ in 0..60 {
        for (p, q) in (0..n).flat_map(|p| (p + 1..n).map(move |q| (p, q))) {
            let off = a.get(&[p, q]);
            if off == 0.0 {
                continue;
            }
            // The angle that makes a_pq 0.
            let theta = 0.5 * (2.0 * off).atan2(a.get(&[p, p]) - a.get(&[q, q]));
            let (s, c) = theta.sin_cos();
            for r in 0..n {
                let (x, y) = (a.get(&[r, p]), a.get(&[r, q]));
                a.set(&[r, p], c * x + s * y);
                a.set(&[r, q], c * y - s * x);
                let (x, y) = (v.get(&[r, p]), v.get(&[r, q]));
                v.set(&[r, p], c * x + s * y);
                v.set(&[r, q], c * y - s * x);
            }
            for r in 0..n {
                let (x, y) = (a.get(&[p, r]), a.get(&[q, r]));
                a.set(&[p, r], c * x + s * y);
                a.set(&[q, r], c * y - s * x);
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a.get(&[i, i]).total_cmp(&a.get(&[j, j])));
    let values = order.iter().map(|&i| a.get(&[i, i])).collect();
    (values, order.iter().map(|&i| (0..n).map(|r| v.get(&[r, i])).collect()).collect())
}
