//! The loops, generic over the lanes. No closures and no iterator adapters over vectors: those may be compiled as functions of
//! their own, without the instruction set.

use super::{Ahead, Dots, Gathered, Lanes, Product};
use half::f16;

/// 2^r on −½ <= r <= ½ by powers of r: near-minimax with 2^0 = 1 exactly; relative error 1.1e-7.
const EXP2: [f32; 6] = [1.0, 0.693_146_94, 0.240_221_93, 0.055_507_35, 0.009_674_317, 0.001_328_729_9];
/// 1.5 · 2^23: adding it leaves the nearest integer in the low bits.
const ROUND: f32 = 12_582_912.0;
/// Below this exponent a weight is exactly 0, so that no intermediate is subnormal.
const LEAST: f32 = -125.0;

/// Asks for the next rows.
#[inline(always)]
unsafe fn look<V: Lanes>(ahead: *mut Ahead) {
    unsafe {
        let ahead = &mut *ahead;
        let n = ahead.each.min(ahead.count);
        for r in 0..n {
            let row = *ahead.rows.add(r);
            let mut at = 0;
            while at < ahead.bytes {
                V::prefetch(row.wrapping_add(at));
                at += 64;
            }
        }
        ahead.rows = ahead.rows.wrapping_add(n);
        ahead.count -= n;
    }
}

#[inline(always)]
pub(super) unsafe fn multiply<V: Lanes, const M: usize, const N: usize>(p: &Product) {
    unsafe {
        let mut column = 0;
        while column + N * V::N <= p.columns {
            look::<V>(p.ahead);
            panel::<V, M, N>(p, column, N * V::N);
            column += N * V::N;
        }
        let step = (N * V::N).min(p.b_columns - column);
        match (p.columns - column) / V::N {
            0 => {}
            1 => panel::<V, M, 1>(p, column, step),
            2 => panel::<V, M, 2>(p, column, step),
            _ => panel::<V, M, 3>(p, column, step),
        }
    }
}

