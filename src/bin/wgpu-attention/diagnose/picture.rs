//! The picture: three bars a head, then the maps of the chosen rows.

use super::gather::{Findings, Map};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Pixels.
const WIDTH: i32 = 1180;
const MARGIN: i32 = 28;
const BARS: i32 = 170;
const COLUMNS: i32 = 4;
const MAP_WIDTH: i32 = 232;
const MAP_LEFT: i32 = 42;
/// Keys that a map has pixels for; more are drawn several a column, by their largest weight.
const MOST_COLUMNS: usize = 116;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(34, 40, 49);
const FAINT: RGBColor = RGBColor(120, 128, 138);
const HIDDEN: RGBColor = RGBColor(226, 226, 222);
const ACCENT: RGBColor = RGBColor(200, 60, 30);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// The drawing as SVG text.
pub fn draw(findings: &Findings) -> Result<String, Box<dyn std::error::Error>> {
    let row = (168 / findings.rows.len().max(1) as i32).clamp(4, 22);
    let map_height = row * findings.rows.len() as i32;
    let map_rows = (findings.maps.len() as i32 + COLUMNS - 1) / COLUMNS;
    let first_map = 92 + BARS + 112;
    let height = first_map + map_rows * (map_height + 66) + 40;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        text(&root, &findings.title, (MARGIN, 34), 20, INK, HPos::Left)?;
        text(&root, &format!("{} · {}", findings.sizes, findings.engine), (MARGIN, 56), 13, FAINT, HPos::Left)?;
        bars(&root, findings)?;
        let most =
            findings.maps.iter().flat_map(|m| m.weights.iter().flatten().flatten()).fold(0.0, |m: f64, x| m.max(*x));
        let most = if most > 0.0 { most } else { 1.0 };
        for (n, map) in findings.maps.iter().enumerate() {
            let x = MARGIN + MAP_LEFT + (n as i32 % COLUMNS) * (MAP_WIDTH + MAP_LEFT + 12);
            let y = first_map + (n as i32 / COLUMNS) * (map_height + 66);
            draw_map(&root, findings, map, (x, y), row, most)?;
        }
        legend(&root, findings, first_map - 48, height - 36, most)?;
        root.present()?;
    }
    Ok(svg)
}

fn text(area: &Area, what: &str, at: (i32, i32), size: i32, colour: RGBColor, anchor: HPos) -> Drawn {
    let style = TextStyle::from((FONT, size)).color(&colour).pos(Pos::new(anchor, VPos::Bottom));
    area.draw(&Text::new(what.to_owned(), at, style))?;
    Ok(())
}

fn block(area: &Area, (x, y): (i32, i32), (w, h): (i32, i32), colour: RGBColor) -> Drawn {
    area.draw(&Rectangle::new([(x, y), (x + w, y + h)], colour.filled()))?;
    Ok(())
}

