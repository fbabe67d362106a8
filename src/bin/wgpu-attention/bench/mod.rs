//! `bench`: named workloads, checked before they are timed, beside the ceilings of the machine.

mod catalogue;
mod ceilings;
mod check;
mod compare;
mod data;
mod documents;
mod exponent;
mod measure;
mod plot;
mod report;
mod timing;
mod workload;

use crate::engines::{self, Engine, Limits};
use crate::failure::{Failure, Outcome};
use crate::out;
use crate::progress::Progress;
use crate::table::{Table, short};
use ceilings::Ceilings;
use measure::{Kind, Target};
use report::Row;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use wgpu_attention::wgpu::DeviceType;
use wgpu_attention::{Error, ErrorKind};
use workload::{Group, Workload};

/// Arguments of `bench`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Workloads (`P1`), groups (`S1` is S1@0.05, S1@0.1, ...) or beginnings (`P*`); without any, those meant for the engine.
    #[arg(value_name = "WORKLOAD")]
    workloads: Vec<String>,
    /// What is measured.
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
    /// Part of the name or driver of the adapter to measure; implies `--engine gpu`.
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Leaves what is above a tier alone: t0 is portable WebGPU (f16 as storage only, no subgroups, 16 KiB of workgroup memory), t1 has no
    /// cooperative matrices; implies `--engine gpu`.
    #[arg(long, value_enum, value_name = "TIER")]
    tier: Option<engines::TierName>,
    /// Writes the text of every kernel to a folder, and the driver's pipeline cache, which may hold machine code. Where NAME.edited.wgsl lies
    /// beside NAME.wgsl, the edited text is what is checked and timed; implies `--engine gpu`.
    #[arg(long, value_name = "FOLDER")]
    kernels: Option<PathBuf>,
    /// Compiles shaders with bounds checks, bounded loops and zeroed workgroup memory, as for kernels that are not trusted; implies
    /// `--engine gpu`.
    #[arg(long)]
    checked: bool,
    /// Times every kernel that would serve each workload first, and measures the fastest (the CPU engine has one for each).
    #[arg(long)]
    tune: bool,
    /// Seconds that the timing of one workload may take; one sample is always taken. [default: 5, on a software adapter 10, with --exponent 0.4]
    #[arg(long, value_name = "S", value_parser = seconds, allow_negative_numbers = true)]
    seconds: Option<f64>,
    /// Writes one JSON line for each workload to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Lists the workloads and measures nothing.
    #[arg(long)]
    list: bool,
    /// Measures throughput at these lengths (`1024,4096,16384`) instead and draws it.
    #[arg(long, num_args = 2, value_names = ["FILE.svg", "LENGTHS"], conflicts_with = "workloads")]
    plot: Option<Vec<String>>,
    /// Measures linear attention from 8192 to 262144 tokens (on a CPU 1024 to 32768) instead, with the exponent of its time in the length, and
    /// the length from which on it is faster than dense attention.
    #[arg(long, conflicts_with_all = ["workloads", "plot"])]
    exponent: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Ratios of measured rows: ours against those of peers (or of another run of ours).
    Compare(compare::Args),
}

