//! The two pictures, as SVG.

use crate::options::Options;
use crate::survey::Measure;
use crate::text::ANSWER;
use plotters::coord::Shift;
use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::error::Error;
use wgpu_attention::Runtime;

type Drawn<T> = Result<T, Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const FONT: &str = "sans-serif";
/// The palette of Okabe and Ito, which the colour-blind can tell apart; the shape of the marker says the same.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
];

/// Right digits by length and depth, a panel for each variant.
pub fn grid(measures: &[Measure], options: &Options) -> Drawn<String> {
    let names = names(measures);
    let columns = names.len().clamp(1, 4);
    let rows = names.len().div_ceil(columns).max(1);
    let (lengths, depths) = (&options.lengths, &options.depths);
    let size = (
        (columns as u32 * (90 + 56 * lengths.len() as u32)).max(700),
        50 + rows as u32 * (110 + 24 * depths.len() as u32),
    );
    let title = format!("Digits of the passkey found, of {}, by context length and depth of the needle", ANSWER.len());
    picture(size, &title, |root| {
        for (area, name) in root.split_evenly((rows, columns)).iter().zip(&names) {
            let (last_x, last_y) = (lengths.len() as i32 - 1, depths.len() as i32 - 1);
            let mut chart = ChartBuilder::on(area)
                .caption(name, (FONT, 16))
                .margin(8)
                .x_label_area_size(38)
                .y_label_area_size(52)
                .build_cartesian_2d((0..last_x).into_segmented(), (0..last_y).into_segmented())?;
            let at = |value: &SegmentValue<i32>| match value {
                SegmentValue::CenterOf(n) => Some(*n as usize),
                _ => None,
            };
            chart
                .configure_mesh()
                .disable_mesh()
                .x_labels(lengths.len())
                .y_labels(depths.len())
                .x_label_formatter(&|x| at(x).and_then(|n| lengths.get(n)).map_or(String::new(), |&n| bytes(n as f64)))
                // The start of the text is at the top.
                .y_label_formatter(&|y| {
                    at(y)
                        .and_then(|n| depths.iter().rev().nth(n))
                        .map_or(String::new(), |d| format!("{:.0}", d * 100.0))
                })
                .x_desc("context (bytes)")
                .y_desc("depth (%)")
                .label_style((FONT, 12))
                .axis_desc_style((FONT, 13))
                .draw()?;
            for (x, &length) in (0..).zip(lengths) {
                let measure = measures.iter().find(|m| m.name == *name && m.length == length);
                for y in 0..depths.len() as i32 {
                    let right = measure.and_then(|m| m.trials.get((last_y - y) as usize)).map(|t| t.right());
                    let share = right.map_or(0.0, |n| n as f64 / ANSWER.len() as f64);
                    let mix = |none: f64, all: f64| (none + (all - none) * share) as u8;
                    let colour = match right {
                        Some(_) => RGBColor(mix(247.0, 8.0), mix(251.0, 81.0), mix(255.0, 156.0)),
                        None => RGBColor(225, 225, 225),
                    };
                    let corners = [
                        (SegmentValue::Exact(x), SegmentValue::Exact(y)),
                        (SegmentValue::Exact(x + 1), SegmentValue::Exact(y + 1)),
                    ];
                    chart.draw_series([
                        Rectangle::new(corners.clone(), colour.filled()),
                        Rectangle::new(corners, RGBColor(150, 150, 150)),
                    ])?;
                    let ink = if share > 0.5 { &WHITE } else { &BLACK };
                    let label = right.map_or("cut".into(), |n| n.to_string());
                    let style = (FONT, 13).into_font().color(ink).pos(Pos::new(HPos::Center, VPos::Center));
                    chart.draw_series([Text::new(
                        label,
                        (SegmentValue::CenterOf(x), SegmentValue::CenterOf(y)),
                        style,
                    )])?;
                }
            }
        }
        Ok(())
    })
}