fn line(area: &Area, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Drawn {
    area.draw(&PathElement::new([from, to], colour.stroke_width(1)))?;
    Ok(())
}

/// Three charts side by side, one bar a head, all from 0 to 1 (or to the largest, if that is more).
fn bars(area: &Area, findings: &Findings) -> Drawn {
    let heads = &findings.heads;
    let found: Option<Vec<f64>> = heads.iter().map(|h| h.found).collect();
    let third = match (&found, findings.retrieval) {
        (None, _) => "needle: none was given".to_owned(),
        (Some(_), true) => "retrieval score".to_owned(),
        (Some(_), false) => "share of shown rows with their top key in the needle".to_owned(),
    };
    let charts: [(String, Vec<f64>, Vec<String>); 3] = [
        (
            "entropy (1 = all keys alike, 0 = one key)".to_owned(),
            heads.iter().map(|h| h.entropy).collect(),
            heads.iter().map(|h| format!("{:.2}", h.entropy)).collect(),
        ),
        (
            "largest mean weight on one key (its index above)".to_owned(),
            heads.iter().map(|h| h.sink.1).collect(),
            heads.iter().map(|h| format!("{}", h.sink.0)).collect(),
        ),
        (
            third,
            found.clone().unwrap_or_default(),
            found.unwrap_or_default().iter().map(|x| format!("{x:.2}")).collect(),
        ),
    ];
    let width = (WIDTH - 2 * MARGIN - 2 * 40) / 3;
    for (n, (name, values, labels)) in charts.iter().enumerate() {
        let left = MARGIN + n as i32 * (width + 40);
        let (top, bottom) = (116, 92 + BARS);
        text(area, name, (left, 92), 14, INK, HPos::Left)?;
        let axis = left + 26;
        let most = values.iter().fold(1.0, |m: f64, x| m.max(*x));
        let height = |x: f64| ((bottom - top) as f64 * x / most) as i32;
        for tick in [0.0, 0.5, 1.0] {
            let y = bottom - height(tick * most);
            line(area, (axis, y), (left + width, y), RGBColor(225, 228, 232))?;
            text(area, &format!("{:.1}", tick * most), (axis - 5, y + 6), 11, FAINT, HPos::Right)?;
        }
        let step = f64::from(width - 26) / values.len().max(1) as f64;
        let bar = ((step * 0.72) as i32).clamp(1, 46);
        // Labels only where they do not run into each other.
        let every = (24.0 / step).ceil().max(1.0) as usize;
        for (h, value) in values.iter().enumerate() {
            let middle = axis + (step * (h as f64 + 0.5)) as i32;
            let sink = n == 1 && *value > findings.epsilon;
            let colour = if sink { ACCENT } else { RGBColor(68, 114, 168) };
            let high = height(*value).max(1);
            block(area, (middle - bar / 2, bottom - high), (bar, high), colour)?;
            if h % every == 0 {
                text(area, &labels[h], (middle, bottom - high - 2), 11, INK, HPos::Center)?;
                text(area, &h.to_string(), (middle, bottom + 16), 11, FAINT, HPos::Center)?;
            }
        }
        if n == 1 {
            let y = bottom - height(findings.epsilon);
            line(area, (axis, y), (left + width, y), ACCENT)?;
            text(area, &format!("sink above {}", findings.epsilon), (left + width, 108), 11, ACCENT, HPos::Right)?;
        }
        line(area, (axis, bottom), (left + width, bottom), FAINT)?;
        text(area, "head", (left + width, bottom + 30), 11, FAINT, HPos::Right)?;
    }
    Ok(())
}

/// Keys a column of a map.
fn bin(keys: usize) -> usize {
    keys.div_ceil(MOST_COLUMNS).max(1)
}

fn draw_map(area: &Area, findings: &Findings, map: &Map, (x, y): (i32, i32), row: i32, most: f64) -> Drawn {
    let (bin, keys) = (bin(findings.keys), findings.keys);
    let columns = keys.div_ceil(bin);
    let edge = |c: usize| x + (f64::from(MAP_WIDTH) * c as f64 / columns as f64).round() as i32;
    let head = &findings.heads[map.head];
    text(area, &format!("head {}", map.head), (x, y - 6), 13, INK, HPos::Left)?;
    let note = format!("entropy {:.2} · sink {} ({:.2})", head.entropy, head.sink.0, head.sink.1);
    text(area, &note, (x + MAP_WIDTH, y - 6), 11, FAINT, HPos::Right)?;
    let height = row * findings.rows.len() as i32;
    for (r, weights) in map.weights.iter().enumerate() {
        for (c, keys) in weights.chunks(bin).enumerate() {
            let seen = keys.iter().flatten().fold(None, |m: Option<f64>, x| Some(m.map_or(*x, |m| m.max(*x))));
            let colour = seen.map_or(HIDDEN, |p| shade(p / most));
            block(area, (edge(c), y + r as i32 * row), (edge(c + 1) - edge(c), row), colour)?;
        }
    }
    area.draw(&Rectangle::new([(x, y), (x + MAP_WIDTH, y + height)], FAINT.stroke_width(1)))?;
    if let Some((start, end)) = findings.needle {
        let (from, to) = (edge(start / bin), edge(end.div_ceil(bin).min(columns)));
        area.draw(&Rectangle::new([(from, y - 1), (to, y + height + 1)], ACCENT.stroke_width(2)))?;
    }
    // Row labels where there is room.
    let every = (13 / row.max(1) + 1).max(1) as usize;
    for (r, query) in findings.rows.iter().enumerate().filter(|(r, _)| row >= 13 || r % every == 0) {
        text(area, &query.to_string(), (x - 5, y + r as i32 * row + row / 2 + 6), 10, FAINT, HPos::Right)?;
    }
    let middle = |key: usize| (edge(key / bin) + edge(key / bin + 1)) / 2;
    for key in [0, keys / 2, keys - 1].iter().take(keys.min(3)) {
        let anchor = if *key == 0 {
            HPos::Left
        } else if *key + 1 == keys {
            HPos::Right
        } else {
            HPos::Center
        };
        let at = match anchor {
            HPos::Left => x,
            HPos::Right => x + MAP_WIDTH,
            HPos::Center => middle(*key),
        };
        text(area, &key.to_string(), (at, y + height + 23), 10, FAINT, anchor)?;
    }
    if head.sink.1 > findings.epsilon {
        let (at, base) = (middle(head.sink.0), y + height + 2);
        area.draw(&Polygon::new(vec![(at, base), (at - 5, base + 8), (at + 5, base + 8)], ACCENT.filled()))?;
    }
    Ok(())
}

/// White to dark blue, by the root: weights are mostly small.
fn shade(share: f64) -> RGBColor {
    let stops = [(255.0, 255.0, 255.0), (158.0, 202.0, 225.0), (49.0, 113.0, 181.0), (8.0, 29.0, 88.0)];
    let place = share.clamp(0.0, 1.0).sqrt() * 3.0;
    let n = (place as usize).min(2);
    let t = place - n as f64;
    let mix = |a: f64, b: f64| (a + (b - a) * t).round() as u8;
    let (a, b) = (stops[n], stops[n + 1]);
    RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// What rows, columns, colours and marks mean.
fn legend(area: &Area, findings: &Findings, top: i32, bottom: i32, most: f64) -> Drawn {
    let heading = "attention weights of the shown rows: one line a query (index at the left), one column a key";
    text(area, heading, (MARGIN, top), 14, INK, HPos::Left)?;
    let steps = 120;
    for n in 0..steps {
        block(area, (MARGIN + n * 2, bottom), (2, 12), shade(f64::from(n) / f64::from(steps - 1)))?;
    }
    area.draw(&Rectangle::new([(MARGIN, bottom), (MARGIN + 2 * steps, bottom + 12)], FAINT.stroke_width(1)))?;
    for (share, anchor) in [(0.0, HPos::Left), (0.5, HPos::Center), (1.0, HPos::Right)] {
        let at = MARGIN + (f64::from(2 * steps) * share) as i32;
        text(area, &format!("{:.3}", most * share), (at, bottom + 28), 11, FAINT, anchor)?;
    }
    let mut x = MARGIN + 2 * steps + 30;
    block(area, (x, bottom), (16, 12), HIDDEN)?;
    text(area, "not allowed", (x + 22, bottom + 13), 12, INK, HPos::Left)?;
    x += 120;
    area.draw(&Polygon::new(vec![(x + 6, bottom + 1), (x, bottom + 11), (x + 12, bottom + 11)], ACCENT.filled()))?;
    text(area, &format!("sink: mean weight above {}", findings.epsilon), (x + 18, bottom + 13), 12, INK, HPos::Left)?;
    x += 210;
    if findings.needle.is_some() {
        area.draw(&Rectangle::new([(x, bottom), (x + 14, bottom + 12)], ACCENT.stroke_width(2)))?;
        text(area, "needle", (x + 22, bottom + 13), 12, INK, HPos::Left)?;
        x += 90;
    }
    let bin = bin(findings.keys);
    if bin > 1 {
        text(area, &format!("a column is the largest of {bin} keys"), (x, bottom + 13), 12, INK, HPos::Left)?;
    }
    Ok(())
}
