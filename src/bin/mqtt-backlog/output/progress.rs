//! Progress of long work.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on the standard error, if that is a terminal.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Shows a bar for work on this many records.
    pub fn new(records: usize) -> Self {
        let bar = ProgressBar::with_draw_target(
            Some(u64::try_from(records).unwrap_or(u64::MAX)),
            ProgressDrawTarget::stderr(),
        );
        let style =
            ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len}, {eta} left");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    pub fn add(&self, records: usize) {
        self.0.inc(u64::try_from(records).unwrap_or_default());
    }

    /// Hides the bar while `work` writes to the terminal.
    pub fn suspend<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.suspend(work)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
