//! The twin of `diagnose/fold`.

use super::launch::Sizes;
use super::{Fold, Of, Reduce};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{ArgRow, ArgValue, Row};
use crate::kernel::key::Point;
use crate::kernel::reals::{Reals, dot};
use crate::kernel::{TwinIo, for_each_row};
use crate::tensor::DType;

pub(super) fn twin(op: &Fold, io: &mut TwinIo) -> Result<()> {
    let s = Sizes::of(op, io.io)?;
    let width = if op.reduce == Reduce::Each { s.keys } else { 1 };
    match io.io.get("out").dtype {
        DType::F32 => {
            let out = io.write_f32("out").ok_or_else(missing)?;
            rows(op, io, &s, out, width, |x| x)
        }
        DType::I32 => {
            let out = io.write_i32("out").ok_or_else(missing)?;
            rows(op, io, &s, out, width, |x| x as i32)
        }
        DType::U8 => {
            let out = io.write_u8("out").ok_or_else(missing)?;
            rows(op, io, &s, out, width, |x| x as u8)
        }
        DType::F16 => Err(missing()),
    }
}

fn rows<T: Send>(
    op: &Fold,
    io: &TwinIo,
    s: &Sizes,
    out: &mut [T],
    width: usize,
    cast: impl Fn(f32) -> T + Send + Sync,
) -> Result<()> {
    let numbers = Numbers::of(op, io)?;
    let keys: Vec<i32> = (0..s.keys as i32).collect();
    // Short rows are taken many at a time: the fork of a thread costs more than one.
    let many = (1024 / s.keys.max(1)).max(1);
    for_each_row(out, many * width, |block, out| {
        let (mut x, mut allowed) = (vec![0.0; s.keys], vec![true; s.keys]);
        for (n, out) in out.chunks_mut(width).enumerate() {
            let r = block * many + n;
            let at = [r / (s.heads * s.rows), r / s.rows % s.heads, r % s.rows];
            let query = (at[2] + s.keys) as i32 - s.rows as i32;
            let place = Row { batch: at[0], head: at[1], row: at[2], query, keys: &keys };
            numbers.row(op, s, at, &mut x);
            x.iter_mut().for_each(|x| *x *= op.scale);
            allowed.iter_mut().zip(&keys).for_each(|(m, &j)| *m = !op.causal || j <= query);
            hooks(io, &place, &mut x, &mut allowed);
            let seen = x.iter().zip(&allowed).enumerate().filter(|(_, (_, m))| **m).map(|(j, (x, _))| (j, *x));
            // The first of equal maxima; NaN is passed on.
            let above = |best: Option<(usize, f32)>, (j, x): (usize, f32)| match best {
                Some((_, top)) if !(x > top || x.is_nan()) => best,
                _ => Some((j, x)),
            };
            match op.reduce {
                Reduce::Each => {
                    for ((to, x), m) in out.iter_mut().zip(&x).zip(&allowed) {
                        *to = cast(if *m { *x } else { op.empty });
                    }
                }
                Reduce::Sum => out[0] = cast(sum(seen.map(|(_, x)| x))),
                Reduce::Max => out[0] = cast(seen.fold(None, above).map_or(op.empty, |(_, x)| x)),
                Reduce::ArgMax => out[0] = cast(seen.fold(None, above).map_or(0, |(j, _)| j) as f32),
            }
        }
    });
    Ok(())
}

/// In sixteen sums, as the kernel does: an error that grows with the root of the length at most.
fn sum(list: impl Iterator<Item = f32>) -> f32 {
    let mut sums = [0.0; 16];
    list.enumerate().for_each(|(n, x)| sums[n % 16] += x);
    sums.iter().sum()
}

/// The hooks on a row, in order.
fn hooks(io: &TwinIo, place: &Row, x: &mut [f32], allowed: &mut [bool]) {
    for (n, hook) in io.io.hooks.iter().enumerate() {
        let args: Vec<ArgRow> = hook
            .args
            .iter()
            .map(|arg| match &arg.value {
                ArgValue::Table(..) => io
                    .table_row(&format!("h{n}_{}", arg.name), [place.batch, place.head, place.row])
                    .unwrap_or(ArgRow::Number(0.0)),
                ArgValue::Lookup(..) => io.whole(&format!("h{n}_{}", arg.name)).unwrap_or(ArgRow::Number(0.0)),
                ArgValue::F32(x) => ArgRow::Number(f64::from(*x)),
                ArgValue::I32(x) => ArgRow::Number(f64::from(*x)),
                ArgValue::U32(x) => ArgRow::Number(f64::from(*x)),
            })
            .collect();
        match hook.point {
            Point::Score => hook.twin.score(x, place, &args),
            Point::Mask => hook.twin.mask(allowed, place, &args),
            // The kernel calls no others.
            _ => {}
        }
    }
}

/// The numbers of pairs before the hooks.
enum Numbers<'a> {
    Given(&'a crate::tensor::Layout, &'a crate::tensor::HostData),
    Pairs(Reals<'a>, Reals<'a>, &'a TwinIo<'a>),
}

impl<'a> Numbers<'a> {
    fn of(op: &Fold, io: &'a TwinIo) -> Result<Self> {
        if op.of == Of::Given {
            let (layout, data) = io.read("x").ok_or_else(missing)?;
            return Ok(Numbers::Given(layout, data));
        }
        let (q, k) = (Reals::of(io, "q"), Reals::of(io, "k"));
        Ok(Numbers::Pairs(q.ok_or_else(missing)?, k.ok_or_else(missing)?, io))
    }

    fn row(&self, op: &Fold, s: &Sizes, at: [usize; 3], x: &mut [f32]) {
        let (q, k, io) = match self {
            Numbers::Given(layout, data) => {
                let head = at[1] / (s.heads / layout.shape[1]);
                let first = layout.at(&[at[0], head, at[2] / op.share, 0]);
                x.iter_mut().enumerate().for_each(|(j, x)| *x = data.get(first + j * layout.strides[3]) as f32);
                return;
            }
            Numbers::Pairs(q, k, io) => (q.row(&at), k, io),
        };
        let head = at[1] / (s.heads / io.io.get("k").layout.shape[1]);
        let (w, edge) = (io.table_row("w", [0, at[1], 0]), io.table_row("edge", at));
        for (j, x) in x.iter_mut().enumerate() {
            let k = k.row(&[at[0], head, j]);
            let both = q.iter().zip(k);
            *x = match op.of {
                Of::Tanh => {
                    sum(both.enumerate().map(|(d, (q, k))| w.map_or(0.0, |w| w.f32(d as i32)) * (q + k).tanh()))
                }
                Of::Distance => {
                    let root = (edge.map_or(0.0, |e| e.f32(j as i32)) + op.eps).sqrt();
                    sum(both.map(|(q, k)| (root * (k - q) + op.eps).powi(2)))
                }
                Of::Given | Of::Dot => dot(q, k),
            };
        }
    }
}

fn missing() -> Error {
    Error::new(ErrorKind::Unsupported, "diagnose.fold: a tensor is missing or has an element type that is not taken")
}
