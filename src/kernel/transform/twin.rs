//! The twins of `transform/*`.

use super::exp_all;
use super::launch::{gate_heads, rows};
use super::{Feature, Gate, Map, Norm, Rotary};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{ArgRow, ArgValue, Hook};
use crate::kernel::key::Point;
use crate::kernel::reals::{Reals, dot};
use crate::kernel::{Kernel, TwinIo, for_each_row};

fn missing(kernel: &dyn Kernel) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{}: a role is missing or holds no reals", kernel.name()))
}

/// Runs `body` on every row of out: its (batch, head, row), and the row.
fn each_row(
    out: &mut [f32],
    [_, heads, length, _]: [usize; 4],
    width: usize,
    body: impl Fn([usize; 3], &mut [f32]) + Send + Sync,
) {
    for_each_row(out, width, |r, row| body([r / (heads * length), r / length % heads, r % length], row));
}

/// 1 / (1 + e^-x) of every element.
fn sigmoids(x: &[f32], to: &mut [f32]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to = -x);
    exp_all(to);
    to.iter_mut().for_each(|to| *to = 1.0 / (1.0 + *to));
}

pub(super) fn map(op: &Map, io: &mut TwinIo) -> Result<()> {
    let shape = rows(op, io.io, |d| op.feature.width(d))?;
    let (Some(out), Some(x)) = (io.write_f32("out"), Reals::of(io, "x")) else { return Err(missing(op)) };
    let hooks = &io.io.hooks;
    let feature = op.feature;
    each_row(out, shape, feature.width(shape[3]), |at, row| {
        let x = x.row(&at);
        if hooks.is_empty() {
            features(feature, x, row);
        } else {
            let mut x = x.to_vec();
            hooks
                .iter()
                .filter(|h| h.point == Point::Feature)
                .for_each(|hook| hook.twin.feature(&mut x, &numbers(hook)));
            features(feature, &x, row);
        }
    });
    Ok(())
}

/// The arguments of a feature hook, which takes no tables.
fn numbers(hook: &Hook) -> Vec<ArgRow<'static>> {
    let number = |value: &ArgValue| match value {
        ArgValue::F32(x) => f64::from(*x),
        ArgValue::I32(x) => f64::from(*x),
        ArgValue::U32(x) => f64::from(*x),
        ArgValue::Table(..) | ArgValue::Lookup(..) => 0.0,
    };
    hook.args.iter().map(|arg| ArgRow::Number(number(&arg.value))).collect()
}

fn features(feature: Feature, x: &[f32], to: &mut [f32]) {
    let each = |to: &mut [f32], of: fn(f32) -> f32| to.iter_mut().zip(x).for_each(|(to, &x)| *to = of(x));
    let d = x.len();
    match feature {
        Feature::Identity => to.copy_from_slice(x),
        Feature::Elu1 => {
            each(to, |x| if x > 0.0 { 0.0 } else { x });
            exp_all(to);
            // e^0 where x > 0.
            to.iter_mut().zip(x).for_each(|(to, x)| *to += if *x > 0.0 { *x } else { 0.0 });
        }
        Feature::Relu => each(to, |x| x.max(0.0)),
        Feature::Relu2 => each(to, |x| x.max(0.0) * x.max(0.0)),
        Feature::Silu => {
            sigmoids(x, to);
            to.iter_mut().zip(x).for_each(|(to, x)| *to *= x);
        }
        Feature::Sigmoid => sigmoids(x, to),
        Feature::Exp => {
            to.copy_from_slice(x);
            exp_all(to);
        }
        Feature::Softmax => {
            to.copy_from_slice(x);
            softmax(to);
        }
        Feature::Hedgehog => {
            each(to, |x| 2.0 * x);
            each(&mut to[d..], |x| -2.0 * x);
            softmax(to);
        }
        Feature::Taylor | Feature::TaylorCompact => {
            let root = |x: f64, power: f64| x.powf(power) as f32;
            let (linear, square, cross) = (root(d as f64, -0.25), root(2.0 * d as f64, -0.5), root(d as f64, -0.5));
            to[0] = 1.0;
            to[1..].iter_mut().zip(x).for_each(|(to, x)| *to = x * linear);
            let rest = &mut to[1 + d..];
            if feature == Feature::Taylor {
                for (row, a) in rest.chunks_exact_mut(d).zip(x) {
                    row.iter_mut().zip(x).for_each(|(to, b)| *to = a * b * square);
                }
                return;
            }
            rest.iter_mut().zip(x).for_each(|(to, x)| *to = x * x * square);
            let pairs = (0..d).flat_map(|i| x[i + 1..].iter().map(move |b| x[i] * b));
            rest[d..].iter_mut().zip(pairs).for_each(|(to, pair)| *to = pair * cross);
        }
        Feature::ExpPm => {
            each(to, |x| x);
            each(&mut to[d..], |x| -x);
            exp_all(to);
        }
        Feature::Pad => {
            to[..d].copy_from_slice(x);
            to[d..].fill(0.0);
        }
        Feature::Dpfp(_) => {
            let r: Vec<f32> = x.iter().map(|x| x.max(0.0)).chain(x.iter().map(|x| (-x).max(0.0))).collect();
            for (s, row) in to.chunks_exact_mut(2 * d).enumerate() {
                let shift = (s + 1) % (2 * d);
                for (i, to) in row.iter_mut().enumerate() {
                    *to = r[i] * r[(i + 2 * d - shift) % (2 * d)];
                }
            }
        }
    }
}