/// `M` rows and the `N` vectors of the panel at `column`, whose rows are `step` apart.
#[inline(always)]
unsafe fn panel<V: Lanes, const M: usize, const N: usize>(p: &Product, column: usize, step: usize) {
    unsafe {
        let mut b = p.b.add(column * p.b_rows + p.b_first * step);
        let mut a = p.a;
        let mut acc = [[V::splat(0.0); N]; M];
        for _ in 0..p.depth {
            let mut row = [V::splat(0.0); N];
            for n in 0..N {
                row[n] = V::load(b.add(n * V::N));
            }
            for m in 0..M {
                let x = V::splat(*a.add(m * p.a_stride));
                for n in 0..N {
                    acc[m][n] = x.mul_add(row[n], acc[m][n]);
                }
            }
            b = b.add(step);
            a = a.add(1);
        }
        for m in 0..M {
            let to = p.c.add(m * p.c_stride + column);
            for n in 0..N {
                let at = to.add(n * V::N);
                let x = if p.add { V::load(at).add(acc[m][n]) } else { acc[m][n] };
                x.store(at);
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn gather<V: Lanes>(p: &Gathered, rows: usize) {
    unsafe {
        let (mut p, mut rows) = (*p, rows);
        while rows > 0 {
            let taken = match rows {
                1 => gather_rows::<V, 1, 8, 4, 2>(&p),
                2 | 3 => gather_rows::<V, 2, 4, 2, 2>(&p),
                _ => gather_rows::<V, 4, 2, 2, 2>(&p),
            };
            p.a = p.a.add(taken * p.a_stride);
            p.c = p.c.add(taken * p.c_stride);
            rows -= taken;
        }
    }
}

/// `M` rows; columns by `N0`, then `N1`, `N2` and single vectors, so that enough sums are under way at once.
#[inline(always)]
unsafe fn gather_rows<V: Lanes, const M: usize, const N0: usize, const N1: usize, const N2: usize>(
    p: &Gathered,
) -> usize {
    unsafe {
        let mut column = 0;
        while column + N0 * V::N <= p.columns {
            gather_tile::<V, M, N0>(p, column);
            column += N0 * V::N;
        }
        while column + N1 * V::N <= p.columns {
            gather_tile::<V, M, N1>(p, column);
            column += N1 * V::N;
        }
        while column + N2 * V::N <= p.columns {
            gather_tile::<V, M, N2>(p, column);
            column += N2 * V::N;
        }
        while column < p.columns {
            gather_tile::<V, M, 1>(p, column);
            column += V::N;
        }
        M
    }
}

#[inline(always)]
unsafe fn gather_tile<V: Lanes, const M: usize, const N: usize>(p: &Gathered, column: usize) {
    unsafe {
        look::<V>(p.ahead);
        // Only a single vector can be the last, short one.
        let last = p.columns - column;
        let mut acc = [[V::splat(0.0); N]; M];
        for k in 0..p.depth {
            let a = p.a.add(k);
            if M == 1 && *a == 0.0 {
                continue;
            }
            let b = (*p.b.add(k)).add(column);
            let mut row = [V::splat(0.0); N];
            for n in 0..N {
                row[n] = if N == 1 && last < V::N { V::load_first(b, last) } else { V::load(b.add(n * V::N)) };
            }
            for m in 0..M {
                let x = V::splat(*a.add(m * p.a_stride));
                for n in 0..N {
                    acc[m][n] = x.mul_add(row[n], acc[m][n]);
                }
            }
        }
        for m in 0..M {
            for n in 0..N {
                let at = p.c.add(m * p.c_stride + column + n * V::N);
                V::load(at).add(acc[m][n]).store(at);
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn dots<V: Lanes>(p: &Dots, rows: usize) {
    unsafe {
        let (mut p, mut rows) = (*p, rows);
        while rows > 0 {
            let taken = match rows {
                1 => dots_rows::<V, 1, 8>(&p),
                2 | 3 => dots_rows::<V, 2, 4>(&p),
                _ => dots_rows::<V, 4, 3>(&p),
            };
            p.a = p.a.add(taken * p.a_stride);
            p.c = p.c.add(taken * p.c_stride);
            rows -= taken;
        }
    }
}

#[inline(always)]
unsafe fn dots_rows<V: Lanes, const M: usize, const K: usize>(p: &Dots) -> usize {
    unsafe {
        let mut key = 0;
        while key + K <= p.count {
            dots_tile::<V, M, K>(p, key);
            key += K;
        }
        while key < p.count {
            dots_tile::<V, M, 1>(p, key);
            key += 1;
        }
        M
    }
}

#[inline(always)]
unsafe fn dots_tile<V: Lanes, const M: usize, const K: usize>(p: &Dots, key: usize) {
    unsafe {
        look::<V>(p.ahead);
        let b = p.b.add(key);
        let mut acc = [[V::splat(0.0); K]; M];
        let mut d = 0;
        while d + V::N <= p.depth {
            let mut k = [V::splat(0.0); K];
            for n in 0..K {
                k[n] = V::load((*b.add(n)).add(d));
            }
            for m in 0..M {
                let x = V::load(p.a.add(m * p.a_stride + d));
                for n in 0..K {
                    acc[m][n] = x.mul_add(k[n], acc[m][n]);
                }
            }
            d += V::N;
        }
        let rest = p.depth - d;
        if rest > 0 {
            for m in 0..M {
                let x = V::load_first(p.a.add(m * p.a_stride + d), rest);
                for n in 0..K {
                    acc[m][n] = x.mul_add(V::load_first((*b.add(n)).add(d), rest), acc[m][n]);
                }
            }
        }
        for m in 0..M {
            for n in 0..K {
                *p.c.add(m * p.c_stride + key + n) = acc[m][n].sum();
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn pack_transposed<V: Lanes, const N: usize>(
    rows: *const *const f32,
    count: usize,
    depth: usize,
    to: *mut f32,
) {
    unsafe {
        let mut first = 0;
        while first < count {
            let step = (N * V::N).min(count - first);
            let panel = to.add(first * depth);
            let mut key = 0;
            while key < step {
                let from = rows.add(first + key);
                let mut d = 0;
                while d + V::SQUARE <= depth {
                    V::transpose(from, d, panel.add(d * step + key), step);
                    d += V::SQUARE;
                }
                while d < depth {
                    for n in 0..V::SQUARE {
                        *panel.add(d * step + key + n) = *(*from.add(n)).add(d);
                    }
                    d += 1;
                }
                key += V::SQUARE;
            }
            first += step;
        }
    }
}

#[inline(always)]
pub(super) unsafe fn pack<V: Lanes, const N: usize>(
    rows: *const *const f32,
    count: usize,
    width: usize,
    to: *mut f32,
    allotted: usize,
) {
    unsafe {
        let padded = width.next_multiple_of(V::N);
        for k in 0..count {
            let row = *rows.add(k);
            let mut column = 0;
            while column < width {
                let first = column - column % (N * V::N);
                let step = (N * V::N).min(padded - first);
                let rest = width - column;
                let x = if rest < V::N { V::load_first(row.add(column), rest) } else { V::load(row.add(column)) };
                x.store(to.add(first * allotted + k * step + (column - first)));
                column += V::N;
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn widen<V: Lanes>(from: *const f16, count: usize, to: *mut f32) {
    unsafe {
        let mut n = 0;
        while n + V::N <= count {
            V::load_half(from.add(n)).store(to.add(n));
            n += V::N;
        }
        while n < count {
            *to.add(n) = (*from.add(n)).to_f32();
            n += 1;
        }
    }
}

#[inline(always)]
pub(super) unsafe fn max<V: Lanes>(row: *const f32, n: usize) -> f32 {
    unsafe {
        let mut high = [V::splat(f32::NEG_INFINITY); 4];
        let mut at = 0;
        while at + 4 * V::N <= n {
            for u in 0..4 {
                high[u] = V::load(row.add(at + u * V::N)).max(high[u]);
            }
            at += 4 * V::N;
        }
        while at < n {
            high[0] = V::load(row.add(at)).max(high[0]);
            at += V::N;
        }
        high[0].max(high[1]).max(high[2].max(high[3])).maximum()
    }
}

#[inline(always)]
pub(super) unsafe fn exp2<V: Lanes>(row: *mut f32, n: usize, shift: f32) -> f32 {
    unsafe {
        let shift = V::splat(-shift);
        let mut sums = [V::splat(0.0); 4];
        let mut at = 0;
        while at + 4 * V::N <= n {
            for u in 0..4 {
                let p = row.add(at + u * V::N);
                let x = power(V::load(p), shift);
                x.store(p);
                sums[u] = sums[u].add(x);
            }
            at += 4 * V::N;
        }
        while at < n {
            let p = row.add(at);
            let x = power(V::load(p), shift);
            x.store(p);
            sums[0] = sums[0].add(x);
            at += V::N;
        }
        sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
    }
}

/// 2^(x log2 e + shift): one rounding in the exponent, whatever the size of x.
#[inline(always)]
unsafe fn power<V: Lanes>(x: V, shift: V) -> V {
    unsafe {
        let d = x.mul_add(V::splat(std::f32::consts::LOG2_E), shift);
        let t = d.add(V::splat(ROUND));
        let r = d.sub(t.sub(V::splat(ROUND)));
        let mut y = V::splat(EXP2[5]);
        for n in 1..6 {
            y = y.mul_add(r, V::splat(EXP2[5 - n]));
        }
        y.shift_exponent(t).keep(d, V::splat(LEAST))
    }
}

#[inline(always)]
pub(super) unsafe fn sum<V: Lanes>(row: *const f32, n: usize) -> f32 {
    unsafe {
        let mut sum = V::splat(0.0);
        let mut at = 0;
        while at < n {
            sum = sum.add(V::load(row.add(at)));
            at += V::N;
        }
        sum.sum()
    }
}

#[inline(always)]
pub(super) unsafe fn scale<V: Lanes>(row: *mut f32, n: usize, factor: f32) {
    unsafe {
        let factor = V::splat(factor);
        let mut at = 0;
        while at < n {
            let p = row.add(at);
            V::load(p).mul(factor).store(p);
            at += V::N;
        }
    }
}
