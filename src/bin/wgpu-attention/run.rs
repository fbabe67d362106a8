//! `run`: one case file in, one result file out.

use crate::engines::{self, Engine};
use crate::failure::{Failure, Outcome};
use crate::{out, parameter};
use std::collections::BTreeMap;
use std::path::PathBuf;
use wgpu_attention::Value;
use wgpu_attention::case::{self, Case};

/// Arguments of `run`.
#[derive(clap::Args)]
pub struct Args {
    /// A safetensors file with the inputs under their argument names. A case file names its variant and parameters too.
    case: PathBuf,
    /// Where the outputs go, a safetensors file.
    #[arg(long, value_name = "RESULT")]
    out: PathBuf,
    /// What runs it.
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
    /// Part of the name or driver of the adapter to use; implies `--engine gpu`.
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// The variant, instead of the one that the file names.
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// A parameter, instead of the file's; may be repeated.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    params: Vec<(String, Value)>,
    #[command(flatten)]
    hooks: crate::hooks::HookArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    let bytes = std::fs::read(&args.case).map_err(|e| Failure::file(&args.case, &e))?;
    let case = Case::parse(&bytes, args.variant.as_deref())?;
    // Before the engine is opened: a wrong name needs no device to be found.
    let variant = args.hooks.apply(case.make(&args.params)?)?;
    let runtime = engines::open(args.engine, args.adapter.as_deref())?;
    let outputs = runtime.call_blocking(&variant, &case.call_inputs())?;
    let metadata = BTreeMap::from([
        ("variant".to_owned(), case.variant.clone()),
        ("engine".to_owned(), runtime.describe()),
        ("crate".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    let file = case::write(outputs.iter(), metadata)?;
    std::fs::write(&args.out, file).map_err(|e| Failure::file(&args.out, &e))?;
    let list: Vec<_> = outputs.iter().map(|(name, t)| format!("{name} {} {:?}", t.dtype().name(), t.shape())).collect();
    out::line(format!("{}: {}", args.out.display(), list.join(", ")));
    Ok(Outcome::Done)
}
