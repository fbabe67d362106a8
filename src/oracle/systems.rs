//! Linear systems and eigenvalues.

use super::{Array, dot};

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
    eliminate(&mut m);
    (0..width).map(|d| m[0][n + d] / m[0][0]).collect()
}

/// Rows [A | b, ...] of a system of n equations become [diagonal | scaled solutions, ...], with pivots.
fn eliminate(m: &mut [Vec<f64>]) {
    let (n, width) = (m.len(), m[0].len());
    for c in 0..n {
        let best = (c..n).fold(c, |best, r| if m[r][c].abs() > m[best][c].abs() { r } else { best });
        m.swap(c, best);
        if m[c][c].abs() < 1e-300 {
            continue;
        }
        for r in (0..n).filter(|&r| r != c) {
            let factor = m[r][c] / m[c][c];
            (c..width).for_each(|d| m[r][d] -= factor * m[c][d]);
        }
    }
}

/// x of A x = b, A in rows.
pub fn solve(a: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let mut m: Vec<Vec<f64>> = a.iter().zip(b).map(|(row, b)| [&row[..], &[*b]].concat()).collect();
    eliminate(&mut m);
    m.iter().enumerate().map(|(c, row)| row[b.len()] / row[c]).collect()
}

/// The same after so many steps of conjugate gradients from x = 0; a step with a denominator of 0 is none.
pub fn conjugate_gradients(a: &[Vec<f64>], b: &[f64], steps: usize) -> Vec<f64> {
    let (mut x, mut r, mut p) = (vec![0.0; b.len()], b.to_vec(), b.to_vec());
    for _ in 0..steps {
        let ap: Vec<f64> = a.iter().map(|row| dot(row, &p)).collect();
        let (rr, pap) = (dot(&r, &r), dot(&p, &ap));
        let alpha = if pap == 0.0 { 0.0 } else { rr / pap };
        x.iter_mut().zip(&p).for_each(|(x, p)| *x += alpha * p);
        r.iter_mut().zip(&ap).for_each(|(r, ap)| *r -= alpha * ap);
        let beta = if rr == 0.0 { 0.0 } else { dot(&r, &r) / rr };
        p.iter_mut().zip(&r).for_each(|(p, r)| *p = r + beta * *p);
    }
    x
}