fn seconds(text: &str) -> Result<f64, Failure> {
    match text.parse::<f64>() {
        Ok(s) if s.is_finite() && s > 0.0 => Ok(s),
        _ => Err(Failure::input(format!("`{text}` is not a number of seconds above 0"))),
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    if let Some(Command::Compare(args)) = &args.command {
        return compare::run(args);
    }
    let all = catalogue::all()?;
    if args.list {
        list(&all);
        return Ok(Outcome::Done);
    }
    // Names and files first: a mistake must not cost the minutes before it is found.
    let mut chosen: Vec<&Workload> = Vec::new();
    for name in &args.workloads {
        let found = catalogue::named(&all, name);
        if found.is_empty() {
            return Err(Failure::input(format!("no workload is called `{name}`; `bench --list` shows them")));
        }
        chosen.extend(found.into_iter().filter(|w| chosen.iter().all(|c| c.id != w.id)).collect::<Vec<_>>());
    }
    let plot = args.plot.as_deref().map(plot::Request::parse).transpose()?;
    let mut json = args.json.as_deref().map(Log::create).transpose()?;
    let target = open(args)?;
    let curves = match &plot {
        Some(request) => Some(request.workloads(target.kind)?),
        None if args.exponent => Some(exponent::workloads(target.kind)?),
        None => None,
    };
    if let Some(curves) = &curves {
        chosen = curves.iter().collect();
    } else if chosen.is_empty() {
        chosen = all.iter().filter(|w| w.group == target.kind.group()).collect();
    }
    let (rows, outcome) = measure_all(&target, &chosen, json.as_mut())?;
    if args.kernels.is_some() {
        target.runtime.save_pipelines()?;
    }
    if let Some(growth) = exponent::Growth::new(&rows, target.kind).filter(|_| args.exponent) {
        out::line("");
        growth.lines().iter().for_each(out::line);
        json.as_mut().map_or(Ok(()), |log| log.write(&growth.json(&target.name)))?;
    }
    if let Some(request) = &plot {
        request.draw(&rows, &target.name)?;
        out::line(format!("drawn: {}", request.file.display()));
    }
    Ok(outcome)
}

/// A file of JSON lines.
struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|e| Failure::file(path, &e))?;
        Ok(Log { path: path.to_owned(), file })
    }

    fn write(&mut self, line: &serde_json::Value) -> Result<(), Failure> {
        writeln!(self.file, "{line}").map_err(|e| Failure::file(&self.path, &e))
    }
}

fn open(args: &Args) -> Result<Target, Failure> {
    let limits = Limits { tier: args.tier, kernels: args.kernels.as_deref(), checked: args.checked };
    let runtime = engines::open_at(args.engine, args.adapter.as_deref(), &limits)?;
    let kind = match runtime.engine() {
        wgpu_attention::Engine::Cpu(_) => Kind::Cpu,
        wgpu_attention::Engine::Gpu(engine) if engine.device().0.adapter_info().device_type == DeviceType::Cpu => {
            Kind::Software
        }
        wgpu_attention::Engine::Gpu(_) => Kind::Gpu,
    };
    let usual = match kind {
        _ if args.exponent => exponent::SECONDS,
        Kind::Software => 10.0,
        _ => 5.0,
    };
    let seconds = args.seconds.unwrap_or(usual);
    let clock = match runtime.engine() {
        wgpu_attention::Engine::Gpu(engine) if kind == Kind::Gpu && runtime.caps().timestamps => {
            Some(ceilings::Clock::new(engine)?)
        }
        _ => None,
    };
    let name = runtime.describe() + if args.checked { ", bounds checks on" } else { "" };
    Ok(Target { name, runtime, kind, clock, checked: args.checked, tune: args.tune, seconds })
}

fn ceilings(target: &Target) -> Result<Ceilings, Failure> {
    Ok(match target.runtime.engine() {
        wgpu_attention::Engine::Gpu(engine) => ceilings::of_gpu(engine, target.kind == Kind::Software)?,
        wgpu_attention::Engine::Cpu(_) => ceilings::of_cpu(),
    })
}

fn head(target: &Target, ceilings: &Ceilings) {
    out::line(&target.name);
    out::line(format!("ceilings measured now: {ceilings}"));
    if target.kind != Kind::Cpu {
        out::line(format!("bounds checks of shaders: {}", if target.checked { "on" } else { "off" }));
    }
    out::line("");
}

/// Fractions of a ceiling mean little when other work came and went on the machine.
fn was_quiet(target: &Target, before: &Ceilings) -> Result<(), Failure> {
    let after = ceilings(target)?;
    let changed = |a: f64, b: f64| (a / b - 1.0).abs() > 0.1;
    if changed(after.fma, before.fma) || changed(after.copy, before.copy) {
        out::line("");
        out::line(format!("ceilings measured again: {after}"));
        out::line(
            "They differ by more than 10 %: other work was going on, and the figures above are no better than that.",
        );
    }
    Ok(())
}

