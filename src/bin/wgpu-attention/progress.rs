//! Progress on a terminal, for what takes longer than a second.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// A bar over a number of steps. It is drawn on standard error, only on a terminal, and only once a second has passed.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    start: Instant,
}

const PATIENCE: Duration = Duration::from_secs(1);

impl Progress {
    /// No step done yet.
    pub fn new(total: usize) -> Self {
        Progress { bar: None, total: total as u64, done: 0, start: Instant::now() }
    }

    /// Says what the step at hand is.
    pub fn show(&mut self, what: &str) {
        if self.bar.is_none() && self.start.elapsed() >= PATIENCE {
            let style = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} {msg}");
            let bar = ProgressBar::new(self.total).with_elapsed(self.start.elapsed());
            self.bar = Some(style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style)));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
            bar.set_message(what.to_owned());
        }
    }

    /// Counts a step as done.
    pub fn step(&mut self) {
        self.done += 1;
    }

    /// Writes a line of output without tearing the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| crate::out::line(text)),
            None => crate::out::line(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
