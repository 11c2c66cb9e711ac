//! One process's part of a load, from the files it needs to the result.

use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime};

use client::Config;

use super::collect::collect;
use super::drive::Driver;
use super::files;
use super::options::Options;
use super::outcome::{Effort, Outcome};
use super::record::Tally;
use super::scenario::Scenario;
use super::subject::{Share, Target};
use crate::cluster::{StepError, cpu_seconds};
use crate::machine;

/// A result with the histograms it came from.
pub(crate) struct Run {
    pub(crate) outcome: Outcome,
    pub(super) total: Tally,
    pub(super) by_second: Vec<Tally>,
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

impl<'a> Load<'a> {
    /// A whole load that begins at once and prints nothing.
    pub(crate) fn quiet(target: Target, scenario: &'a Scenario) -> Load<'a> {
        Load { target, scenario, share: Share::WHOLE, servers: &[], start_at: None, quiet: true }
    }

    /// What the command line asks for.
    pub(super) fn of(config: &Config, scenario: &'a Scenario, options: &'a Options) -> Load<'a> {
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

    pub(super) fn prepare(&self) -> Result<(), StepError> {
        let Target::Cluster(config, dir) = &self.target else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| StepError::Start { program: "a runtime".to_owned(), source })?;
        runtime.block_on(async {
            if self.share.part == 0 {
                return files::prepare(config, self.scenario, dir).await;
            }
            // Made by the first part; the time to begin bounds the wait.
            tokio::time::timeout(
                until(self.start_at)?,
                files::await_files(config, self.scenario, dir),
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
pub(super) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[expect(clippy::disallowed_methods, reason = "the warm-up takes real time")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
