//! Chores of this repository that cargo has no command for. `cargo xtask` alone lists them.

mod adapters;
mod browser;
mod coop;
mod server;
mod suite;
mod wasm;
mod web_test;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  web-test [FILTER]          build the browser tests, run them in headless Chromium
  web-test --serve [FILTER]  the same in a browser of your choice: prints the address to open
  test [CARGO ARGUMENTS]     cargo test, as many test programs at a time as there are processors; not the documentation's
  coop-test                  the cooperative-matrix tests on the lavapipe of Debian trixie-backports (Mesa 26), in a folder
                             made by debootstrap: needs root
  wasm-clippy                clippy for wasm32, warnings denied
  wasm-toolchain             print which toolchain builds for wasm32; exit status 1 if there is none
  adapters-env               print shell lines that show lavapipe and SwiftShader, and only these, to Vulkan programs";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["web-test", "--serve"] => web_test::serve(""),
        ["web-test", "--serve", filter] => web_test::serve(filter),
        ["web-test"] => web_test::headless(""),
        ["web-test", filter] if !filter.starts_with('-') => web_test::headless(filter),
        ["wasm-clippy"] => wasm::clippy(),
        ["wasm-toolchain"] => wasm::print_toolchain(),
        ["test", ref more @ ..] => suite::test(more),
        ["coop-test"] => coop::test(),
        ["adapters-env"] => adapters::print_environment(),
        _ => bail!("{USAGE}"),
    }
}

/// The repository's top directory.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository")
}

/// Cargo's target directory.
fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
