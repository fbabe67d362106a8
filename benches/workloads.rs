//! `cargo bench --features cli -- P1 S1`: the workloads of `wgpu-attention bench`, by the very same program. Without a name, those
//! meant for the best engine of this machine; `-- --list` shows them all.

use std::process::{Command, exit};

fn main() {
    // Cargo adds `--bench` for harnesses that tell benches from tests.
    let args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let status = Command::new(env!("CARGO_BIN_EXE_wgpu-attention")).arg("bench").args(args).status();
    match status {
        Ok(status) => exit(status.code().unwrap_or(1)),
        Err(error) => {
            eprintln!("error: the benchmark runner did not start: {error}");
            exit(1);
        }
    }
}
