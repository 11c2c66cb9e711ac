//! The data path against the limits of the machine, in one run: `make bench`.
//!
//! Every row is a ratio of two sides. Both are measured in every round, one after the other, and the
//! order turns from round to round, because the machines this runs on are noisy; the median over the
//! rounds is what counts. Servers have core 0, who asks them has core 1. Work for a CPU-second (EFF)
//! is compared where the device or the asking side is the limit.

#![expect(clippy::print_stdout, reason = "the table is the result")]

mod cores;
mod frames;
mod http;
mod nginx;
mod own;
pub mod peers;
mod process;
mod pull;
mod reads;
mod rewrites;
mod rig;
mod rounds;
mod streams;
mod table;
mod tails;
mod writes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use self::table::{Row, document, page, verdict};
use crate::cluster::{StepError, file_error};
use crate::machine::description;

/// What `bench` measures, and where.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Folder on the device; about 20 GiB are used for a while
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    parent: PathBuf,
    /// Folder in memory for what peers serve
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// Rounds, each of which measures every side once
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Seconds for one side in one round
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Parts to measure; all when none is named
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Of the reads, measure one size alone: `1 MiB`, `128 KiB` or `4 KiB`
    #[arg(long)]
    size: Option<String>,
    /// Of the reads, measure one side alone, to look at it with other tools: `disk`, `ram`, `disk tls`,
    /// `ram tls`, `ram verify`, `sender`, `nginx`, `nginx tls` or `fio`
    #[arg(long)]
    side: Option<String>,
    /// With `--only peers`, another server of ranges of files over HTTP, as NAME=COMMAND: `{root}` in the
    /// command is the folder to serve, `{port}` the port to listen on; may be repeated
    #[arg(long = "peer")]
    peers: Vec<peers::Named>,
    /// File for the results as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// File for the results as a page
    #[arg(long)]
    html: Option<PathBuf>,
}

/// A group of rows that share their clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Random reads of one shard: clear and TLS, from the device and from memory.
    Reads,
    /// Two shards in one process.
    Cores,
    /// What one program gets: streams, and many small files.
    Streams,
    /// Durable writes of large files.
    Writes,
    /// Durable writes of 16 KiB.
    Rewrites,
    /// Tails in the open loop.
    Tails,
    /// The load generator itself.
    Loadgen,
    /// Other servers beside us; only when it is named.
    Peers,
}

/// What measures one part.
type Measure = fn(&Bench<'_>) -> Result<Vec<Row>, StepError>;

/// What is measured with.
pub(crate) struct Bench<'a> {
    folder: &'a Path,
    memory: &'a Path,
    rounds: u32,
    time: Duration,
    size: Option<&'a str>,
    side: Option<&'a str>,
    peers: &'a [peers::Named],
}

/// Measures everything and prints the table.
///
/// # Errors
/// [`StepError`] when a measurement could not be made, and [`StepError::Different`] when a bar was
/// missed.
pub fn run(options: &Options) -> Result<(), StepError> {
    if options.rounds == 0 || !(0.05..=60.0).contains(&options.seconds) {
        let text = "--rounds must be at least 1, --seconds 0.05 to 60";
        return Err(StepError::Different(text.to_owned()));
    }
    let name = format!("lanefs-bench-{}", std::process::id());
    let (folder, memory) = (options.parent.join(&name), options.memory.join(&name));
    for made in [&folder, &memory] {
        std::fs::create_dir(made).map_err(file_error(made))?;
    }
    let bench = Bench {
        folder: &folder,
        memory: &memory,
        rounds: options.rounds,
        time: Duration::from_secs_f64(options.seconds),
        size: options.size.as_deref(),
        side: options.side.as_deref(),
        peers: &options.peers,
    };
    let rows = measure(options, &bench);
    for made in [&folder, &memory] {
        std::fs::remove_dir_all(made).map_err(file_error(made))?;
    }
    let rows = rows?;
    report(options, &rows)
}

fn measure(options: &Options, bench: &Bench<'_>) -> Result<Vec<Row>, StepError> {
    let parts: [(Part, Measure); 7] = [
        (Part::Reads, reads::measure),
        (Part::Cores, cores::measure),
        (Part::Streams, streams::measure),
        (Part::Writes, writes::measure),
        (Part::Rewrites, rewrites::measure),
        (Part::Tails, tails::measure),
        (Part::Loadgen, own::measure),
    ];
    let mut rows = Vec::new();
    for (part, measure) in parts {
        if options.only.is_empty() || options.only.contains(&part) {
            rows.extend(measure(bench)?);
        }
    }
    if options.only.contains(&Part::Peers) {
        rows.extend(peers::measure(bench)?);
    }
    Ok(rows)
}

fn report(options: &Options, rows: &[Row]) -> Result<(), StepError> {
    let machine = description();
    println!("{machine}");
    rows.iter().for_each(|row| println!("{}", row.line()));
    if let Some(path) = &options.json {
        let text = document(&machine, rows).to_string();
        std::fs::write(path, text).map_err(file_error(path))?;
    }
    if let Some(path) = &options.html {
        std::fs::write(path, page(&machine, rows)).map_err(file_error(path))?;
    }
    let (text, all) = verdict(rows);
    println!("{text}");
    if all { Ok(()) } else { Err(StepError::Different("not every bar was met".to_owned())) }
}
