//! Linear systems and eigenvalues.

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

/// The constant c of `min Σ p |v − c − C φ|² + ridge |C|²` over rows (p, φ, v): the normal equations in the unknowns [c, C], eliminated
/// with pivots. What no row determines is 0.
pub fn least_squares(rows: &[(f64, Vec<f64>, &[f64])], ridge: f64) -> Vec<f64> {
    let (n, width) = (rows[0].1.len() + 1, rows[0].2.len());
    let mut m = vec![vec![0.0; n + width]; n];
    for (p, phi, v) in rows {
        let x: Vec<f64> = std::iter::once(1.0).chain(phi.iter().copied()).collect();
        for a in 0..n {
            (0..n).for_each(|b| m[a][b] += p * x[a] * x[b]);
            (0..width).for_each(|d| m[a][n + d] += p * x[a] * v[d]);
        }
    }
    (1..n).for_each(|a| m[a][a] += ridge);
    for c in 0..n {
        let best = (c..n).fold(c, |best, r| if m[r][c].abs() > m[best][c].abs() { r } else { best });
        m.swap(c, best);
        if m[c][c].abs() < 1e-300 {
            continue;
        }
        for r in (0..n).filter(|&r| r != c) {
            let factor = m[r][c] / m[c][c];
            (c..n + width).for_each(|d| m[r][d] -= factor * m[c][d]);
        }
    }
    (0..width).map(|d| m[0][n + d] / m[0][0]).collect()
}
