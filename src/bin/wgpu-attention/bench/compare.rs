//! `bench compare`: ratios of two files of JSON lines.

use crate::failure::{Failure, Outcome};
use crate::out;
use crate::table::{Table, short};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Arguments of `bench compare`.
#[derive(clap::Args)]
pub struct Args {
    /// JSON lines that `bench --json` wrote.
    ours: PathBuf,
    /// JSON lines of peers on the same machine (`name`, `peer`, `ms`), or of another run of ours.
    peers: PathBuf,
}

/// One measured row of either kind of file.
struct Row {
    workload: String,
    peer: String,
    ms: f64,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    let (ours, peers) = (read(&args.ours)?, read(&args.peers)?);
    let mut table = Table::new(&["workload", ">our ms", "peer", ">peer ms", ">our speed"]);
    let mut alone = Vec::new();
    let mut pairs = 0;
    for row in &ours {
        let found: Vec<&Row> = peers.iter().filter(|p| same(row, p)).collect();
        for peer in &found {
            let ratio = format!("{}x", short(peer.ms / row.ms));
            table.row([row.workload.clone(), short(row.ms), peer.peer.clone(), short(peer.ms), ratio]);
        }
        pairs += found.len();
        if found.is_empty() {
            alone.push(row.workload.as_str());
        }
    }
    if pairs > 0 {
        table.lines(0).iter().for_each(out::line);
        out::line("");
        out::line("our speed: their milliseconds over ours, above 1 where ours is faster");
    }
    if !alone.is_empty() {
        out::line(format!("no peer for: {}", alone.join(", ")));
    }
    if pairs == 0 {
        return Err(Failure::input(format!("{} has no workload of {}", args.peers.display(), args.ours.display())));
    }
    Ok(Outcome::Done)
}

/// Peers name a group (`L1`) and their operator (`fla_retention`), we name both in one (`L1-retention`).
fn same(ours: &Row, peer: &Row) -> bool {
    if ours.workload == peer.workload {
        return true;
    }
    match ours.workload.split_once(['-', '@']) {
        Some((group, "dense")) => group == peer.workload && peer.peer.contains("causal"),
        Some((group, "gated-delta")) => group == peer.workload && peer.peer.contains("gdn"),
        Some((group, kind)) => group == peer.workload && peer.peer.contains(kind),
        None => false,
    }
}

fn read(path: &Path) -> Result<Vec<Row>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file(path, &e))?;
    let mut rows = Vec::new();
    for (n, line) in text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with('{')) {
        let value: Value = serde_json::from_str(line)
            .map_err(|e| Failure::input(format!("{}, line {}: {e}", path.display(), n + 1)))?;
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let ms = value.get("ms").and_then(|ms| ms.as_f64().or_else(|| ms.get("median")?.as_f64()));
        // Rows that were refused or failed have no time and so no ratio.
        if let (Some(workload), Some(ms)) = (text("workload").or_else(|| text("name")), ms) {
            let peer = text("peer").or_else(|| text("device")).unwrap_or("another run");
            rows.push(Row { workload: workload.to_owned(), peer: peer.to_owned(), ms });
        }
    }
    if rows.is_empty() {
        return Err(Failure::input(format!("{}: no measured row is in this file", path.display())));
    }
    Ok(rows)
}
