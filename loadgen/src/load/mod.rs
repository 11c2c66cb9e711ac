//! Load on a running cluster: operations at a set rate, or so many at a time, and what became of them.
//!
//! With a rate each operation has a time at which it is due, whatever the others do, and its latency
//! runs from then: a stalled server delays what is behind it, and that shows. A generator that cannot
//! keep up says so and voids the run.
//!
//! Start at [`run`]; `drive` puts the load on, `stage` is what the operations do, `outcome` the result.

#![expect(clippy::print_stdout, reason = "the result is printed")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod choice;
pub mod compare;
mod cores;
mod drive;
mod export;
mod html;
pub mod outcome;
mod pacer;
mod ramp;
mod record;
pub mod scenario;
mod stage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use client::Config;

use crate::cluster::{StepError, cpu_seconds, file_error};
use crate::machine;
use crate::stats::figure;
use cores::Cores;
use drive::{Driver, Second};
use outcome::{Effort, Outcome, Point};
use record::Tally;
use scenario::{Scenario, Work};

/// What the command line asks for; what is given here comes before what the scenario file says.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// File with a scenario (TOML); everything it leaves out has a default.
    pub scenario: Option<PathBuf>,
    /// Configuration of the client; else that in LANEFS_CONFIG.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Folder of the cluster that the files are in; they are made once and left there.
    #[arg(long, default_value = "/loadgen")]
    pub dir: String,
    /// What the operations are.
    #[arg(long)]
    pub work: Option<Work>,
    /// Bytes of one read.
    #[arg(long)]
    pub block: Option<u64>,
    /// Bytes of each file.
    #[arg(long)]
    pub file: Option<u64>,
    /// Files.
    #[arg(long)]
    pub files: Option<u32>,
    /// Skew of the choice between files, 0 to below 1.
    #[arg(long)]
    pub zipf: Option<f64>,
    /// Whole small files that one operation reads together.
    #[arg(long)]
    pub batch: Option<u32>,
    /// Operations per second; without it, `--at-once` are kept running.
    #[arg(long, conflicts_with = "closed")]
    pub rate: Option<f64>,
    /// Keeps `--at-once` operations running, also where the scenario file has a rate.
    #[arg(long)]
    pub closed: bool,
    /// Operations kept running; with a rate, the most that may be outstanding.
    #[arg(long)]
    pub at_once: Option<u32>,
    /// Clients, each with connections of its own.
    #[arg(long)]
    pub clients: Option<u32>,
    /// Threads that drive the load.
    #[arg(long)]
    pub threads: Option<u32>,
    /// Seconds before anything counts.
    #[arg(long)]
    pub warm_up: Option<f64>,
    /// Seconds that count.
    #[arg(long)]
    pub seconds: Option<u32>,
    /// Where every random choice comes from.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Doubles what is kept running step by step, and says where the knee is.
    #[arg(long, conflicts_with = "rate")]
    pub ramp: bool,
    /// Process of a server whose CPU time is counted; may be repeated.
    #[arg(long = "server")]
    pub servers: Vec<u32>,
    /// File for the result as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// File for the report as one HTML page.
    #[arg(long)]
    pub html: Option<PathBuf>,
    /// File for the latencies as an HdrHistogram interval log.
    #[arg(long)]
    pub hlog: Option<PathBuf>,
    /// File for the latency percentiles as HdrHistogram's plotter reads them.
    #[arg(long)]
    pub hgrm: Option<PathBuf>,
    /// Prints no line each second.
    #[arg(long)]
    pub quiet: bool,
}

/// A result with the histograms it came from.
struct Run {
    outcome: Outcome,
    total: Tally,
    by_second: Vec<Tally>,
}

/// Puts a load on a cluster and prints what became of it.
///
/// # Errors
/// [`StepError`] when it could not be put on, when operations failed, and when the run is void.
pub fn run(options: &Options) -> Result<(), StepError> {
    let scenario = options.scenario()?;
    let config = Config::find(options.config.as_deref())
        .map_err(|error| StepError::Different(error.to_string()))?;
    if options.ramp {
        return ramp::run(&config, &scenario, options);
    }
    let run = put_on(&config, &scenario, options)?;
    run.outcome.lines().iter().for_each(|line| println!("{line}"));
    write_all(options, &run)?;
    judge(&run.outcome)
}

/// Compares two results.
///
/// # Errors
/// [`StepError`] when a file is no result or the two cannot be compared.
pub fn compare_files(before: &Path, after: &Path) -> Result<(), StepError> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).map_err(file_error(path))?;
        Outcome::parse(&path.display().to_string(), &text)
    };
    println!("{}", compare::compare(&read(before)?, &read(after)?)?.line());
    Ok(())
}

impl Options {
    fn scenario(&self) -> Result<Scenario, StepError> {
        let base = match &self.scenario {
            Some(path) => Scenario::load(path)?,
            None => Scenario::default(),
        };
        let scenario = Scenario {
            work: self.work.unwrap_or(base.work),
            block: self.block.unwrap_or(base.block),
            file: self.file.unwrap_or(base.file),
            files: self.files.unwrap_or(base.files),
            zipf: self.zipf.unwrap_or(base.zipf),
            batch: self.batch.unwrap_or(base.batch),
            rate: if self.closed { None } else { self.rate.or(base.rate) },
            at_once: self.at_once.unwrap_or(base.at_once),
            clients: self.clients.unwrap_or(base.clients),
            threads: self.threads.unwrap_or(base.threads),
            warm_up: self.warm_up.unwrap_or(base.warm_up),
            seconds: self.seconds.unwrap_or(base.seconds),
            seed: self.seed.unwrap_or(base.seed),
            ..base
        };
        scenario.check()
    }
}