/// Time and memory against length, both axes logarithmic.
pub fn curves(measures: &[Measure], runtime: &Runtime) -> Drawn<String> {
    let names = names(measures);
    let title = format!("Time and memory by context length: {runtime}");
    picture((1080, 470), &title, |root| {
        let (panels, legend) = root.split_vertically(360);
        let panels = panels.split_evenly((1, 3));
        curve(&panels[0], measures, "time per token (ms)", |m| m.step_ms())?;
        curve(&panels[1], measures, "prefill (ms)", |m| m.prefill_ms())?;
        curve(&panels[2], measures, "held for the context (MiB)", |m| m.bytes as f64 / (1 << 20) as f64)?;
        for (n, name) in names.iter().enumerate() {
            let at = (60 + (n as i32 % 4) * 255, 20 + (n as i32 / 4) * 26);
            legend.draw(&(EmptyElement::at(at) + marker(n)))?;
            let style = (FONT, 14).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
            legend.draw(&Text::new(*name, (at.0 + 14, at.1), style))?;
        }
        Ok(())
    })
}

fn picture(size: (u32, u32), title: &str, draw: impl FnOnce(&Area<'_>) -> Drawn<()>) -> Drawn<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        draw(&root.titled(title, (FONT, 18))?)?;
        root.present()?;
    }
    Ok(svg)
}

fn curve(area: &Area<'_>, measures: &[Measure], what: &str, value: impl Fn(&Measure) -> f64) -> Drawn<()> {
    let values = || measures.iter().map(&value).filter(|v| *v > 0.0);
    let lengths = || measures.iter().map(|m| (m.length as f64).log2());
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    if low > high {
        return Ok(());
    }
    // Whole decades, so that the labels are round.
    let range = 10_f64.powf(low.log10().floor())..10_f64.powf((high * 1.01).log10().ceil());
    let (first, last) = (lengths().fold(f64::INFINITY, f64::min).floor(), lengths().fold(0.0, f64::max).ceil());
    let mut chart = ChartBuilder::on(area)
        .caption(what, (FONT, 15))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(58)
        .build_cartesian_2d(first - 0.3..last + 0.3, range.log_scale())?;
    chart
        .configure_mesh()
        .x_max_light_lines(1)
        .light_line_style(RGBColor(240, 240, 240))
        .bold_line_style(RGBColor(215, 215, 215))
        .x_labels((last - first) as usize + 1)
        .x_label_formatter(&|x| bytes(x.exp2()))
        .y_label_formatter(&|y| format!("{y}"))
        .x_desc("context (bytes)")
        .label_style((FONT, 12))
        .axis_desc_style((FONT, 13))
        .draw()?;
    for (n, name) in names(measures).iter().enumerate() {
        let own = measures.iter().filter(|m| m.name == *name && value(m) > 0.0);
        let points: Vec<(f64, f64)> = own.map(|m| ((m.length as f64).log2(), value(m))).collect();
        chart.draw_series(LineSeries::new(points.iter().copied(), COLOURS[n % COLOURS.len()].stroke_width(2)))?;
        chart.draw_series(points.into_iter().map(|at| EmptyElement::at(at) + marker(n)))?;
    }
    Ok(())
}

/// A mark in the colour and shape of variant `n`.
fn marker(n: usize) -> Polygon<(i32, i32)> {
    let shapes: [&[(i32, i32)]; 7] = [
        &[(-5, -2), (-2, -5), (2, -5), (5, -2), (5, 2), (2, 5), (-2, 5), (-5, 2)],
        &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
        &[(0, -6), (6, 5), (-6, 5)],
        &[(0, -6), (6, 0), (0, 6), (-6, 0)],
        &[(0, 6), (6, -5), (-6, -5)],
        &[(-2, -6), (2, -6), (2, -2), (6, -2), (6, 2), (2, 2), (2, 6), (-2, 6), (-2, 2), (-6, 2), (-6, -2), (-2, -2)],
        &[(-5, -5), (5, -5), (-5, 5), (5, 5)],
    ];
    Polygon::new(shapes[n % shapes.len()], COLOURS[n % COLOURS.len()].filled())
}

/// The variants measured, in order.
fn names(measures: &[Measure]) -> Vec<&'static str> {
    let mut names: Vec<&str> = measures.iter().map(|m| m.name).collect();
    names.dedup();
    names
}

/// `4 Ki`, or the number where it is none.
fn bytes(n: f64) -> String {
    let n = n.round();
    if n >= 1024.0 && n % 1024.0 == 0.0 { format!("{} Ki", n / 1024.0) } else { n.to_string() }
}
