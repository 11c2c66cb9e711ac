//! fio as the limit: what the device gives without us, in the same run.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cluster::{StepError, run};

/// Measures reads of written bytes of a container: O_DIRECT, 1 MiB, depth 8. Bytes per second.
pub fn read(container: &Path, offset: u64, len: u64) -> Result<f64, StepError> {
    let mut command = fio("read", container);
    command
        .args(["--rw=read", "--bs=1m", "--iodepth=8", "--direct=1", "--readonly"])
        .arg(format!("--offset={offset}"))
        .arg(format!("--size={len}"));
    bandwidth(&mut command, "read")
}

/// Measures writes to a file that was written before: 4 MiB, one fdatasync each. Bytes per second.
pub fn write(file: &Path, len: u64) -> Result<f64, StepError> {
    let mut command = fio("write", file);
    command
        .args(["--rw=write", "--bs=4m", "--iodepth=1", "--direct=1", "--fdatasync=1"])
        .args(["--overwrite=1"])
        .arg(format!("--size={len}"));
    bandwidth(&mut command, "write")
}

fn fio(name: &str, file: &Path) -> Command {
    let mut command = Command::new("fio");
    command
        .arg(format!("--name={name}"))
        .arg(format!("--filename={}", file.display()))
        .args(["--ioengine=io_uring", "--output-format=json"]);
    command
}

fn bandwidth(command: &mut Command, direction: &str) -> Result<f64, StepError> {
    let text = run(command)?;
    // fio may say something before the document.
    let document = text.find('{').map_or("", |at| &text[at..]);
    let unexpected = |what: String| StepError::Output { command: "fio".to_owned(), what };
    let document: Value =
        serde_json::from_str(document).map_err(|error| unexpected(error.to_string()))?;
    document["jobs"][0][direction]["bw_bytes"]
        .as_f64()
        .filter(|&bytes| bytes > 0.0)
        .ok_or_else(|| unexpected(format!("no bandwidth for {direction}")))
}
