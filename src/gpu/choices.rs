//! Launches that were measured best on this device, by what they were measured for; kept beside the pipeline cache.
//!
//! A choice names one of the launches that a kernel offers anyway, by its label: a damaged or forged file can make a kernel slower, not
//! wrong.

use super::context::Gpu;
use super::disk;
use crate::error::Result;
use crate::kernel::key::Launch;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Labels by what they are for.
type Labels = BTreeMap<String, String>;

#[derive(Debug)]
pub(super) struct Choices {
    labels: Mutex<Labels>,
    file: Option<PathBuf>,
    header: String,
}

/// A choice that lasts as long as this value.
pub(super) struct Lent<'a> {
    choices: &'a Choices,
    place: String,
    before: Option<String>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.choices.set(&self.place, self.before.take());
    }
}

/// What a choice is good for: the kernel with all that its text depends on, and its size within a factor of two.
fn place(first: &Launch, flops: f64) -> String {
    format!("{}, 2^{} groups, 2^{:.0} flops", first.key.label(), first.groups.max(1).ilog2(), flops.max(1.0).log2())
}

impl Choices {
    /// Those of earlier runs with this crate's version on this adapter and driver, if there is a folder and a file in it.
    pub(super) fn open(gpu: &Gpu, folder: Option<&Path>) -> Self {
        let info = &gpu.info;
        let header = format!(
            "wgpu-attention {} {:?} {} {} {}",
            env!("CARGO_PKG_VERSION"),
            info.backend,
            info.name,
            info.driver,
            info.driver_info
        );
        let hash = disk::checksum(header.as_bytes());
        let file = folder.map(|folder| folder.join(format!("wgpu-attention-{hash:016x}.choices")));
        let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        Choices { labels: Mutex::new(parse(&text, &header)), file, header }
    }

    /// The label of the launch to take instead of `first`.
    pub(super) fn wanted(&self, first: &Launch, flops: f64) -> Option<String> {
        let labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        if labels.is_empty() { None } else { labels.get(&place(first, flops)).cloned() }
    }

    /// Takes `launch` instead of `first` until the value returned is dropped.
    pub(super) fn lend(&self, first: &Launch, flops: f64, launch: &Launch) -> Lent<'_> {
        let place = place(first, flops);
        let before = self.set(&place, Some(launch.key.label()));
        Lent { choices: self, place, before }
    }

    /// Takes `launch` instead of `first` from now on.
    pub(super) fn keep(&self, first: &Launch, flops: f64, label: &str) {
        self.set(&place(first, flops), Some(label.to_owned()));
    }

    fn set(&self, place: &str, label: Option<String>) -> Option<String> {
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        match label {
            Some(label) => labels.insert(place.to_owned(), label),
            None => labels.remove(place),
        }
    }

    /// Writes the choices if there is a folder for them.
    pub(super) fn save(&self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut text = format!("{}\n", self.header);
        for (place, label) in self.labels.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            text += &format!("{place}\t{label}\n");
        }
        disk::replace(file, text.as_bytes(), "the choices were")
    }
}

/// Choices under the right header; none under another.
fn parse(text: &str, header: &str) -> Labels {
    match text.split_once('\n') {
        Some((found, rest)) if found == header => {
            let pair = |line: &str| line.split_once('\t').map(|(place, label)| (place.to_owned(), label.to_owned()));
            rest.lines().filter_map(pair).collect()
        }
        _ => Labels::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_another_device_are_not_read() {
        assert_eq!(parse("mine\na\tb\nbroken\n", "mine"), Labels::from([("a".into(), "b".into())]));
        assert_eq!(parse("other\na\tb\n", "mine"), Labels::new());
        assert_eq!(parse("", "mine"), Labels::new());
    }
}
