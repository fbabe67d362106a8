//! The picture as a file: SVG as it is, PNG by drawing the same SVG, HTML with the SVG and the table.

use super::gather::Findings;
use crate::failure::Failure;
use resvg::{tiny_skia, usvg};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// By the ending of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Svg,
    Png,
    Html,
}

/// Pixels a unit of the drawing.
const SCALE: f32 = 2.0;

impl Format {
    /// From a file name.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        match path.extension().and_then(|e| e.to_str()).map(str::to_lowercase).as_deref() {
            Some("svg") => Ok(Format::Svg),
            Some("png") => Ok(Format::Png),
            Some("html" | "htm") => Ok(Format::Html),
            _ => Err(Failure::input(format!("{}: the ending is none of .svg, .png, .html", path.display()))),
        }
    }
}

/// The bytes of the file.
pub fn render(format: Format, svg: &str, findings: &Findings) -> Result<Vec<u8>, Failure> {
    match format {
        Format::Svg => Ok(svg.as_bytes().to_vec()),
        Format::Png => png(svg),
        Format::Html => Ok(html(svg, findings).into_bytes()),
    }
}

fn png(svg: &str) -> Result<Vec<u8>, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::input(format!("the drawing as PNG: {e}"));
    // The font is built in: a picture must not depend on what the machine has.
    let mut options = usvg::Options::default();
    options.fontdb_mut().load_font_source(usvg::fontdb::Source::Binary(Arc::new(epaint_default_fonts::UBUNTU_LIGHT)));
    let family = options.fontdb.faces().next().map(|face| face.families[0].0.clone());
    options.fontdb_mut().set_sans_serif_family(family.unwrap_or_default());
    let tree = usvg::Tree::from_str(svg, &options).map_err(|e| failed(&e))?;
    let size = tree.size().to_int_size().scale_by(SCALE).ok_or_else(|| failed(&"no size"))?;
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height()).ok_or_else(|| failed(&"no memory"))?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|e| failed(&e))
}

fn html(svg: &str, findings: &Findings) -> String {
    let mut rows = String::new();
    for (h, head) in findings.heads.iter().enumerate() {
        let found = head.found.map_or_else(|| "–".to_owned(), |x| format!("{x:.3}"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            rows,
            "<tr{}><td>{h}</td><td>{:.3}</td><td>{}</td><td>{:.3}</td><td>{found}</td></tr>",
            if head.sink.1 > findings.epsilon { " class=\"sink\"" } else { "" },
            head.entropy,
            head.sink.0,
            head.sink.1,
        );
    }
    let drawing = &svg[svg.find("<svg").unwrap_or(0)..];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n\
         <p>{sizes} · {engine}</p>\n{drawing}\n<h2>Heads</h2>\n<table>\n<tr><th>head</th><th>entropy</th><th>sink key</th>\
         <th>mean weight</th><th>{found}</th></tr>\n{rows}</table>\n{WORDS}</html>\n",
        title = escape(&findings.title),
        sizes = escape(&findings.sizes),
        engine = escape(&findings.engine),
        found = findings.found_name(),
    )
}

const STYLE: &str = "body{font:15px/1.45 sans-serif;color:#222831;max-width:1180px;margin:2em auto;padding:0 1em}\
    svg{max-width:100%;height:auto}table{border-collapse:collapse}\
    th,td{padding:.25em .9em;text-align:right;border-bottom:1px solid #e1e4e8}tr.sink td{color:#c83c1e}p,dd{color:#555}";

const WORDS: &str = "<dl>\n<dt>entropy</dt><dd>mean over the rows of −Σ p ln p, divided by ln of the keys that the row may see</dd>\n\
    <dt>sink key, mean weight</dt><dd>the key with the largest mean weight of the rows that see it, among keys that a quarter of the \
    rows or more see</dd>\n<dt>retrieval score</dt><dd>generated tokens that the head copies out of the needle, over the needle's \
    length</dd>\n<dt>needle found</dt><dd>share of the shown rows whose top key lies in the needle</dd>\n</dl>\n";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
