//! `diagnose`: what the heads of one call look at, as a picture and a table.

mod gather;
mod picture;
mod report;

use crate::engines::{self, Engine};
use crate::failure::{Failure, Outcome};
use crate::out;
use crate::table::Table;
use gather::{Findings, Request};
use std::path::PathBuf;
use wgpu_attention::case::Case;

/// Arguments of `diagnose`.
#[derive(clap::Args)]
pub struct Args {
    /// A safetensors file with `q` and `k`, or with attention `weights` (B, H, Lq, Lk), (layers, B, H, L, L) or, for decode steps, (T, H, Lk).
    /// Case files of most variants will do; their scale, mask and causality count, other options do not.
    case: PathBuf,
    /// Where the picture goes, by its ending: .svg, .png or .html (picture and table).
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Query rows of the maps, `0,5,31`; default: up to 24, evenly spaced, the last one included.
    #[arg(long, value_delimiter = ',', value_name = "ROWS")]
    rows: Vec<usize>,
    /// Heads of the maps; default: the first 16. The bars show all heads.
    #[arg(long, value_delimiter = ',', value_name = "HEADS")]
    heads: Vec<usize>,
    /// The batch entry.
    #[arg(long, default_value_t = 0)]
    batch: usize,
    /// The layer of `weights` that have one; default: the last.
    #[arg(long)]
    layer: Option<usize>,
    /// Query i sees keys up to i + Lk − Lq, whatever the file's parameters say.
    #[arg(long)]
    causal: bool,
    /// A mean weight above which a token is a head's sink.
    #[arg(long, default_value_t = 0.3)]
    epsilon: f64,
    /// Keys START..END that hold what the rows should find; with `context_ids` and `generated_ids` in the file, the needle of the
    /// retrieval score.
    #[arg(long, value_name = "START..END", value_parser = needle)]
    needle: Option<(usize, usize)>,
    /// What computes.
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
    /// Part of the name or driver of the adapter to use; implies `--engine gpu`.
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
}

fn needle(text: &str) -> Result<(usize, usize), Failure> {
    let bad = || Failure::input(format!("`{text}` is not START..END with START < END"));
    let (start, end) = text.split_once("..").ok_or_else(bad)?;
    match (start.trim().parse(), end.trim().parse()) {
        (Ok(start), Ok(end)) if start < end => Ok((start, end)),
        _ => Err(bad()),
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    // Before anything is computed: a wrong ending needs no result to be found.
    let format = report::Format::of(&args.out)?;
    let bytes = std::fs::read(&args.case).map_err(|e| Failure::file(&args.case, &e))?;
    // The variant is only named for its parameters; a plain file has none.
    let case = Case::parse(&bytes, None).or_else(|_| Case::parse(&bytes, Some("dense-attention")))?;
    let request = Request {
        rows: args.rows.clone(),
        heads: args.heads.clone(),
        batch: args.batch,
        layer: args.layer,
        causal: args.causal,
        epsilon: args.epsilon,
        needle: args.needle,
    };
    let runtime = engines::open(args.engine, args.adapter.as_deref())?;
    let name = args.case.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut findings = gather::gather(&case, &request, &runtime)?;
    findings.title = if case.variant.is_empty() { name } else { format!("{} ({name})", case.variant) };
    let svg = picture::draw(&findings).map_err(|e| Failure::input(format!("{}: {e}", args.out.display())))?;
    let file = report::render(format, &svg, &findings)?;
    std::fs::write(&args.out, file).map_err(|e| Failure::file(&args.out, &e))?;
    out::line(table(&findings));
    out::line(args.out.display().to_string());
    Ok(Outcome::Done)
}

fn table(findings: &Findings) -> String {
    let mut table = Table::new(&[">head", ">entropy", ">sink", ">mean weight", &format!(">{}", findings.found_name())]);
    for (h, head) in findings.heads.iter().enumerate() {
        table.row([
            h.to_string(),
            format!("{:.3}", head.entropy),
            head.sink.0.to_string(),
            format!("{:.3}", head.sink.1),
            head.found.map_or_else(|| "-".into(), |x| format!("{x:.3}")),
        ]);
    }
    table.lines(0).join("\n")
}
