//! What this machine can do: the limits that results are held against.
//!
//! Everything is measured in rounds, one figure after the other, so that a bad minute of the
//! machine spreads over all of them. Start at [`run`].

#![expect(clippy::print_stdout, reason = "the table is the result")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

pub(crate) mod device;
mod memory;
pub mod send;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{StepError, file_error};
use crate::stats::{figure, quantile, sorted};
use device::Scratch;
use memory::{BEYOND_CACHES, RESIDENT};
use send::{GATHER_MAX, Shape};

/// What the command line asks for.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Folder on the device to measure; 4 GiB are used for a while.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    pub parent: PathBuf,
    /// Seconds for each figure of a round.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Rounds; the table shows the median and the range.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Leaves the device alone.
    #[arg(long)]
    pub no_device: bool,
    /// File for the results as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// One thing the machine can do so much of.
#[derive(Clone, Debug)]
pub struct Resource {
    /// What.
    pub name: String,
    /// Unit of the values.
    pub unit: &'static str,
    /// One value for each round.
    pub values: Vec<f64>,
}

/// A figure of one round.
type Figure = (String, &'static str, f64);

/// Measures and prints every limit.
///
/// # Errors
/// [`StepError`] when one could not be measured.
pub fn run(options: &Options) -> Result<(), StepError> {
    if !(options.seconds > 0.0 && options.seconds <= 600.0) || options.rounds == 0 {
        let what = "--seconds must be above 0 and at most 600, --rounds at least 1";
        return Err(StepError::Different(what.to_owned()));
    }
    let resources = measure(options)?;
    println!("{}", description());
    resources.iter().for_each(|resource| println!("{}", resource.line()));
    if let Some(path) = &options.json {
        write_json(path, &resources)?;
    }
    Ok(())
}

fn measure(options: &Options) -> Result<Vec<Resource>, StepError> {
    let scratch = match options.no_device {
        true => None,
        false => Some(Scratch::make(&options.parent)?),
    };
    let mut resources: Vec<Resource> = Vec::new();
    for round in 0..options.rounds {
        let mut figures = of_memory(Duration::from_secs_f64(options.seconds));
        figures.extend(of_sending(Duration::from_secs_f64(options.seconds))?);
        if let Some(scratch) = &scratch {
            figures.extend(of_device(scratch, options.seconds, u64::from(round))?);
        }
        for (name, unit, value) in figures {
            match resources.iter_mut().find(|known| known.name == name && known.unit == unit) {
                Some(known) => known.values.push(value),
                None => resources.push(Resource { name, unit, values: vec![value] }),
            }
        }
    }
    Ok(resources)
}

fn of_memory(time: Duration) -> Vec<Figure> {
    let gb = "GB/s";
    vec![
        ("memcpy, 1 MiB".to_owned(), gb, memory::copy(RESIDENT, time)),
        ("memcpy, 256 MiB".to_owned(), gb, memory::copy(BEYOND_CACHES, time)),
        ("xxh3-64 of 16 KiB, cached".to_owned(), gb, memory::hash(RESIDENT, 16 << 10, time)),
        (
            "xxh3-64 of 16 KiB, from memory".to_owned(),
            gb,
            memory::hash(BEYOND_CACHES, 16 << 10, time),
        ),
        ("AES-128-GCM, 16 KiB in place".to_owned(), gb, memory::seal(16, time)),
        ("AES-256-GCM, 16 KiB in place".to_owned(), gb, memory::seal(32, time)),
    ]
}

fn of_sending(time: Duration) -> Result<Vec<Figure>, StepError> {
    let shapes = [
        ("1 MiB", Shape { answer: 1 << 20, connections: 1, depth: 4, gather: GATHER_MAX }),
        ("128 KiB", Shape { answer: 128 << 10, connections: 2, depth: 8, gather: GATHER_MAX }),
        ("4 KiB", Shape { answer: 4 << 10, connections: 4, depth: 32, gather: GATHER_MAX }),
    ];
    let mut figures = Vec::new();
    for (size, shape) in shapes {
        let sent = send::measure(shape, time)?;
        let name = format!("TCP send, loopback, {size} x {} x {}", shape.connections, shape.depth);
        figures.push((name.clone(), "GB/s", sent.bytes / sent.seconds / 1e9));
        figures.push((name.clone(), "GB/CPU-s", sent.bytes / sent.cpu_seconds / 1e9));
        figures.push((name, "thousand/CPU-s", sent.answers / sent.cpu_seconds / 1e3));
    }
    Ok(figures)
}

fn of_device(scratch: &Scratch, seconds: f64, round: u64) -> Result<Vec<Figure>, StepError> {
    let mut figures = Vec::new();
    for (block, depth) in device::BLOCKS {
        for pattern in ["randread", "randwrite"] {
            // Other offsets each round: a cache below the device would answer the same ones.
            let seen = scratch.measure((pattern, block, depth), seconds, round + 1)?;
            let name = format!("device {pattern}, {} KiB x {depth}", block >> 10);
            figures.push((name.clone(), "MB/s", seen.bytes_per_s / 1e6));
            figures.push((name.clone(), "thousand/s", seen.per_s / 1e3));
            figures.push((name, "p99 us", seen.p99_us));
        }
    }
    Ok(figures)
}

impl Resource {
    /// The median and the range, in one line.
    pub fn line(&self) -> String {
        let sorted = sorted(&self.values);
        let at = |percent| figure(quantile(&sorted, percent));
        let (median, least, most) = (at(50), at(0), at(100));
        format!("{:<44}{median:>10} {:<16}{least} to {most}", self.name, self.unit)
    }
}

/// The machine, in one line.
pub fn description() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let model = field(&read("/proc/cpuinfo"), "model name");
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{model}, {cores} cores, {memory} of memory, Linux {kernel}")
}

fn write_json(path: &Path, resources: &[Resource]) -> Result<(), StepError> {
    let rows = resources.iter().map(|resource| {
        json!({ "name": resource.name, "unit": resource.unit, "values": resource.values })
    });
    let rows = Value::Array(rows.collect());
    let document = json!({ "machine": description(), "limits": rows });
    std::fs::write(path, document.to_string()).map_err(file_error(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_median_and_range() {
        let values = vec![12.0, 10.0, 11.0];
        let line = Resource { name: "memcpy".to_owned(), unit: "GB/s", values }.line();
        assert!(line.starts_with("memcpy "), "{line}");
        assert!(line.ends_with("11 GB/s            10 to 12"), "{line}");
    }

    #[test]
    fn every_round_adds_one_value_to_each_figure() {
        let parent = std::env::temp_dir();
        let options = Options { parent, seconds: 0.1, rounds: 2, no_device: true, json: None };
        let resources = measure(&options).unwrap();
        assert_eq!(resources.len(), 6 + 3 * 3);
        for resource in resources {
            assert_eq!(resource.values.len(), 2, "{}", resource.name);
            assert!(resource.values.iter().all(|value| *value > 0.0), "{resource:?}");
        }
    }

    #[test]
    fn impossible_options_are_refused() {
        let parent = std::env::temp_dir();
        let good = Options { parent, seconds: 0.01, rounds: 1, no_device: true, json: None };
        let bad = [
            Options { seconds: 0.0, ..good.clone() },
            Options { seconds: f64::NAN, ..good.clone() },
            Options { rounds: 0, ..good },
        ];
        for options in bad {
            assert!(run(&options).unwrap_err().to_string().contains("--seconds"));
        }
    }
}
