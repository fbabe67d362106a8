//! Standard output that a reader may close: `println!` would panic there.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Writes a line. Once the reader is gone nothing more is written, but the command goes on: its exit status still counts.
pub fn line(text: impl AsRef<str>) {
    if closed() {
        return;
    }
    let mut stdout = std::io::stdout().lock();
    let written =
        stdout.write_all(text.as_ref().as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
    if let Err(error) = written {
        CLOSED.store(true, Ordering::Relaxed);
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("error: standard output: {error}");
        }
    }
}

/// Whether the reader is gone.
pub fn closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Writes a JSON value, indented.
pub fn json(value: &serde_json::Value) {
    line(format!("{value:#}"));
}
