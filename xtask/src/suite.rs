//! Test binaries side by side: most of their time a software adapter compiles shaders, on one thread a program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::root;

/// Those that take longest start first, so that none of them is left for the end.
const FIRST: [&str; 6] = ["golden", "operators", "conformance", "streams", "searches", "scan_chunks_channel"];

/// Builds the tests of the package, runs them (`cargo test` with the same meaning, but not the documentation's), as many programs at a time as
/// there are processors.
pub fn test(arguments: &[&str]) -> Result<()> {
    run(&binaries(arguments)?, |test| Command::new(test).current_dir(root()).output().context("a test program"))
}

/// Builds tests and tells where they are; `arguments` are cargo's.
pub fn binaries(arguments: &[&str]) -> Result<Vec<PathBuf>> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args(["test", "--no-run", "--message-format=json"]).args(arguments);
    let output = command.stderr(Stdio::inherit()).output().context("cargo test --no-run")?;
    if !output.status.success() {
        bail!("the tests did not build");
    }
    let messages = String::from_utf8(output.stdout)?;
    // Examples are built too; tests are what was compiled as a test.
    let path = |line: &str| {
        let profile = line.split_once("\"profile\":{")?.1.split_once('}')?.0;
        let executable = line.split_once("\"executable\":\"")?.1.split_once('"')?.0;
        profile.contains("\"test\":true").then(|| PathBuf::from(executable))
    };
    let mut tests: Vec<PathBuf> = messages.lines().filter_map(path).collect();
    let rank = |test: &PathBuf| {
        let name = test.file_name().unwrap_or_default().to_string_lossy().into_owned();
        FIRST
            .iter()
            .position(|first| name.rsplit_once('-').is_some_and(|(name, _)| name == *first))
            .unwrap_or(FIRST.len())
    };
    if tests.is_empty() {
        bail!("cargo named no test program");
    }
    tests.sort_by_key(rank);
    Ok(tests)
}

/// Runs all of them, whatever fails; each one's output appears whole when it ends.
pub fn run(tests: &[PathBuf], one: impl Fn(&Path) -> Result<Output> + Sync) -> Result<()> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(test) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = test.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let start = Instant::now();
            let (text, passed) = match one(test) {
                Ok(o) => {
                    let text = [&o.stdout[..], &o.stderr[..]].concat();
                    (String::from_utf8_lossy(&text).into_owned(), o.status.success())
                }
                Err(error) => (format!("{error:#}\n"), false),
            };
            // Under the lock, so that two programs' lines do not mix.
            let mut failed = failed.lock().expect("no worker panics");
            println!(
                "--- {name}: {} in {} s\n{text}",
                if passed { "passed" } else { "FAILED" },
                start.elapsed().as_secs()
            );
            if !passed {
                failed.push(name);
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, |n| n.get()).min(tests.len());
    thread::scope(|scope| (0..workers).for_each(|_| _ = scope.spawn(work)));
    let failed = failed.into_inner()?;
    if !failed.is_empty() {
        bail!("{} of {} test programs failed: {}", failed.len(), tests.len(), failed.join(", "));
    }
    Ok(())
}
