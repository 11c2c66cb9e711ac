//! What went wrong in a command that goes on after errors.

use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::failure::Failure;
use super::output::shown;
use super::progress::Progress;
use crate::Error;

/// Prints each failure where it happens and remembers that there was one.
#[derive(Debug)]
pub(crate) struct Report {
    command: &'static str,
    failures: AtomicU64,
    hopeless: AtomicBool,
    /// Bytes done and to do.
    pub(crate) progress: Progress,
}

impl Report {
    pub(crate) fn new(command: &'static str) -> Report {
        Report {
            command,
            failures: AtomicU64::new(0),
            hopeless: AtomicBool::new(false),
            progress: Progress::new(),
        }
    }

    /// Something failed at a path; the command goes on.
    pub(crate) fn failed(&self, path: &[u8], reason: impl Display) {
        self.line(&format!("{}: {reason}", shown(path)));
    }

    /// Something failed, and the line already says where.
    pub(crate) fn line(&self, line: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.progress.line(&format!("lanefs: {}: {line}", self.command));
    }

    /// A local file or folder failed.
    pub(crate) fn local(&self, path: &std::path::Path, error: &io::Error) {
        use std::os::unix::ffi::OsStrExt as _;
        self.failed(path.as_os_str().as_bytes(), io_text(error));
    }

    /// A request failed at a path. When the cluster cannot be reached at all, the command stops
    /// instead of waiting for each of its files in turn.
    pub(crate) fn remote(&self, path: &[u8], error: Error) {
        let hopeless = matches!(error, Error::Deadline { .. } | Error::Closed { .. });
        if hopeless && self.hopeless.swap(true, Ordering::Relaxed) {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.line(&error.named(shown(path)).to_string());
    }

    /// True when the rest need not be tried.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.hopeless.load(Ordering::Relaxed)
    }

    /// The result of the command.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        match self.failures.load(Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err(Failure::Reported),
        }
    }
}

/// An operating system's error as other commands write it: no number, no capital letter.
pub(crate) fn io_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = match error.raw_os_error() {
        Some(code) => text.trim_end_matches(&format!(" (os error {code})")),
        None => &text,
    };
    let mut rest = text.chars();
    let first = rest.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_read_like_those_of_other_commands() {
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(io_text(&error), "no such file or directory");
        assert_eq!(io_text(&io::Error::other("Half a file")), "half a file");
    }
}
