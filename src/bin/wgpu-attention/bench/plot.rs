//! `bench --plot`: throughput against length, one curve a way to attend.

use super::catalogue;
use super::measure::Kind;
use super::report::Row;
use super::workload::{Group, Workload};
use crate::failure::Failure;
use plotters::prelude::*;
use std::path::PathBuf;

/// What was asked for.
#[derive(Debug)]
pub struct Request {
    /// Where the drawing goes.
    pub file: PathBuf,
    lengths: Vec<usize>,
}

const CURVES: [(&str, RGBColor); 3] =
    [("causal", RGBColor(31, 119, 180)), ("streaming", RGBColor(214, 109, 14)), ("linear", RGBColor(44, 140, 44))];

impl Request {
    /// From the two values of the option.
    pub fn parse(values: &[String]) -> Result<Self, Failure> {
        let [file, lengths] = values else { return Err(Failure::input("--plot takes a file and lengths")) };
        let one = |text: &str| match text.trim().parse::<usize>() {
            Ok(n) if (1..=1 << 24).contains(&n) => Ok(n),
            _ => Err(Failure::input(format!("--plot: `{text}` is not a length from 1 to 2^24"))),
        };
        let mut lengths = lengths.split(',').map(one).collect::<Result<Vec<_>, _>>()?;
        lengths.sort_unstable();
        lengths.dedup();
        if lengths.len() < 2 {
            return Err(Failure::input("--plot: a curve takes two lengths or more"));
        }
        Ok(Request { file: file.into(), lengths })
    }

    /// The points as workloads: they are checked and timed as all others.
    pub fn workloads(&self, kind: Kind) -> Result<Vec<Workload>, Failure> {
        let (heads, d, half) = if kind == Kind::Gpu { (16, 128, true) } else { (8, 64, false) };
        let mut list = Vec::new();
        for (name, _) in CURVES {
            for &l in &self.lengths {
                let job = match name {
                    "causal" => catalogue::causal(1, heads, l, d, half),
                    "streaming" => catalogue::streaming(1, heads, l, d, half),
                    _ => catalogue::recurrent(1, heads, l, d, half)?,
                };
                let shape = format!("1,{heads},{heads},{l},{d} {}", if half { "f16" } else { "f32" });
                list.push(Workload {
                    id: format!("{name}@{l}"),
                    shape,
                    group: Group::Named,
                    dense: None,
                    ideal: None,
                    job,
                });
            }
        }
        Ok(list)
    }

    /// Draws what was measured, both axes logarithmic.
    pub fn draw(&self, rows: &[Row], device: &str) -> Result<(), Failure> {
        let curves = CURVES.map(|(name, colour)| (name, colour, points(rows, name)));
        let all = || curves.iter().flat_map(|(.., points)| points).copied();
        if all().count() == 0 {
            return Err(Failure::input(format!(
                "{}: nothing could be measured, so nothing is drawn",
                self.file.display()
            )));
        }
        let range =
            |of: fn((f64, f64)) -> f64| all().map(of).fold((f64::MAX, 0.0_f64), |(lo, hi), x| (lo.min(x), hi.max(x)));
        let ((x0, x1), (y0, y1)) = (range(|p| p.0), range(|p| p.1));
        let lengths: Vec<f64> = self.lengths.iter().map(|&l| l as f64).collect();
        let failed = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {e}", self.file.display()));
        let root = SVGBackend::new(&self.file, (860, 520)).into_drawing_area();
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut chart = ChartBuilder::on(&root)
            .caption(format!("Causal attention: {device}"), ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(76)
            .build_cartesian_2d(
                (x0 * 0.9..x1 * 1.1).log_scale().with_key_points(lengths),
                (y0 * 0.7..y1 * 1.4).log_scale().with_key_points(steps(y0, y1)),
            )
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .x_labels(self.lengths.len())
            .y_labels(16)
            .max_light_lines(1)
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_desc("length (tokens)")
            .y_desc("throughput (million tokens a second)")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| ((y * 1e9).round() / 1e9).to_string())
            .draw()
            .map_err(|e| failed(&e))?;
        for (name, colour, points) in curves.iter().filter(|(.., points)| !points.is_empty()) {
            let colour = *colour;
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))
                .map_err(|e| failed(&e))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            chart.draw_series(points.iter().map(|&p| Circle::new(p, 3, colour.filled()))).map_err(|e| failed(&e))?;
        }
        chart
            .configure_series_labels()
            // The corner that curves leave: throughput falls with the length if it changes much.
            .position(SeriesLabelPosition::LowerLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.4))
            .draw()
            .map_err(|e| failed(&e))?;
        root.present().map_err(|e| failed(&e))
    }
}

/// 1, 2 and 5 of every decade that the curves touch.
fn steps(least: f64, most: f64) -> Vec<f64> {
    let decades = least.log10().floor() as i32..=most.log10().ceil() as i32;
    decades
        .flat_map(|n| [1.0, 2.0, 5.0].map(|x| x * 10_f64.powi(n)))
        .filter(|y| (least * 0.7..most * 1.4).contains(y))
        .collect()
}

/// Length and million tokens a second.
fn points(rows: &[Row], curve: &str) -> Vec<(f64, f64)> {
    let point = |row: &Row| {
        let (name, length) = row.workload.id.split_once('@')?;
        let length: f64 = length.parse().ok()?;
        (name == curve).then_some((length, length / row.timed.as_ref()?.median() / 1e3))
    };
    rows.iter().filter_map(point).collect()
}
