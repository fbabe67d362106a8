//! `bench --exponent`: how the time of linear attention grows with the length, and from which length on it beats our own dense kernel.

use super::catalogue;
use super::ceilings::round;
use super::measure::Kind;
use super::report::Row;
use super::workload::{Group, Workload};
use crate::failure::Failure;
use crate::table::short;
use serde_json::{Value, json};

const LINEAR: &str = "linear";
const DENSE: &str = "causal";

/// Seconds of a workload unless asked otherwise: eighteen of them, most of whose time goes into making and checking their inputs.
pub const SECONDS: f64 = 0.4;

/// Doublings from a length on, `COUNT` lengths.
const COUNT: u32 = 6;

/// The first length of the fit, and of the search.
fn firsts(kind: Kind) -> [usize; 2] {
    // On the CPU an oracle checks whole heads, which takes seconds for each 32768 tokens.
    if kind == Kind::Gpu { [8192, 256] } else { [1024, 64] }
}

fn doubled(first: usize) -> impl Iterator<Item = usize> {
    (0..COUNT).map(move |n| first << n)
}

/// Linear attention at the lengths of the fit, then both kinds at those of the search.
pub fn workloads(kind: Kind) -> Result<Vec<Workload>, Failure> {
    let (heads, d, half) = if kind == Kind::Gpu { (8, 128, true) } else { (8, 64, false) };
    let [fit, search] = firsts(kind);
    let mut lengths: Vec<(&str, usize)> = doubled(search).chain(doubled(fit)).map(|l| (LINEAR, l)).collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths.extend(doubled(search).map(|l| (DENSE, l)));
    let mut list = Vec::new();
    for (name, l) in lengths {
        let job = match name {
            LINEAR => catalogue::recurrent(1, heads, l, d, half)?,
            _ => catalogue::causal(1, heads, l, d, half),
        };
        let shape = format!("1,{heads},{heads},{l},{d} {}", if half { "f16" } else { "f32" });
        list.push(Workload { id: format!("{name}@{l}"), shape, group: Group::Named, dense: None, ideal: None, job });
    }
    Ok(list)
}

/// What the rows say.
#[derive(Debug, PartialEq)]
pub struct Growth {
    /// Length and milliseconds of linear attention where they were fitted.
    fitted: Vec<(f64, f64)>,
    /// e of ms = c L^e, and the largest deviation of a row from it.
    exponent: f64,
    deviation: f64,
    /// Lengths that were searched: length, milliseconds of linear and of dense attention.
    searched: Vec<(f64, f64, f64)>,
    /// The length from which on linear attention is faster: between two lengths by a straight line through both logarithms. 0 where it always
    /// is, absent where it never is.
    crossover: Option<f64>,
}

impl Growth {
    /// From the rows of [`workloads`]; absent when fewer than two lengths were measured.
    pub fn new(rows: &[Row], kind: Kind) -> Option<Growth> {
        let ms = |name: &str, l: usize| {
            let row = rows.iter().find(|r| r.workload.id == format!("{name}@{l}"))?;
            row.timed.as_ref().map(super::timing::Timed::median)
        };
        let [fit, search] = firsts(kind);
        let fitted = doubled(fit).filter_map(|l| Some((l as f64, ms(LINEAR, l)?))).collect();
        let searched = doubled(search).filter_map(|l| Some((l as f64, ms(LINEAR, l)?, ms(DENSE, l)?))).collect();
        Growth::of(fitted, searched)
    }

