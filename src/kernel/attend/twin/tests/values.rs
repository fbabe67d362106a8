//! NaN, infinities, large scores, and the exponential.

use super::super::simd;
use super::Case;
use crate::kernel::key::ScalarType;

/// Positions of rows with NaN in them.
fn spoilt(out: &[f32], width: usize) -> Vec<usize> {
    let rows = out.chunks(width).enumerate();
    rows.filter(|(_, row)| row.iter().any(|x| !x.is_finite())).map(|(i, _)| i).collect()
}

#[test]
fn nan_stays_in_the_rows_that_see_it() {
    // Few rows, a tile of rows, and rows on both sides of a tile of keys.
    for (lq, lk) in [(1, 40), (5, 40), (70, 70), (300, 600), (2, 1500)] {
        let key = lk - lq / 2 - 1;
        let first = lq - lq / 2 - 1;
        let seeing: Vec<usize> = (first..lq).collect();
        let causal = || Case::new([1, 1, 1, lq, lk, 16, 20]).with(|op| op.causal = true);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for kernels in simd::available() {
                let mut case = causal();
                case.v.set(&[0, 0, key, 3], bad);
                let [out, lse, mass] = case.run(kernels);
                assert_eq!(spoilt(&out, 20), seeing, "{bad} in V on {} {lq} {lk}", kernels.name);
                assert!(spoilt(&lse, 1).is_empty() && spoilt(&mass, 1).is_empty());
                // Only the column that holds it.
                assert!(out.iter().enumerate().all(|(n, x)| n % 20 == 3 || x.is_finite()));
            }
        }
        for kernels in simd::available() {
            let mut case = causal();
            case.k.set(&[0, 0, key, 5], f32::NAN);
            let [out, lse, mass] = case.run(kernels);
            assert_eq!(spoilt(&out, 20), seeing, "NaN in K on {}", kernels.name);
            assert_eq!((spoilt(&lse, 1), spoilt(&mass, 1)), (seeing.clone(), seeing.clone()));
            let mut case = causal();
            case.q.set(&[0, 0, first, 5], f32::NAN);
            let [out, lse, _] = case.run(kernels);
            assert_eq!((spoilt(&out, 20), spoilt(&lse, 1)), (vec![first], vec![first]), "NaN in Q on {}", kernels.name);
        }
    }
}

#[test]
fn a_row_that_sees_only_nan_is_nan() {
    for lq in [1, 30] {
        let mut case = Case::new([1, 1, 1, lq, 5, 16, 16]);
        (0..5).for_each(|j| case.k.set(&[0, 0, j, 0], f32::NAN));
        for kernels in simd::available() {
            let [out, lse, _] = case.run(kernels);
            assert!(out.iter().chain(&lse).all(|x| x.is_nan()), "{}", kernels.name);
        }
    }
}

#[test]
fn nan_in_the_values_of_an_empty_row_is_zero() {
    for lq in [1, 30] {
        let mut case = Case::new([1, 1, 1, lq, 5, 16, 16]).table("row_end", ScalarType::I32, &[1, 1, 1, 1], vec![0]);
        case.v.set(&[0, 0, 2, 3], f32::NAN);
        case.check("empty rows");
    }
}

#[test]
fn large_scores_do_not_overflow() {
    for scale in [1e-30, 30.0, 1e4, -1e4] {
        for lq in [1, 40] {
            let case = Case::new([1, 1, 1, lq, 70, 16, 16]).with(|op| op.scale = scale);
            for kernels in simd::available() {
                let [out, lse, mass] = case.run(kernels);
                assert!(out.iter().chain(&lse).all(|x| x.is_finite()), "{scale} on {}", kernels.name);
                assert!(mass.iter().all(|m| (m - 1.0).abs() < 1e-5));
            }
        }
    }
}

#[test]
fn exponentials_are_within_two_units_in_the_last_place() {
    for kernels in simd::available() {
        let x: Vec<f32> = (0..1 << 16).map(|n| n as f32 * -0.0014).collect();
        for block in x.chunks(256) {
            let shift = 0.0;
            let mut y = block.to_vec();
            // SAFETY: the length is a multiple of every number of lanes.
            let sum = unsafe { (kernels.exp2)(y.as_mut_ptr(), y.len(), shift) };
            let mut total = 0.0;
            for (&x, &y) in block.iter().zip(&y) {
                let want = f64::from(x).exp();
                total += f64::from(y);
                if f64::from(x) * std::f64::consts::LOG2_E < -125.0 {
                    assert_eq!(y, 0.0, "{}", kernels.name);
                } else {
                    // The argument's rounding counts too: half a unit of x log2 e, times ln 2.
                    let argument = f64::from(x.abs()) * 6e-8 * 1.5;
                    let error = (f64::from(y) / want - 1.0).abs();
                    assert!(error <= 2.4e-7 + argument, "{}: exp({x}) is {y}, off by {error:e}", kernels.name);
                }
            }
            assert!((f64::from(sum) - total).abs() <= 1e-5 * total);
        }
        let mut y =
            [0.0, -1.0, f32::NEG_INFINITY, -1e30, f32::NAN, -3e38, -0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        // SAFETY: as above.
        unsafe { (kernels.exp2)(y.as_mut_ptr(), y.len(), 0.0) };
        assert!(y[0] == 1.0 && y[2] == 0.0 && y[3] == 0.0 && y[4].is_nan() && y[5] == 0.0 && y[6] == 1.0, "{y:?}");
    }
}
