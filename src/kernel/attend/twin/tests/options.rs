//! Sizes, alignment, causality, windows, tables, splits and storage.

use super::super::simd;
use super::{Array, Case};
use crate::kernel::attend::Normaliser;
use crate::kernel::key::ScalarType;
use crate::tensor::HostData;

const ODD: [usize; 5] = [1, 7, 63, 65, 100];

#[test]
fn odd_sizes() {
    for lq in ODD {
        for lk in ODD {
            Case::new([1, 2, 1, lq, lk, 32, 24]).check("lengths");
        }
    }
    for d in ODD {
        for dv in ODD {
            Case::new([1, 1, 1, 33, 70, d, dv]).check("many rows");
            Case::new([1, 1, 1, 3, 70, d, dv]).check("few rows");
        }
    }
}

#[test]
fn no_values() {
    Case::new([1, 1, 1, 9, 9, 8, 0]).check("many rows");
    Case::new([1, 1, 1, 1, 9, 8, 0]).check("one row");
}

#[test]
fn rows_of_every_count() {
    for lq in 1..40 {
        Case::new([1, 1, 1, lq, 50, 20, 20]).with(|op| op.causal = true).check("rows");
    }
}

#[test]
fn query_heads_share_a_kv_head() {
    for [h, hk] in [[6, 2], [8, 1], [12, 12], [20, 2]] {
        for lq in [1, 2, 40] {
            Case::new([2, h, hk, lq, 65, 16, 20]).with(|op| op.causal = true).check("groups");
        }
    }
}

#[test]
fn causal_and_windows_in_both_alignments() {
    for [lq, lk] in [[65, 100], [100, 65], [7, 63], [1, 100], [300, 300]] {
        for bottom_right in [false, true] {
            for causal in [false, true] {
                for (left, right) in
                    [(None, None), (Some(0), None), (Some(9), None), (None, Some(0)), (Some(20), Some(3))]
                {
                    let case = Case::new([1, 2, 2, lq, lk, 16, 16]).with(|op| {
                        op.bottom_right = bottom_right;
                        op.causal = causal;
                        op.window_left = left;
                        op.window_right = right;
                    });
                    case.check(&format!("bottom_right {bottom_right} causal {causal} window {left:?} {right:?}"));
                }
            }
        }
    }
}

#[test]
fn prefix_is_seen_beyond_window_and_row_bounds() {
    for prefix in [1, 5, 64, 300] {
        for causal in [false, true] {
            let case = Case::new([1, 2, 1, 150, 200, 16, 16]).with(|op| {
                op.causal = causal;
                op.prefix = prefix;
                op.window_left = Some(10);
                op.window_right = Some(2);
            });
            case.check(&format!("prefix {prefix} causal {causal}"));
            let case = case.table("row_end", ScalarType::I32, &[1, 1, 1, 1], vec![3]).with(|op| op.window_left = None);
            case.check(&format!("prefix {prefix} causal {causal}, rows end at 3"));
        }
    }
}

#[test]
fn row_bounds_and_lengths() {
    let starts: Vec<i32> = (0..65).map(|i| i / 2).collect();
    let ends: Vec<i32> = (0..65).map(|i| (i * 2 - 3) % 90).collect();
    let case = Case::new([2, 4, 2, 65, 100, 16, 16]).table("row_start", ScalarType::I32, &[65, 1], starts).table(
        "row_end",
        ScalarType::I32,
        &[65, 1],
        ends,
    );
    case.check("row bounds");
    for causal in [false, true] {
        let case = Case::new([5, 2, 1, 30, 100, 16, 16]).with(|op| op.causal = causal).table(
            "lengths",
            ScalarType::I32,
            &[5, 1, 1, 1],
            vec![100, 31, 7, 0, 999],
        );
        case.check("lengths");
        let decode = Case::new([5, 2, 1, 1, 100, 16, 16]).with(|op| op.causal = causal).table(
            "lengths",
            ScalarType::I32,
            &[5, 1, 1, 1],
            vec![100, 31, 7, 0, 999],
        );
        decode.check("lengths, one row");
    }
}

#[test]
fn sinks_join_the_denominator() {
    for lq in [1, 40] {
        let case = Case::new([1, 3, 1, lq, 20, 16, 16]).with(|op| op.causal = true).table(
            "sink",
            ScalarType::F32,
            &[1, 3, 1, 2],
            vec![0.5, -1.0, 20.0, f32::NEG_INFINITY, -30.0, -90.0],
        );
        case.check("sinks");
    }
    // Rows before the first key are empty: the sinks alone are left.
    let case = Case::new([1, 1, 1, 30, 10, 16, 16]).with(|op| op.causal = true).table(
        "sink",
        ScalarType::F32,
        &[1, 1, 1, 2],
        vec![0.5, -1.0],
    );
    case.check("sinks of empty rows");
    let case = Case::new([1, 1, 1, 30, 10, 16, 16]).with(|op| op.causal = true).table(
        "sink",
        ScalarType::F32,
        &[1, 1, 1, 1],
        vec![f32::NEG_INFINITY],
    );
    case.check("a sink of -inf is no sink");
}