    fn of(fitted: Vec<(f64, f64)>, searched: Vec<(f64, f64, f64)>) -> Option<Growth> {
        if fitted.len() < 2 {
            return None;
        }
        let n = fitted.len() as f64;
        let logs: Vec<[f64; 2]> = fitted.iter().map(|&(l, ms)| [l.ln(), ms.ln()]).collect();
        let mean = |at: usize| logs.iter().map(|p| p[at]).sum::<f64>() / n;
        let [x, y] = [mean(0), mean(1)];
        let slope = |at: usize| logs.iter().map(|p| (p[0] - x) * (p[at] - [x, y][at])).sum::<f64>();
        let exponent = slope(1) / slope(0);
        let off = |p: &[f64; 2]| (p[1] - y - exponent * (p[0] - x)).abs().exp() - 1.0;
        let deviation = logs.iter().map(off).fold(0.0, f64::max);
        // Faster at every length from there on.
        let slower = searched.iter().rposition(|&(_, linear, dense)| linear >= dense);
        let crossover = match slower {
            None => (!searched.is_empty()).then_some(0.0),
            Some(last) => searched.get(last + 1).map(|&(end, linear, dense)| {
                let (start, a, b) = searched[last];
                let (before, after) = ((a / b).ln(), (linear / dense).ln());
                (start.ln() + (end / start).ln() * before / (before - after)).exp()
            }),
        };
        Some(Growth { fitted, exponent, deviation, searched, crossover })
    }

    /// In words, a line each.
    pub fn lines(&self) -> [String; 2] {
        let ends =
            |mut lengths: Box<dyn DoubleEndedIterator<Item = f64> + '_>| match (lengths.next(), lengths.next_back()) {
                (Some(first), Some(last)) => format!("{first:.0} to {last:.0}"),
                _ => "few".to_owned(),
            };
        let searched = ends(Box::new(self.searched.iter().map(|s| s.0)));
        let crossover = match self.crossover {
            None => format!("slower than dense causal at {searched} tokens"),
            Some(0.0) => format!("faster than dense causal at {searched} tokens"),
            Some(length) => format!("faster than dense causal from {length:.0} tokens on ({searched} searched)"),
        };
        [
            format!(
                "L-exponent: the time of linear attention grows as L^{:.3} from {} tokens ({} lengths, {} % off at most)",
                self.exponent,
                ends(Box::new(self.fitted.iter().map(|f| f.0))),
                self.fitted.len(),
                short(100.0 * self.deviation),
            ),
            format!("crossover: {crossover}"),
        ]
    }

    /// The JSON line.
    pub fn json(&self, device: &str) -> Value {
        let column =
            |of: &dyn Fn(&(f64, f64, f64)) -> f64| self.searched.iter().map(|s| round(of(s))).collect::<Vec<_>>();
        json!({
            "workload": "L-exponent",
            "device": device,
            "crate": env!("CARGO_PKG_VERSION"),
            "exponent": round(self.exponent),
            "deviation": round(self.deviation),
            "lengths": self.fitted.iter().map(|f| f.0).collect::<Vec<_>>(),
            "linear_ms": self.fitted.iter().map(|f| round(f.1)).collect::<Vec<_>>(),
            "crossover": self.crossover.map(round),
            "searched": {
                "lengths": column(&|s| s.0),
                "linear_ms": column(&|s| s.1),
                "dense_ms": column(&|s| s.2),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponent_and_crossover_of_known_curves() {
        let lengths = || doubled(256).map(|l| l as f64);
        let linear = |l: f64| 0.1 + l * 1e-3;
        let fitted = doubled(8192).map(|l| (l as f64, 3e-4 * (l as f64).powf(1.07))).collect();
        // Dense takes 1e-6 L², which is more than 0.1 + 1e-3 L from 1091.6 on.
        let searched = lengths().map(|l| (l, linear(l), 1e-6 * l * l)).collect();
        let growth = Growth::of(fitted, searched).expect("two lengths");
        assert!((growth.exponent - 1.07).abs() < 1e-9 && growth.deviation < 1e-9, "{growth:?}");
        let crossover = growth.crossover.expect("a crossover");
        assert!((1024.0..1200.0).contains(&crossover), "{crossover}");
        let two = || vec![(1.0, 1.0), (2.0, 2.0)];
        let of = |dense: f64| Growth::of(two(), lengths().map(|l| (l, 1.0, dense)).collect()).expect("two lengths");
        assert_eq!((of(2.0).crossover, of(0.5).crossover), (Some(0.0), None));
        assert_eq!(Growth::of(vec![(1.0, 1.0)], Vec::new()), None);
    }
}
