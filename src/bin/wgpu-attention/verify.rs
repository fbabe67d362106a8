//! `verify`: case files through the engines, beside what must come out.

use crate::engines;
use crate::failure::{Failure, Outcome};
use crate::out;
use crate::progress::Progress;
use crate::table::{aligned, one_line};
use std::path::{Path, PathBuf};
use wgpu_attention::case::{Case, Comparison};
use wgpu_attention::gpu::GpuOptions;
use wgpu_attention::{Engine, ErrorKind, Runtime};

/// Arguments of `verify`.
#[derive(clap::Args)]
pub struct Args {
    /// Case files, or folders of them.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// `all` (the CPU and every adapter, software ones too), `cpu`, `gpu` (the best real one) or part of an adapter's name.
    #[arg(long, default_value = "all")]
    engine: String,
    /// Part of the name or driver of the one adapter to use.
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    let files = files(&args.paths)?;
    let engines = open(args)?;
    for (name, runtime) in &engines {
        eprintln!("{name}: {runtime}");
    }
    let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
    let widest = |texts: &[String]| texts.iter().map(|t| t.chars().count()).max().unwrap_or(0);
    let engine_names: Vec<String> = engines.iter().map(|(name, _)| name.clone()).collect();
    let widths = [widest(&names), widest(&engine_names).max(7), 7, 0];
    let line = |progress: &Progress, cells: [&str; 4]| {
        progress.line(&aligned(&cells.map(str::to_owned), &widths, &[false; 4]));
    };
    let mut progress = Progress::new(files.len() * engines.len());
    let (mut passed, mut failed, mut unknown) = (0, 0, 0);
    for (name, path) in &files {
        let case = match std::fs::read(path)
            .map_err(|e| e.to_string())
            .and_then(|b| Case::parse(&b, None).map_err(|e| e.to_string()))
        {
            Ok(case) => case,
            Err(error) => {
                failed += 1;
                line(&progress, [name, "-", "failed", &one_line(&error)]);
                continue;
            }
        };
        if case.make(&[]).is_err_and(|e| e.kind() == ErrorKind::UnknownVariant) {
            unknown += 1;
            line(&progress, [name, "-", "unknown", &format!("no variant is called `{}`", case.variant)]);
            continue;
        }
        for (engine, runtime) in &engines {
            progress.show(&format!("{name} on {engine}"));
            let (good, text) = one(&case, runtime);
            line(&progress, [name, engine, if good { "passed" } else { "failed" }, &text]);
            *(if good { &mut passed } else { &mut failed }) += 1;
            progress.step();
        }
    }
    drop(progress);
    let others = if unknown > 0 { format!(", {unknown} of unknown variants") } else { String::new() };
    out::line(format!("{passed} passed, {failed} failed{others}"));
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Failed })
}

fn one(case: &Case, runtime: &Runtime) -> (bool, String) {
    if case.expected.is_empty() {
        return (false, "the file has no expected result".into());
    }
    match pollster::block_on(case.run(runtime)) {
        Err(error) => (false, one_line(&Failure::from(error).to_string())),
        Ok(outputs) => {
            let list = case.compare(&outputs);
            (list.iter().all(Comparison::passed), list.iter().map(text).collect::<Vec<_>>().join("  "))
        }
    }
}

fn text(c: &Comparison) -> String {
    let mark = if c.passed() { "" } else { " (!)" };
    match (c.allowed == 0.0, c.error) {
        (true, 0.0) => format!("{} equal", c.output),
        (true, _) => format!("{} differs{mark}", c.output),
        (false, error) if error.is_finite() => format!("{} {error:.1e} of {:.0e}{mark}", c.output, c.allowed),
        (false, _) => format!("{} has another shape, NaN or infinity{mark}", c.output),
    }
}

/// Files as they are named in the output (below the folder given) and where they are.
fn files(paths: &[PathBuf]) -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut list = Vec::new();
    for path in paths {
        let meta = std::fs::metadata(path).map_err(|e| Failure::file(path, &e))?;
        if !meta.is_dir() {
            list.push((path.display().to_string(), path.clone()));
            continue;
        }
        let mut found = Vec::new();
        collect(path, &mut found)?;
        found.sort();
        if found.is_empty() {
            return Err(Failure::input(format!("{}: no case file (.safetensors) is in this folder", path.display())));
        }
        list.extend(found.into_iter().map(|p| (p.strip_prefix(path).unwrap_or(&p).display().to_string(), p)));
    }
    Ok(list)
}

fn collect(folder: &Path, list: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let entries = std::fs::read_dir(folder).map_err(|e| Failure::file(folder, &e))?;
    for entry in entries {
        let path = entry.map_err(|e| Failure::file(folder, &e))?.path();
        if path.is_dir() {
            collect(&path, list)?;
        } else if path.extension().is_some_and(|e| e == "safetensors") {
            list.push(path);
        }
    }
    Ok(())
}

fn open(args: &Args) -> Result<Vec<(String, Runtime)>, Failure> {
    let by_name = |adapter: Option<String>| -> Result<(String, Runtime), Failure> {
        // Poisoned: a result that was never written must not pass because it happened to be there.
        let options = GpuOptions { adapter, poison: true, ..Default::default() };
        let runtime = engines::gpu(&options)?;
        let name = match runtime.engine() {
            Engine::Gpu(engine) => engines::short_name(&engine.device().0.adapter_info()),
            Engine::Cpu(_) => "cpu".into(),
        };
        Ok((name, runtime))
    };
    let cpu = || ("cpu".to_owned(), Runtime::cpu());
    match (args.engine.as_str(), &args.adapter) {
        ("cpu", Some(_)) => {
            Err(Failure::input("--adapter names a GPU adapter and --engine is cpu: give one of the two"))
        }
        (_, Some(adapter)) => Ok(vec![by_name(Some(adapter.clone()))?]),
        ("cpu", None) => Ok(vec![cpu()]),
        ("gpu", None) => Ok(vec![by_name(None)?]),
        ("all", None) => {
            let mut list = vec![cpu()];
            for report in engines::all_adapters() {
                match by_name(Some(report.info.name.clone())) {
                    Ok(opened) => list.push(opened),
                    Err(failure) => eprintln!("left out: {}: {failure}", report.info.name),
                }
            }
            Ok(list)
        }
        (name, None) => Ok(vec![by_name(Some(name.to_owned()))?]),
    }
}
