//! The twins of `combine/*`.

use super::launch::{PARTS, parts, sinks};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::reals::Reals;
use crate::kernel::{TwinIo, for_each_row};

/// At most this counts as −∞.
const SEEN: f32 = -5e29;

/// Weight of a part before division by the total; an empty part has none, and NaN passes.
fn part_weight(lse: f32, high: f32) -> f32 {
    if lse <= SEEN { 0.0 } else { (lse - high).exp() }
}

pub(super) fn merge(io: &mut TwinIo) -> Result<()> {
    let (Some(outs), Some(lses)) = (Reals::of(io, "outs"), Reals::of(io, "lses")) else { return Err(missing()) };
    let [parts, _, heads, rows, width] = io.io.get("outs").layout.shape[..] else { return Err(missing()) };
    let (Some(out), lse) = (io.write_f32("out"), io.write_f32("lse")) else { return Err(missing()) };
    let sinks = sinks(io.io);
    let at = |r: usize| [r / (heads * rows), r / rows % heads, r % rows];
    // Maximum and total of a row.
    let sum = |r: usize| {
        let [b, h, i] = at(r);
        let sink = io.table_row("sink", [b, h, i]);
        let terms = (0..parts)
            .map(|p| lses.get(&[p, b, h, i]))
            .chain((0..sinks).map(|n| sink.map_or(f32::NEG_INFINITY, |sink| sink.f32(n as i32))));
        let high = terms.clone().fold(f32::MIN, f32::max);
        (high, terms.map(|x| part_weight(x, high)).sum::<f32>())
    };
    for_each_row(out, width, |r, row| {
        let ([b, h, i], (high, total)) = (at(r), sum(r));
        row.fill(0.0);
        for p in 0..parts {
            let factor = part_weight(lses.get(&[p, b, h, i]), high);
            // An empty part's output may hold anything: 0 · NaN is NaN.
            if factor != 0.0 {
                let factor = factor / total;
                row.iter_mut().zip(outs.row(&[p, b, h, i])).for_each(|(sum, x)| *sum += factor * x);
            }
        }
    });
    for (r, lse) in lse.into_iter().flatten().enumerate() {
        let (high, total) = sum(r);
        *lse = if total == 0.0 { f32::NEG_INFINITY } else { high + total.ln() };
    }
    Ok(())
}

pub(super) fn mix(io: &mut TwinIo) -> Result<()> {
    let [_, heads, rows, width] = io.io.get("out").layout.shape[..] else { return Err(missing()) };
    let xs: Option<Vec<Reals>> = PARTS[..parts(io.io)].iter().map(|part| Reals::of(io, part)).collect();
    let (Some(xs), Some(gates)) = (xs, Reals::of(io, "gates")) else { return Err(missing()) };
    let Some(out) = io.write_f32("out") else { return Err(missing()) };
    for_each_row(out, width, |r, row| {
        let at = [r / (heads * rows), r / rows % heads, r % rows];
        row.fill(0.0);
        for (x, gate) in xs.iter().zip(gates.row(&at)) {
            row.iter_mut().zip(x.row(&at)).for_each(|(sum, x)| *sum += gate * x);
        }
    });
    Ok(())
}

fn missing() -> Error {
    Error::new(ErrorKind::Unsupported, "combine: a tensor is missing or has an element type that is not taken")
}
