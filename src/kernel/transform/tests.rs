use super::*;
use crate::hook::{Hook, Twin};
use crate::kernel::key::{Place, Point, ScalarType};
use crate::kernel::{Meta, TableMeta};
use crate::tensor::{HostData, HostTensor, Layout};

/// Runs a twin on x, tables (rows of the last axis) and other roles.
fn run(
    op: &dyn Kernel,
    x: &HostTensor,
    width: usize,
    tables: &[(&str, HostTensor)],
    gate: Option<&HostTensor>,
    hooks: Vec<Hook>,
) -> Vec<f32> {
    let shape = [x.shape()[0], x.shape()[1], x.shape()[2], width];
    let meta = |x: &HostTensor| Meta { dtype: x.dtype(), layout: x.layout().clone() };
    let table = |(name, x): &(&str, HostTensor)| {
        let mut layout = x.layout().clone();
        layout.strides.iter_mut().zip(&layout.shape).for_each(|(stride, n)| *stride *= usize::from(*n > 1));
        TableMeta {
            name: (*name).to_owned(),
            result: ScalarType::F32,
            place: Place::Side,
            meta: Meta { dtype: DType::F32, layout },
        }
    };
    let mut roles = vec![("x", meta(x))];
    roles.extend(gate.map(|gate| ("gate", meta(gate))));
    roles.push(("out", Meta { dtype: DType::F32, layout: Layout::contiguous(&shape) }));
    let io = Io { roles, tables: tables.iter().map(table).collect(), hooks };
    let mut out = HostData::F32(vec![f32::NAN; shape.iter().product()]);
    let mut reads = vec![("x", x.data())];
    reads.extend(gate.map(|gate| ("gate", gate.data())));
    let tables = tables.iter().map(|(_, x)| x.data()).collect();
    op.twin(&mut TwinIo { io: &io, reads, writes: vec![("out", &mut out)], tables }).expect("the twin runs");
    match out {
        HostData::F32(v) => v,
        _ => Vec::new(),
    }
}

fn numbers(shape: &[usize]) -> HostTensor {
    HostTensor::from_fn(shape, |n| ((n * 7919 + 13) % 101) as f32 / 50.0 - 1.0)
}

fn close(name: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{name}");
    let top = want.iter().fold(1e-30, |top: f64, x| top.max(x.abs()));
    let worst = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
    assert!(worst <= 1e-6 * top && got.iter().all(|x| x.is_finite()), "{name}: {:.1e}", worst / top);
}

/// The maps of the catalogue in f64.
fn naive(feature: Feature, x: &[f64]) -> Vec<f64> {
    let each = |of: &dyn Fn(f64) -> f64| x.iter().map(|&x| of(x)).collect::<Vec<_>>();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let softmax = |x: Vec<f64>| {
        let sum: f64 = x.iter().map(|x| x.exp()).sum();
        x.into_iter().map(|x| x.exp() / sum).collect::<Vec<_>>()
    };
    let d = x.len() as f64;
    let pair = |i: usize, j: usize| x[i] * x[j] / (if i == j { 2.0 * d } else { d }).sqrt();
    let linear = [vec![1.0], each(&|x| x / d.powf(0.25))].concat();
    match feature {
        Feature::Identity => x.to_vec(),
        Feature::Elu1 => each(&|x| if x > 0.0 { x + 1.0 } else { x.exp() }),
        Feature::Relu => each(&|x| x.max(0.0)),
        Feature::Relu2 => each(&|x| x.max(0.0).powi(2)),
        Feature::Silu => each(&|x| x * sigmoid(x)),
        Feature::Sigmoid => each(&sigmoid),
        Feature::Exp => each(&f64::exp),
        Feature::Softmax => softmax(x.to_vec()),
        Feature::Hedgehog => softmax([each(&|x| 2.0 * x), each(&|x| -2.0 * x)].concat()),
        Feature::Taylor => {
            let square = x.iter().flat_map(|a| x.iter().map(move |b| a * b / (2.0 * d).sqrt()));
            [linear, square.collect()].concat()
        }
        Feature::TaylorCompact => {
            let squares = (0..x.len()).map(|i| pair(i, i)).collect();
            let pairs =
                (0..x.len()).flat_map(|i| (i + 1..x.len()).map(move |j| (i, j))).map(|(i, j)| pair(i, j)).collect();
            [linear, squares, pairs].concat()
        }
        Feature::ExpPm => [each(&f64::exp), each(&|x| (-x).exp())].concat(),
        Feature::Pad => [x.to_vec(), vec![0.0; x.len()]].concat(),
        Feature::Dpfp(nu) => {
            let r = [each(&|x| x.max(0.0)), each(&|x| (-x).max(0.0))].concat();
            let n = r.len();
            (1..=nu).flat_map(|s| (0..n).map(|i| r[i] * r[(i + n - s) % n]).collect::<Vec<_>>()).collect()
        }
    }
}

