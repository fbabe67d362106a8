//! The command line: what this machine has, what the catalogue offers, plans, runs, verification, pictures, measurement.

mod adapters;
mod bench;
mod diagnose;
mod engines;
mod explain;
mod failure;
mod hooks;
mod list;
mod out;
mod plan;
mod progress;
mod run;
mod table;
mod verify;

use clap::{Parser, Subcommand};
use failure::{Failure, Outcome};
use std::process::ExitCode;
use wgpu_attention::Value;

/// Attention on any GPU through WebGPU, or on the CPU.
#[derive(Parser)]
#[command(name = "wgpu-attention", version, max_term_width = 110, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str =
    "Exit status: 0 done, 1 a check failed, 2 bad input, 3 unknown variant, 4 engine not available.";

#[derive(Subcommand)]
enum Command {
    /// The adapters of this machine, which one is used, and why the others are not.
    Adapters(adapters::Args),
    /// Every variant: inputs, parameters, outputs.
    List(list::Args),
    /// The plan of a variant: stages, kernels, workgroups, FLOPs and bytes.
    Plan(plan::Args),
    /// Runs a case file, or a plain safetensors file, and writes the outputs.
    Run(run::Args),
    /// Runs case files on the engines and compares with the expected results.
    Verify(verify::Args),
    /// Draws what heads look at: entropy, sink and retrieval scores, attention maps.
    Diagnose(diagnose::Args),
    /// Measures workloads.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Adapters(args) => adapters::run(&args),
        Command::List(args) => list::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Diagnose(args) => diagnose::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

/// `NAME=VALUE` of `--param`.
fn parameter(text: &str) -> Result<(String, Value), Failure> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), Value::parse(value))),
        _ => Err(Failure::input(format!("`{text}` is not NAME=VALUE"))),
    }
}
