//! Load on a running cluster: operations at a set rate, or so many at a time, and what became of them.
//!
//! With a rate each operation has a time at which it is due, whatever the others do, and its latency
//! runs from then: a stalled server delays what is behind it, and that shows. A generator that cannot
//! keep up says so and voids the run.
//!
//! Start at [`run`]; `drive` puts the load on, `stage` is what the operations do, `outcome` the result,
//! `parts` and `merge` are for loads of several processes or machines.

#![expect(clippy::print_stdout, reason = "the result is printed")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod choice;
pub mod compare;
mod cores;
mod drive;
pub(crate) mod echo;
mod export;
mod html;
mod merge;
mod options;
pub mod outcome;
mod pacer;
mod parts;
mod ramp;
mod record;
pub mod scenario;
mod stage;
pub mod subject;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime};

use client::Config;

use crate::cluster::{StepError, cpu_seconds, file_error};
use crate::machine;
use crate::stats::figure;
use cores::Cores;
use drive::{Driver, Second};
pub use options::{Options, Reports};
use outcome::{Effort, Outcome, Point};
use record::Tally;
use scenario::Scenario;
use subject::{Share, Target};

/// A result with the histograms it came from.
pub(crate) struct Run {
    pub(crate) outcome: Outcome,
    total: Tally,
    by_second: Vec<Tally>,
}

/// A load that can be put on.
pub(crate) struct Load<'a> {
    pub(crate) target: Target,
    pub(crate) scenario: &'a Scenario,
    pub(crate) share: Share,
    /// Processes whose CPU time is counted.
    pub(crate) servers: &'a [u32],
    /// When it begins; as soon as everything is connected without it.
    pub(crate) start_at: Option<SystemTime>,
    pub(crate) quiet: bool,
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
    let run = if options.processes > 1 {
        parts::run(&config, &scenario, options)?
    } else {
        Load::of(&config, &scenario, options).put_on()?
    };
    tell(options, &run)
}

/// Puts the results of the parts of one load together.
///
/// # Errors
/// [`StepError`] when a file is no mergeable result, or they are not the parts of one load.
pub fn merge_files(paths: &[PathBuf], options: &Reports) -> Result<(), StepError> {
    let mut outcomes = Vec::new();
    for path in paths {
        outcomes.push(read_outcome(path)?);
    }
    let run = merge::merge(&outcomes)?;
    run.outcome.lines().iter().for_each(|line| println!("{line}"));
    options.write(&run)?;
    judge(&run.outcome)
}

fn tell(options: &Options, run: &Run) -> Result<(), StepError> {
    run.outcome.lines().iter().for_each(|line| println!("{line}"));
    options.reports.write(run)?;
    judge(&run.outcome)
}

fn read_outcome(path: &Path) -> Result<Outcome, StepError> {
    let text = std::fs::read_to_string(path).map_err(file_error(path))?;
    Outcome::parse(&path.display().to_string(), &text)
}

/// Compares two results.
///
/// # Errors
/// [`StepError`] when a file is no result or the two cannot be compared.
pub fn compare_files(before: &Path, after: &Path) -> Result<(), StepError> {
    println!("{}", compare::compare(&read_outcome(before)?, &read_outcome(after)?)?.line());
    Ok(())
}

impl<'a> Load<'a> {
    /// What the command line asks for.
    fn of(config: &Config, scenario: &'a Scenario, options: &'a Options) -> Load<'a> {
        let since_1970 = |seconds: f64| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds);
        Load {
            target: Target::Cluster(Box::new(config.clone()), options.dir.clone()),
            scenario,
            share: options.part.unwrap_or(Share::WHOLE),
            servers: &options.servers,
            start_at: options.start_at.map(since_1970),
            quiet: options.quiet,
        }
    }

    /// Prepares the files and runs the load.
    ///
    /// # Errors
    /// [`StepError`] when the files or clients cannot be had, or the time to begin has passed. Failed
    /// operations are part of the result.
    pub(crate) fn put_on(&self) -> Result<Run, StepError> {
        self.prepare()?;
        let scenario = self.scenario;
        let cpu = || self.servers.iter().map(|pid| cpu_seconds(*pid)).sum::<f64>();
        let (sender, received) = channel();
        let threads = self.share.threads(scenario);
        let next = Arc::new(AtomicU64::new(0));
        let start = Arc::new(Barrier::new(threads as usize + 1));
        std::thread::scope(|scope| {
            let drivers: Vec<_> = (0..threads)
                .map(|thread| {
                    let driver = Driver {
                        target: self.target.clone(),
                        scenario: scenario.clone(),
                        share: self.share,
                        thread,
                        next: Arc::clone(&next),
                        seconds: sender.clone(),
                        start: Arc::clone(&start),
                    };
                    scope.spawn(move || driver.run())
                })
                .collect();
            drop(sender);
            let in_time = self.wait_for_start(&start);
            let begun = crate::cluster::now();
            pause(Duration::from_secs_f64(scenario.warm_up));
            let before = cpu();
            let (points, by_second) = collect(&received, threads, scenario, self.quiet)?;
            let elapsed_s = begun.elapsed().as_secs_f64();
            let mut busiest_cpu_s = 0f64;
            for driver in drivers {
                let ended = driver.join();
                let ended =
                    ended.map_err(|_| StepError::Different("a thread panicked".to_owned()))?;
                busiest_cpu_s = busiest_cpu_s.max(ended?);
            }
            in_time?;
            let server_cpu_s = (!self.servers.is_empty()).then(|| cpu() - before);
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

    fn prepare(&self) -> Result<(), StepError> {
        let Target::Cluster(config, dir) = &self.target else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| StepError::Start { program: "a runtime".to_owned(), source })?;
        runtime.block_on(async {
            if self.share.part == 0 {
                return stage::prepare(config, self.scenario, dir).await;
            }
            // Made by the first part; the time to begin bounds the wait.
            tokio::time::timeout(
                until(self.start_at)?,
                stage::await_files(config, self.scenario, dir),
            )
            .await
            .map_err(|_| late("the first part has not made the files"))?
        })
    }

    /// Lets the threads begin, at the set time; they begin in any case, so that none waits for ever.
    fn wait_for_start(&self, start: &Barrier) -> Result<(), StepError> {
        let left = until(self.start_at);
        pause(*left.as_ref().unwrap_or(&Duration::ZERO));
        start.wait();
        left.map(|_| ())
    }
}

/// What is left until a time; nothing when none is set.
fn until(start_at: Option<SystemTime>) -> Result<Duration, StepError> {
    let Some(at) = start_at else { return Ok(Duration::ZERO) };
    at.duration_since(wall_clock()).map_err(|_| late("not everything was connected by then"))
}

fn late(why: &str) -> StepError {
    StepError::Different(format!("--start-at has passed: {why}; choose a later time"))
}

#[expect(clippy::disallowed_methods, reason = "several machines begin at the same time of day")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[expect(clippy::disallowed_methods, reason = "the warm-up takes real time")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Puts the seconds of all threads together until the last thread has ended.
fn collect(
    received: &Receiver<Second>,
    threads: u32,
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
        if count < threads {
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