#[test]
fn features_are_those_of_the_catalogue() {
    let maps = [
        Feature::Identity,
        Feature::Elu1,
        Feature::Relu,
        Feature::Relu2,
        Feature::Silu,
        Feature::Sigmoid,
        Feature::Exp,
        Feature::Softmax,
        Feature::Hedgehog,
        Feature::Taylor,
        Feature::TaylorCompact,
        Feature::ExpPm,
        Feature::Pad,
        Feature::Dpfp(2),
    ];
    for feature in maps {
        let x = numbers(&[2, 3, 5, 7]);
        for x in [x.to_f16(), x] {
            let want: Vec<f64> = x.to_f64().chunks(7).flat_map(|x| naive(feature, x)).collect();
            let got = run(&Map { feature }, &x, feature.width(7), &[], None, Vec::new());
            close(&format!("{feature:?} of {}", x.dtype().name()), &got, &want);
        }
    }
}

#[test]
fn hooks_come_before_the_map() {
    let twice =
        Hook::new(Point::Feature, "twice", "fn twice(x: f32) -> f32 { return 2.0 * x; }", Twin::Feature(|x| 2.0 * x));
    let x = numbers(&[1, 1, 3, 4]);
    let want: Vec<f64> = x.to_f64().iter().map(|x| (2.0 * x).max(0.0)).collect();
    close("relu", &run(&Map { feature: Feature::Relu }, &x, 4, &[], None, vec![twice]), &want);
}

#[test]
fn rotary_turns_pairs() {
    for (interleaved, depth) in [(true, 8), (true, 5), (false, 8), (false, 7), (true, 1)] {
        let x = numbers(&[2, 2, 3, depth]);
        let theta: Vec<f32> = (0..depth / 2).map(|c| 0.9_f32.powi(c as i32) * 1.7).collect();
        let offset = 1_000_003;
        let angle = |t: usize, c: usize| f64::from(theta[c]) * (offset + t) as f64;
        let want: Vec<f64> = x
            .to_f64()
            .chunks(depth)
            .enumerate()
            .flat_map(|(row, x)| {
                let mut y = x.to_vec();
                for c in 0..depth / 2 {
                    let (i, j) = if interleaved { (2 * c, 2 * c + 1) } else { (c, c + depth / 2) };
                    let (sin, cos) = angle(row % 3, c).sin_cos();
                    (y[i], y[j]) = (x[i] * cos - x[j] * sin, x[j] * cos + x[i] * sin);
                }
                y.into_iter().map(|y| 0.5 * y)
            })
            .collect();
        let op = Rotary { interleaved, offset, scale: 0.5 };
        if depth > 1 {
            let given = HostTensor::new(&[1, 1, 1, depth / 2], theta.clone()).expect("angles");
            close("theta", &run(&op, &x, depth, &[("theta", given)], None, Vec::new()), &want);
        }
        let table = |of: fn(f64) -> f64| {
            HostTensor::from_fn(&[1, 1, 3, depth / 2], |n| of(angle(n / (depth / 2), n % (depth / 2))) as f32)
        };
        let tables = [("cos", table(f64::cos)), ("sin", table(f64::sin))];
        close("tables", &run(&op, &x, depth, &tables, None, Vec::new()), &want);
    }
}

#[test]
fn norm_divides_by_the_root_mean_square() {
    let (x, gate) = (numbers(&[2, 3, 5, 9]), numbers(&[2, 3, 5, 9]).permute(&[0, 1, 2, 3]));
    let sigmoid = |g: f64| 1.0 / (1.0 + (-g).exp());
    for (kind, of) in [(Gate::Silu, (|g, s| g * s) as fn(f64, f64) -> f64), (Gate::Sigmoid, |_, s| s)] {
        let gates = gate.to_f64();
        let rows = x.to_f64();
        let want: Vec<f64> = (0..rows.len())
            .map(|n| {
                let row = &rows[n / 9 * 9..n / 9 * 9 + 9];
                let mean = row.iter().map(|x| x * x).sum::<f64>() / 9.0 + 1e-3;
                rows[n] / mean.sqrt() * of(gates[n], sigmoid(gates[n]))
            })
            .collect();
        close(
            &format!("{kind:?}"),
            &run(&Norm { eps: 1e-3, gate: kind, scale: 1.0 }, &x, 9, &[], Some(&gate), Vec::new()),
            &want,
        );
    }
    let zeros = HostTensor::zeros(&[1, 1, 2, 4]);
    assert_eq!(run(&Norm { eps: 0.0, gate: Gate::Silu, scale: 1.0 }, &zeros, 4, &[], None, Vec::new()), [0.0; 8]);
}