/// Prepares the files and runs the load.
fn put_on(config: &Config, scenario: &Scenario, options: &Options) -> Result<Run, StepError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StepError::Start { program: "a runtime".to_owned(), source })?;
    runtime.block_on(stage::prepare(config, scenario, &options.dir))?;
    let cpu = || options.servers.iter().map(|pid| cpu_seconds(*pid)).sum::<f64>();
    let (sender, received) = channel();
    let (next, start) = (Arc::new(AtomicU64::new(0)), threads_barrier(scenario));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..scenario.threads)
            .map(|thread| {
                let driver = Driver {
                    config: config.clone(),
                    scenario: scenario.clone(),
                    path: options.dir.clone(),
                    thread,
                    next: Arc::clone(&next),
                    seconds: sender.clone(),
                    start: Arc::clone(&start),
                };
                scope.spawn(move || driver.run())
            })
            .collect();
        drop(sender);
        start.wait();
        let begun = crate::cluster::now();
        pause(Duration::from_secs_f64(scenario.warm_up));
        let before = cpu();
        let (points, by_second) = collect(&received, scenario, options.quiet)?;
        let elapsed_s = begun.elapsed().as_secs_f64();
        let mut busiest_cpu_s = 0f64;
        for thread in threads {
            let ended = thread.join();
            let ended = ended.map_err(|_| StepError::Different("a thread panicked".to_owned()))?;
            busiest_cpu_s = busiest_cpu_s.max(ended?);
        }
        let server_cpu_s = (!options.servers.is_empty()).then(|| cpu() - before);
        let effort = Effort { elapsed_s, busiest_cpu_s, server_cpu_s };
        let mut total = Tally::new()?;
        for second in &by_second {
            total.add(second)?;
        }
        let machine = machine::description();
        let outcome = Outcome::new(scenario.clone(), machine, &total, points, effort);
        Ok(Run { outcome, total, by_second })
    })
}

#[expect(clippy::disallowed_methods, reason = "the warm-up takes real time")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Where every thread, and who collects, waits until all are connected.
fn threads_barrier(scenario: &Scenario) -> Arc<Barrier> {
    Arc::new(Barrier::new(scenario.threads as usize + 1))
}

/// Puts the seconds of all threads together until the last thread has ended.
fn collect(
    received: &Receiver<Second>,
    scenario: &Scenario,
    quiet: bool,
) -> Result<(Vec<Point>, Vec<Tally>), StepError> {
    let mut open: BTreeMap<u64, (u32, Tally)> = BTreeMap::new();
    let (mut points, mut tallies) = (Vec::new(), Vec::new());
    let mut cores = Cores::now();
    for Second { number, tally } in received {
        let (count, sum) = match open.remove(&number) {
            None => (1, tally),
            Some((count, mut sum)) => {
                sum.add(&tally)?;
                (count + 1, sum)
            }
        };
        if count < scenario.threads {
            open.insert(number, (count, sum));
            continue;
        }
        let newer = Cores::now();
        let point = point(&sum, newer.busy_since(&cores));
        cores = newer;
        if !quiet && number < u64::from(scenario.seconds) {
            eprintln!("{}", live(number + 1, &point, &sum));
        }
        points.push(point);
        tallies.push(sum);
    }
    // What ended after the last second, and what one thread shipped more often than another.
    let rest = open.into_values().map(|(_, sum)| sum);
    let whole = scenario.seconds as usize;
    let rest: Vec<Tally> = tallies.drain(whole.min(tallies.len())..).chain(rest).collect();
    points.truncate(whole);
    if let Some(last) = tallies.last_mut() {
        for more in rest {
            last.add(&more)?;
        }
    } else {
        tallies.extend(rest);
    }
    Ok((points, tallies))
}

fn point(sum: &Tally, cores: Vec<f64>) -> Point {
    let (operations, bytes) = (sum.times.len(), sum.bytes);
    Point { operations, bytes, p50_ms: sum.ms(0.5), p99_ms: sum.ms(0.99), cores }
}

fn live(second: u64, point: &Point, sum: &Tally) -> String {
    format!(
        "{second:>5} s {:>9} ops/s {:>9} MB/s  ms: p50 {} p99 {} p99.9 {} max {}  failed {}",
        point.operations,
        figure(point.bytes as f64 / 1e6),
        figure(point.p50_ms),
        figure(point.p99_ms),
        figure(sum.ms(0.999)),
        figure(sum.ms(1.0)),
        sum.failed
    )
}

fn write_all(options: &Options, run: &Run) -> Result<(), StepError> {
    let write = |path: &Option<PathBuf>, make: &dyn Fn() -> Result<Vec<u8>, StepError>| match path {
        Some(path) => std::fs::write(path, make()?).map_err(file_error(path)),
        None => Ok(()),
    };
    write(&options.json, &|| {
        serde_json::to_vec(&run.outcome).map_err(|error| StepError::Different(error.to_string()))
    })?;
    write(&options.html, &|| Ok(html::page(&run.outcome).into_bytes()))?;
    write(&options.hlog, &|| export::interval_log(&run.by_second))?;
    write(&options.hgrm, &|| Ok(export::percentiles(&run.total).into_bytes()))
}

/// What makes the command fail.
fn judge(outcome: &Outcome) -> Result<(), StepError> {
    match &outcome.void {
        Some(why) => Err(StepError::Different(format!("the run is void: {why}"))),
        None if outcome.failed > 0 => {
            Err(StepError::Different(format!("{} operations failed", outcome.failed)))
        }
        None => Ok(()),
    }
}