/// Measures workloads one after the other; rows are printed as they come.
fn measure_all(
    target: &Target,
    workloads: &[&Workload],
    mut json: Option<&mut Log>,
) -> Result<(Vec<Row>, Outcome), Failure> {
    let ceilings = ceilings(target)?;
    head(target, &ceilings);
    let layout = report::Layout::new(workloads, &ceilings);
    let mut progress = Progress::new(workloads.len());
    out::line(layout.header());
    let mut rows = Vec::new();
    let mut outcome = Outcome::Done;
    for workload in workloads {
        if out::closed() && json.is_none() {
            break;
        }
        progress.show(&workload.id);
        let line = match measure::measure(target, workload) {
            Ok(mut row) => {
                row.over_ideal = over_ideal(&rows, &row);
                if !row.checked.passed() {
                    outcome = Outcome::Failed;
                }
                progress.line(&layout.row(&row, &ceilings, timing::SAMPLES));
                report::tuned(&row).iter().for_each(|line| progress.line(line));
                let line = report::json(&row, &target.name, &ceilings);
                rows.push(row);
                line
            }
            Err(error) if error.kind() == ErrorKind::DeviceLost => return Err(error.into()),
            Err(error) => {
                if !refusal(&error) {
                    outcome = Outcome::Failed;
                }
                progress.line(&layout.refused(workload, &error));
                report::refused(workload, &target.name, &error)
            }
        };
        if let Some(log) = &mut json {
            log.write(&line)?;
        }
        target.runtime.trim();
        progress.step();
    }
    drop(progress);
    against_dense(&rows);
    was_quiet(target, &ceilings)?;
    Ok((rows, outcome))
}

/// Whether an engine may decline a workload so: it is too large, or not offered.
fn refusal(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Limit | ErrorKind::OutOfMemory | ErrorKind::Unsupported | ErrorKind::UnknownVariant
    )
}

/// The time of a row over that of its ideal, where that was measured before it.
fn over_ideal(rows: &[Row], row: &Row) -> Option<f64> {
    let ideal = rows.iter().find(|r| Some(r.workload.id.as_str()) == row.workload.ideal)?;
    Some(row.timed.as_ref()?.median() / ideal.timed.as_ref()?.median())
}

/// Ratios over our own dense kernel, with its speed beside them: a slow dense kernel flatters.
fn against_dense(rows: &[Row]) {
    let median = |row: &Row| row.timed.as_ref().map(timing::Timed::median);
    let mut table = Table::new(&["workload", ">speed over dense", "dense", ">GFLOP/s"]);
    let mut any = false;
    for row in rows {
        let dense = rows.iter().find(|d| Some(d.workload.id.as_str()) == row.workload.dense);
        if let Some((dense, ours, theirs)) = dense.and_then(|d| Some((d, median(row)?, median(d)?))) {
            let cells = [
                row.workload.id.clone(),
                format!("{}x", short(theirs / ours)),
                dense.workload.id.clone(),
                short(dense.gflops(theirs)),
            ];
            table.row(cells);
            any = true;
        }
    }
    if any {
        out::line("");
        table.lines(0).iter().for_each(out::line);
    }
}

fn list(all: &[Workload]) {
    let mut table = Table::new(&["workload", "B,H,Hk,L,D", "variant", ">GFLOP", ">MB in", "measured on"]);
    for w in all {
        let group = match w.group {
            Group::Gpu => "GPU",
            Group::Cpu => "CPU",
            Group::Software => "software adapter",
            Group::Named => "when named",
        };
        let (gflop, mb) = (short(w.job.flops / 1e9), short(w.job.bytes() as f64 / 1e6));
        table.row([w.id.clone(), w.shape.clone(), w.job.variant.to_owned(), gflop, mb, group.to_owned()]);
    }
    table.lines(0).iter().for_each(out::line);
}
