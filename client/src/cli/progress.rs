//! Progress on a terminal, after two seconds; silence in a pipe.

use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

/// What takes less time is not worth a bar.
const QUIET_FOR: Duration = Duration::from_secs(2);
/// Time between two redraws.
const REDRAW_EVERY: Duration = Duration::from_millis(200);

/// Bytes done and to do, shown when it takes long.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    reveal: Option<JoinHandle<()>>,
}

impl Progress {
    /// Counts from zero; must be called inside a runtime.
    pub(crate) fn new() -> Progress {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        let template =
            "{bytes:>10} of {total_bytes:10} {wide_bar} {binary_bytes_per_sec:>12} ETA {eta}";
        // A template that does not parse would be a mistake in the line above: keep the default.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let reveal = stderr().is_terminal().then(|| {
            let bar = bar.clone();
            tokio::spawn(async move {
                tokio::time::sleep(QUIET_FOR).await;
                bar.set_draw_target(ProgressDrawTarget::stderr());
                bar.enable_steady_tick(REDRAW_EVERY);
            })
        });
        Progress { bar, reveal }
    }

    /// More bytes are to be done.
    pub(crate) fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    /// Bytes are done.
    pub(crate) fn done(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Prints a line on standard error without tearing the bar.
    pub(crate) fn line(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(reveal) = &self.reveal {
            reveal.abort();
        }
        self.bar.finish_and_clear();
    }
}
