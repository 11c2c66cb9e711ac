//! What the system counts of a process.

use std::path::PathBuf;

use crate::cluster::{StepError, file_error};

/// CPU time of a process and of those it started, in seconds.
pub(super) fn tree_cpu(pid: u32) -> f64 {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    process_cpu(pid) + children.map(tree_cpu).sum::<f64>()
}

/// Bytes that a process has had written to devices so far.
///
/// # Errors
/// [`StepError`] when it is gone or the system does not count.
pub(super) fn process_written(pid: u32) -> Result<f64, StepError> {
    let path = PathBuf::from(format!("/proc/{pid}/io"));
    let text = std::fs::read_to_string(&path).map_err(file_error(&path))?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    let missing = || StepError::Different(format!("{}: no count of bytes", path.display()));
    line.and_then(|value| value.parse().ok()).ok_or_else(missing)
}

/// CPU time of all threads of a process, in seconds; 0 when it is gone.
#[expect(clippy::cast_precision_loss, reason = "seconds of one process")]
pub(super) fn process_cpu(pid: u32) -> f64 {
    let folder = format!("/proc/{pid}/task");
    let threads = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let nanos = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanos.sum::<u64>() as f64 / 1e9
}