fn softmax(x: &mut [f32]) {
    let high = x.iter().fold(f32::MIN, |high, &x| high.max(x));
    x.iter_mut().for_each(|x| *x -= high);
    exp_all(x);
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}

pub(super) fn rotary(op: &Rotary, io: &mut TwinIo) -> Result<()> {
    let shape = rows(op, io.io, |d| d)?;
    let (Some(out), Some(x)) = (io.write_f32("out"), Reals::of(io, "x")) else { return Err(missing(op)) };
    let (pairs, op) = (shape[3] / 2, *op);
    let io = &*io;
    each_row(out, shape, shape[3], |at, row| {
        let x = x.row(&at);
        row.copy_from_slice(x);
        let channel = |n: usize| io.table_row("channel", [0, 0, n]);
        if let (Some(high), Some(low), Some(pair), Some(axis)) = (channel(0), channel(1), channel(2), channel(3)) {
            let Some(position) = io.table_row("position", at) else { return };
            for (d, y) in row.iter_mut().enumerate() {
                let (j, pair) = (d as i32, pair.i32(d as i32));
                if pair >= 0 {
                    let words = (u64::from(high.i32(j) as u32) << 32) | u64::from(low.i32(j) as u32);
                    let turns = words as f64 * 0.5_f64.powi(64) * position.get(axis.i32(j));
                    let (sin, cos) = (turns.fract() * std::f64::consts::TAU).sin_cos();
                    let other = x[(pair >> 1) as usize] * if pair & 1 == 1 { sin as f32 } else { -sin as f32 };
                    *y = (x[d] * cos as f32 + other) * op.scale;
                }
            }
            return;
        }
        let theta = io.table_row("theta", [at[0], at[1], 0]);
        let tables = io.table_row("cos", at).zip(io.table_row("sin", at));
        for p in 0..pairs {
            let (sin, cos) = match (theta, tables) {
                (Some(theta), _) => {
                    let (sin, cos) = (theta.get(p as i32) * (op.offset + at[2]) as f64).sin_cos();
                    (sin as f32, cos as f32)
                }
                (None, Some((cos, sin))) => (sin.f32(p as i32), cos.f32(p as i32)),
                (None, None) => (0.0, 1.0),
            };
            let (i, j) = if op.interleaved { (2 * p, 2 * p + 1) } else { (p, p + pairs) };
            (row[i], row[j]) = (x[i] * cos - x[j] * sin, x[j] * cos + x[i] * sin);
        }
        row.iter_mut().for_each(|y| *y *= op.scale);
    });
    Ok(())
}

pub(super) fn norm(op: &Norm, io: &mut TwinIo) -> Result<()> {
    let shape = rows(op, io.io, |d| d)?;
    let share = shape[1] / gate_heads(op, io.io, shape)?;
    let (Some(out), Some(x)) = (io.write_f32("out"), Reals::of(io, "x")) else { return Err(missing(op)) };
    let (gates, op) = (Reals::of(io, "gate"), *op);
    each_row(out, shape, shape[3], |at, row| {
        let x = x.row(&at);
        let mean = dot(x, x) / x.len() as f32 + op.eps;
        // A row of zeros without eps.
        let factor = if mean == 0.0 { 0.0 } else { op.scale / mean.sqrt() };
        row.iter_mut().zip(x).for_each(|(y, x)| *y = x * factor);
        if let Some(gates) = &gates {
            let gate = gates.row(&[at[0], at[1] / share, at[2]]);
            let mut open = vec![0.0; gate.len()];
            sigmoids(gate, &mut open);
            row.iter_mut().zip(&open).for_each(|(y, s)| *y *= s);
            if op.gate == Gate::Silu {
                row.iter_mut().zip(gate).for_each(|(y, g)| *y *= g);
            }
        }
    });
    Ok(())
}
