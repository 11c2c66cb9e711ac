//! fio as the limit: what the device gives without us, in the same run.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cluster::{StepError, run};

/// One thing fio does to a file: O_DIRECT through io_uring.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// fio's word: `read`, `write`, `randread`, `randwrite`.
    pub pattern: &'a str,
    /// Bytes of one request.
    pub block: u64,
    /// Parts of several sizes in place of `block`, as fio's `bssplit`.
    pub split: Option<&'a str>,
    /// Requests outstanding.
    pub depth: u32,
    /// Range of the file: offset and length, in bytes.
    pub range: (u64, u64),
    /// Ends after so many seconds; the whole range once without it.
    pub seconds: Option<f64>,
    /// Writes between two fdatasync; none without it.
    pub flush_every: Option<u32>,
    /// Requests per second at most; as many as the device gives without it.
    pub rate: Option<f64>,
    /// Where random offsets come from: the same number, the same offsets.
    pub seed: u64,
}

/// What fio measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Bytes per second.
    pub bytes_per_s: f64,
    /// Requests per second.
    pub per_s: f64,
    /// Median of the time a request took, in microseconds.
    pub p50_us: f64,
    /// Its 99th percentile.
    pub p99_us: f64,
}

/// Runs one job on a file that exists already.
///
/// # Errors
/// [`StepError`] when fio is missing, fails, or prints something else than its document.
pub fn measure(file: &Path, job: &Job<'_>) -> Result<Measured, StepError> {
    let mut command = Command::new("fio");
    command
        .arg(format!("--name={}", job.pattern))
        .arg(format!("--filename={}", file.display()))
        .args(["--ioengine=io_uring", "--output-format=json", "--direct=1", "--overwrite=1"])
        .arg(format!("--rw={}", job.pattern))
        .arg(job.split.map_or(format!("--bs={}", job.block), |it| format!("--bssplit={it}")))
        .arg(format!("--iodepth={}", job.depth))
        .arg(format!("--offset={}", job.range.0))
        .arg(format!("--size={}", job.range.1))
        .arg(format!("--randseed={}", job.seed));
    if is_read(job.pattern) {
        command.arg("--readonly");
    }
    if let Some(seconds) = job.seconds {
        command.arg("--time_based").arg(format!("--runtime={}ms", (seconds * 1e3).round()));
    }
    if let Some(rate) = job.rate {
        command.arg(format!("--rate_iops={}", rate.round()));
    }
    if let Some(every) = job.flush_every {
        command.arg(format!("--fdatasync={every}"));
    }
    parse(&run(&mut command)?, job.pattern)
}

/// Measures reads of written bytes of a container: O_DIRECT, 1 MiB, depth 8. Bytes per second.
pub fn read(container: &Path, offset: u64, len: u64) -> Result<f64, StepError> {
    let job = Job { block: 1 << 20, depth: 8, range: (offset, len), ..Job::of("read") };
    Ok(measure(container, &job)?.bytes_per_s)
}

/// Measures writes to a file that was written before: 4 MiB, one fdatasync each. Bytes per second.
pub fn write(file: &Path, len: u64) -> Result<f64, StepError> {
    let flush_every = Some(1);
    let job = Job { block: 4 << 20, depth: 1, range: (0, len), flush_every, ..Job::of("write") };
    Ok(measure(file, &job)?.bytes_per_s)
}

impl<'a> Job<'a> {
    /// Single blocks of 4 KiB, over nothing yet.
    pub fn of(pattern: &'a str) -> Job<'a> {
        Job {
            pattern,
            block: 4096,
            split: None,
            depth: 1,
            range: (0, 0),
            seconds: None,
            flush_every: None,
            rate: None,
            seed: 1,
        }
    }
}

fn is_read(pattern: &str) -> bool {
    pattern.ends_with("read")
}

fn parse(text: &str, pattern: &str) -> Result<Measured, StepError> {
    // fio may say something before the document.
    let document = text.find('{').map_or("", |at| &text[at..]);
    let unexpected = |what: String| StepError::Output { command: "fio".to_owned(), what };
    let document: Value =
        serde_json::from_str(document).map_err(|error| unexpected(error.to_string()))?;
    let side = &document["jobs"][0][if is_read(pattern) { "read" } else { "write" }];
    let number = |value: &Value, what: &str| {
        let found = value.as_f64().filter(|&figure| figure > 0.0);
        found.ok_or_else(|| unexpected(format!("no {what} for {pattern}")))
    };
    let percentile = |of: &str| number(&side["clat_ns"]["percentile"][of], of).map(|ns| ns / 1e3);
    Ok(Measured {
        bytes_per_s: number(&side["bw_bytes"], "bandwidth")?,
        per_s: number(&side["iops"], "rate")?,
        p50_us: percentile("50.000000")?,
        p99_us: percentile("99.000000")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"note: something first
        {"jobs": [{"read": {"bw_bytes": 4096000, "iops": 1000.0, "clat_ns":
        {"percentile": {"50.000000": 90000, "99.000000": 250000}}}}]}"#;

    #[test]
    fn the_side_that_was_measured_is_read() {
        let seen = parse(DOCUMENT, "randread").unwrap();
        let figures = [seen.bytes_per_s, seen.per_s, seen.p50_us, seen.p99_us];
        for (figure, expected) in figures.into_iter().zip([4_096_000.0, 1000.0, 90.0, 250.0]) {
            assert!((figure - expected).abs() < 1e-6, "{seen:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = parse(DOCUMENT, "randwrite").unwrap_err().to_string();
        assert!(error.contains("no bandwidth for randwrite"), "{error}");
        assert!(parse("fio: cannot", "read").is_err());
    }
}