#[test]
fn fully_masked_row_is_zero() {
    let case = Case::new([1, 1, 1, 30, 10, 16, 16]).with(|op| op.causal = true);
    case.check("empty rows");
    let [out, lse, mass] = case.run(simd::kernels());
    assert!(out[..20 * 16].iter().all(|x| *x == 0.0) && mass[..20].iter().all(|x| *x == 0.0));
    assert!(lse[..20].iter().all(|x| *x == f32::NEG_INFINITY));
    Case::new([1, 2, 1, 9, 0, 16, 16]).check("no keys");
    Case::new([1, 2, 1, 0, 9, 16, 16]).check("no queries");
}

#[test]
fn splits_are_partial_results() {
    for lq in [1, 50] {
        for causal in [false, true] {
            let case = Case::new([2, 4, 2, lq, 100, 16, 16]).with(|op| {
                op.splits = 3;
                op.causal = causal;
                op.prefix = 40;
                op.window_left = Some(30);
            });
            case.check("splits");
        }
    }
}

#[test]
fn weights_alone_add_up() {
    for lq in [1, 50] {
        let case = Case::new([1, 2, 1, lq, 100, 16, 16]).with(|op| {
            op.normaliser = Normaliser::Weights;
            op.causal = true;
        });
        case.check("scores as weights");
    }
}

#[test]
fn any_strides_and_f16() {
    for lq in [1, 65] {
        let plain = || Case::new([2, 4, 2, lq, 100, 40, 24]).with(|op| op.causal = true);
        let mut case = plain();
        (case.q, case.k, case.v) =
            (case.q.spread([0, 2, 1, 3], 1), case.k.spread([0, 2, 1, 3], 1), case.v.spread([0, 2, 1, 3], 1));
        case.check("(B, L, H, D)");
        let mut case = plain();
        (case.q, case.k, case.v) =
            (case.q.spread([0, 1, 2, 3], 2), case.k.spread([0, 1, 3, 2], 1), case.v.spread([3, 1, 2, 0], 3));
        case.check("inner strides");
        let mut case = plain();
        (case.q, case.k, case.v) = (case.q.to_f16(), case.k.to_f16(), case.v.to_f16());
        case.check("f16");
        let mut case = plain();
        case.k = case.k.to_f16();
        case.check("f16 keys only");
    }
    let mut case = Case::new([1, 1, 1, 9, 40, 19, 19]);
    (case.k, case.v) = (case.k.to_f16(), case.v.to_f16());
    // Subnormal and largest numbers of f16.
    case.v.set(&[0, 0, 3, 2], 6e-8);
    case.v.set(&[0, 0, 4, 2], -65504.0);
    case.check("f16 limits");
}

#[test]
fn keys_cut_in_parts_are_merged() {
    // One head of few rows: the twin cuts the keys.
    for (lq, h, lk) in [(1, 1, 1111), (1, 4, 3000), (3, 2, 1500), (20, 1, 5000), (100, 1, 1100)] {
        for causal in [false, true] {
            Case::new([1, h, 1, lq, lk, 16, 20]).with(|op| op.causal = causal).check("cut keys");
        }
        // Small, since weights of both signs cancel over so many keys.
        let case = Case::new([1, h, 1, lq, lk, 16, 20]).with(|op| {
            op.normaliser = Normaliser::Weights;
            op.scale = 0.01;
        });
        case.check("cut keys, weights");
    }
    let case = Case::new([1, 1, 1, 2, 1111, 16, 16])
        .with(|op| op.causal = true)
        .table("sink", ScalarType::F32, &[1, 1, 1, 1], vec![2.0])
        .table("lengths", ScalarType::I32, &[1, 1, 1, 1], vec![3]);
    case.check("cut keys, most parts empty");
}

#[test]
#[cfg(not(target_arch = "wasm32"))]
fn threads_do_not_change_a_bit() {
    for sizes in [[1, 2, 2, 300, 300, 32, 32], [1, 2, 1, 1, 4000, 32, 32]] {
        let case = Case::new(sizes).with(|op| op.causal = true);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| case.run(simd::kernels()))
        };
        assert_eq!(run(1), run(3));
    }
}

#[test]
fn outputs_are_optional() {
    use crate::kernel::{Io, TwinIo};
    let (q, out) = (Array::noise(&[1, 1, 4, 8], 1), Array::new(&[1, 1, 1, 4, 8], vec![0.0f32; 32]));
    let io =
        Io { roles: vec![("q", q.meta()), ("k", q.meta()), ("v", q.meta()), ("out", out.meta())], ..Io::default() };
    let mut data = HostData::F32(vec![0.0; 32]);
    let reads = vec![("q", &q.data), ("k", &q.data), ("v", &q.data)];
    let op = crate::kernel::attend::Attend::new(1.0);
    let mut io = TwinIo { io: &io, reads, writes: vec![("out", &mut data)], tables: vec![] };
    super::super::twin(&op, &mut io).expect("the twin runs");
    assert!(matches!(data, HostData::F32(v) if v.iter().all(|x| *x != 0.0)));
}
