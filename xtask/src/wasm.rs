//! Building for wasm32-unknown-unknown: finding a toolchain that can, cargo commands for it, and the JS glue.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use wasm_bindgen_cli_support::Bindgen;

const TARGET: &str = "wasm32-unknown-unknown";
const TEST_CRATE: &str = "wgpu-attention-web-test";

/// How long `rustup target add` may take; behind some proxies it never ends.
const RUSTUP_LIMIT: Duration = Duration::from_secs(180);

enum Toolchain {
    /// The cargo that runs this program has the target's standard library.
    Current,
    /// Debian's packages of a newer Rust. They lack the target's standard library but have its source.
    Debian { wasm_linker: PathBuf },
}

impl Toolchain {
    /// Prefers what is installed to what must be downloaded.
    fn find() -> Result<Self> {
        if current_has_target() {
            return Ok(Self::Current);
        }
        if let Some(wasm_linker) = debian_wasm_linker() {
            return Ok(Self::Debian { wasm_linker });
        }
        if add_target_with_rustup() && current_has_target() {
            return Ok(Self::Current);
        }
        bail!(
            "no toolchain for {TARGET}: `rustup target add {TARGET}`, or on Debian \
             `apt-get install rustc-web cargo-web rust-web-src rust-web-clippy lld-19`"
        )
    }

    /// `cargo SUBCOMMAND` for the target; build outputs go to a folder of their own, so that native builds keep theirs.
    fn cargo(&self, subcommand: &str) -> Command {
        let mut command = match self {
            Self::Current => {
                let mut command = Command::new(current_cargo());
                command.arg(subcommand);
                command
            }
            Self::Debian { wasm_linker } => {
                let mut command = if subcommand == "clippy" {
                    // Asked for a subcommand, cargo looks into rustup's folder first and would take the clippy there.
                    let mut command = Command::new("/usr/bin/cargo-clippy");
                    command.arg("clippy").env("CARGO", "/usr/bin/cargo");
                    command
                } else {
                    let mut command = Command::new("/usr/bin/cargo");
                    command.arg(subcommand);
                    command
                };
                command
                    .arg("-Zbuild-std=std,panic_abort")
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", wasm_linker)
                    // Set by the other cargo for its children.
                    .env_remove("LD_LIBRARY_PATH")
                    .env_remove("RUSTUP_TOOLCHAIN");
                command
            }
        };
        command.current_dir(crate::root());
        command.args(["--target", TARGET]).arg("--target-dir").arg(target());
        command
    }
}

fn target() -> PathBuf {
    crate::target().join("wasm")
}

fn current_cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn current_has_target() -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let Ok(output) = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output() else {
        return false;
    };
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libstd-") && name.ends_with(".rlib")
        })
    })
}

/// The linker, if Debian's Rust with the standard library's source is installed too.
fn debian_wasm_linker() -> Option<PathBuf> {
    let complete = ["/usr/bin/cargo", "/usr/bin/rustc", "/usr/lib/rustlib/src/rust/library/Cargo.toml"]
        .iter()
        .all(|path| Path::new(path).exists());
    let linker = ["/usr/bin/wasm-ld-19", "/usr/bin/wasm-ld"].iter().map(PathBuf::from).find(|path| path.exists());
    linker.filter(|_| complete)
}

/// Whether rustup exists and said in time that it has added the target.
fn add_target_with_rustup() -> bool {
    let Ok(mut child) = Command::new("rustup").args(["target", "add", TARGET]).stdin(Stdio::null()).spawn() else {
        return false;
    };
    let deadline = Instant::now() + RUSTUP_LIMIT;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => thread::sleep(Duration::from_millis(100)),
            Err(_) => break,
        }
    }
    eprintln!("rustup has not added {TARGET} within {} s", RUSTUP_LIMIT.as_secs());
    let _ = child.kill();
    let _ = child.wait();
    false
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{:?} failed for {TARGET}: {status}", command.get_program());
    }
    Ok(())
}

/// Says which toolchain the other commands would use.
pub fn print_toolchain() -> Result<()> {
    match Toolchain::find()? {
        Toolchain::Current => println!("the current toolchain"),
        Toolchain::Debian { .. } => println!("Debian's rustc-web, building the standard library from source"),
    }
    Ok(())
}

/// Clippy on what runs in a browser: the library, with and without case files, and its tests.
pub fn clippy() -> Result<()> {
    let toolchain = Toolchain::find()?;
    for packages in [&["-p", "wgpu-attention", "--lib"][..], &["-p", TEST_CRATE, "-p", "wgpu-attention", "--lib"]] {
        // The release profile, because the browser tests are built with it: macros and build scripts are made once.
        succeed(toolchain.cargo("clippy").arg("--release").args(packages).args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// Builds the crate of browser tests and returns the folder with `web_test.js` and `web_test_bg.wasm`.
pub fn build_tests() -> Result<PathBuf> {
    succeed(Toolchain::find()?.cargo("build").args(["--release", "-p", TEST_CRATE]))?;
    let module = target().join(TARGET).join("release").join(TEST_CRATE.replace('-', "_")).with_extension("wasm");
    let folder = target().join("web-test");
    Bindgen::new()
        .input_path(&module)
        .out_name("web_test")
        .web(true)?
        // The glue then knows the name of the wasm file beside it.
        .omit_default_module_path(false)
        .generate(&folder)
        .with_context(|| format!("cannot make the JS glue of {}", module.display()))?;
    Ok(folder)
}
