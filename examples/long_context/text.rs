//! The haystack, the needle in it and the prompt after it.

use std::io;
use std::path::{Path, PathBuf};

/// What is hidden.
pub const NEEDLE: &str = "The passkey is 71432.";
/// What the text ends in.
pub const PROMPT: &str = "The passkey is ";
/// What must come next.
pub const ANSWER: &str = "71432";

/// The text of `file`, or of this repository; lines with a passkey of their own are left out.
pub fn haystack(file: Option<&Path>) -> io::Result<Vec<u8>> {
    let mut paths = Vec::new();
    match file {
        Some(path) => paths.push(path.to_owned()),
        None => collect(Path::new(env!("CARGO_MANIFEST_DIR")), &mut paths)?,
    }
    paths.sort();
    let mut text = Vec::new();
    for path in paths {
        let bytes = std::fs::read(&path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        let lines = bytes.split_inclusive(|&b| b == b'\n');
        lines.filter(|line| !line.windows(7).any(|w| w == b"passkey")).for_each(|line| text.extend(line));
    }
    if text.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "there is no text; name a file with --text"));
    }
    Ok(text)
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = path.extension().is_some_and(|e| ["md", "rs", "wgsl"].iter().any(|t| e == *t));
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            collect(&path, paths)?;
        } else if text {
            paths.push(path);
        }
    }
    Ok(())
}

/// A text that is `length` bytes long once the answer is added: haystack with the needle `depth` (0 to 1) of the way in, then the prompt.
/// A haystack that is too short is repeated.
pub fn prompt(haystack: &[u8], length: usize, depth: f64) -> Vec<u8> {
    let needle = format!("{NEEDLE}\n");
    let end = format!("\n{PROMPT}");
    let rest = length.saturating_sub(needle.len() + end.len() + ANSWER.len());
    let at = (rest as f64 * depth) as usize;
    let mut text: Vec<u8> = haystack.iter().copied().cycle().take(rest).collect();
    text.splice(at..at, needle.bytes());
    text.extend(end.bytes());
    text
}
