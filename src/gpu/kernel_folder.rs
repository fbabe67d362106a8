//! The texts of kernels in a folder, to read and to try changes on a device without building anything.

use super::disk::{checksum, replace};
use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// The end of the label of a pipeline whose text was edited.
pub(super) const EDITED: &str = " (edited)";

#[derive(Debug)]
pub(super) struct KernelFolder(PathBuf);

impl KernelFolder {
    pub(super) fn new(folder: &Path) -> Self {
        KernelFolder(folder.to_owned())
    }

    /// Writes a composed text to `ENTRY-HASH.wgsl`. Gives the text of `ENTRY-HASH.edited.wgsl` instead of it where there is such a file:
    /// the hash is of the composed text, so that no edit outlives the text that it was made of.
    pub(super) fn exchange(&self, entry: &str, text: &str) -> Result<Option<String>> {
        let stem = format!("{}-{:016x}", entry.replace('/', "-"), checksum(text.as_bytes()));
        let file = |ending: &str| self.0.join(format!("{stem}.{ending}"));
        replace(&file("wgsl"), text.as_bytes(), "the kernel was")?;
        let edited = file("edited.wgsl");
        match std::fs::read_to_string(&edited) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::new(ErrorKind::File, format!("{}: not read", edited.display())).caused_by(e)),
        }
    }
}
