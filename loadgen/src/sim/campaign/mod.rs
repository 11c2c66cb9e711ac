//! Many runs, in processes of their own: a run that breaks a promise ends its process.
//!
//! Owns which seed is run where, and the report. Knows nothing of what a run does. Start at
//! [`Campaign::run`].

mod child;
mod ledger;
mod report;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::mark::Marks;
use super::profile::Mode;
use super::run::Plan;

pub use worker::serve;

/// Share of the runs that must meet each situation, in percent.
const COVERAGE_MIN_PERCENT: u64 = 1;

/// Which runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Campaign {
    /// First seed; the others follow it.
    pub seed_first: u64,
    /// How many seeds.
    pub seeds: u64,
    /// No run starts later than this after the first one.
    pub time: Option<Duration>,
    /// What faults may do.
    pub mode: Mode,
    /// Processes.
    pub jobs: usize,
    /// Fails when a situation is met in too few runs.
    pub coverage_required: bool,
    /// Prints the digest of each seed.
    pub hashes: bool,
    /// File that lists the campaigns that were run.
    pub ledger: Option<PathBuf>,
    /// Seeds of bugs that are known and open: they must be red, and the others must be green.
    pub open: Vec<u64>,
}

/// Why a campaign failed.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// A process for the runs cannot be started or does not answer as it should.
    #[error("a process for simulated runs: {0}")]
    Process(#[from] std::io::Error),
    /// The list of campaigns cannot be written.
    #[error("the list of campaigns {0}: {1}; add its line by hand")]
    Ledger(String, std::io::Error),
    /// Promises were broken.
    #[error("{0} of the seeds are red; each line above names the command that repeats one")]
    Red(usize),
    /// A bug that was called open does not show any more.
    #[error(
        "seed {0} is called open and is green: take it off the list, and out of the table of open bugs"
    )]
    Closed(u64),
    /// Situations were met too rarely.
    #[error("met in less than {COVERAGE_MIN_PERCENT} % of the runs: {0}")]
    Coverage(String),
}

/// What a process said about one seed.
enum Told {
    /// No promise was broken.
    Green(Box<Green>),
    /// How it ended, in one line.
    Red { seed: u64, why: String },
    /// The process cannot be run at all.
    Broken(std::io::Error),
}

/// A run without a broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Green {
    seed: u64,
    hash: u64,
    profile: String,
    simulated: Duration,
    /// Processor time.
    busy: Duration,
    acknowledged: u64,
    read: u64,
    polls: u64,
    marks: Marks,
}

/// Sums over all runs.
#[derive(Default)]
struct Totals {
    seeds: u64,
    simulated: Duration,
    busy: Duration,
    acknowledged: u64,
    read: u64,
    polls: u64,
    profiles: BTreeMap<String, Share>,
    /// Sum over the green runs; the same code and the same seeds give the same.
    digest: u64,
    /// Runs that met each situation, and how often all together.
    marks: BTreeMap<String, (u64, u64)>,
    red: Vec<u64>,
}

/// Runs of one profile.
#[derive(Clone, Copy, Default)]
struct Share {
    seeds: u64,
    simulated: Duration,
    busy: Duration,
}

impl Campaign {
    /// Runs all seeds and prints what they did.
    ///
    /// # Errors
    /// [`CampaignError::Red`] when a promise was broken in a seed that is not called open,
    /// [`CampaignError::Closed`] when one that is was kept, [`CampaignError::Coverage`] when that is
    /// asked for and a situation was met too rarely, [`CampaignError::Ledger`] when the list that
    /// was asked for cannot be written.
    #[expect(clippy::disallowed_methods, reason = "real time is the budget of the runs")]
    pub fn run(&self) -> Result<(), CampaignError> {
        let begin = Instant::now();
        let (tell, told) = mpsc::channel();
        let (next, seeds) = mpsc::sync_channel(0);
        let seeds = std::sync::Arc::new(std::sync::Mutex::new(seeds));
        let mut totals = Totals::default();
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                let (seeds, tell) = (std::sync::Arc::clone(&seeds), tell.clone());
                scope.spawn(move || child::work(self.mode, &seeds, &tell));
            }
            drop((tell, seeds));
            scope.spawn(move || {
                for seed in self.seed_first..self.seed_first + self.seeds {
                    let late = self.time.is_some_and(|time| begin.elapsed() > time);
                    // An error means that no process is left to run one.
                    if late || next.send(seed).is_err() {
                        return;
                    }
                }
            });
            for told in told {
                self.take(told, &mut totals)?;
            }
            Ok::<_, CampaignError>(())
        })?;
        report::print(&totals, begin.elapsed());
        if let Some(path) = &self.ledger {
            let added = ledger::append(path, self, &totals);
            added.map_err(|error| CampaignError::Ledger(path.display().to_string(), error))?;
        }
        self.judge(&totals)
    }

    fn take(&self, told: Told, totals: &mut Totals) -> Result<(), CampaignError> {
        match told {
            Told::Green(green) => {
                if self.hashes {
                    report::print_hash(&green);
                }
                totals.add(&green);
            }
            Told::Red { seed, why } => {
                totals.seeds += 1;
                totals.red.push(seed);
                report::print_red(&Plan { seed, mode: self.mode }, &why);
            }
            Told::Broken(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn judge(&self, totals: &Totals) -> Result<(), CampaignError> {
        let surprises = totals.red.iter().filter(|seed| !self.open.contains(seed)).count();
        if surprises > 0 {
            return Err(CampaignError::Red(surprises));
        }
        if let Some(seed) = self.open.iter().find(|seed| !totals.red.contains(seed)) {
            return Err(CampaignError::Closed(*seed));
        }
        let rare = report::rare(totals);
        if self.coverage_required && !rare.is_empty() {
            return Err(CampaignError::Coverage(rare.join(", ")));
        }
        Ok(())
    }
}

impl Totals {
    fn add(&mut self, green: &Green) {
        self.seeds += 1;
        self.simulated += green.simulated;
        self.busy += green.busy;
        self.acknowledged += green.acknowledged;
        self.read += green.read;
        self.polls += green.polls;
        let share = self.profiles.entry(green.profile.clone()).or_default();
        share.seeds += 1;
        share.simulated += green.simulated;
        share.busy += green.busy;
        self.digest = self.digest.wrapping_add(ledger::part_of_digest(green.seed, green.hash));
        for (name, count) in green.marks.iter() {
            let (runs, all) = self.marks.entry(name.to_owned()).or_default();
            *runs += 1;
            *all += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_that_is_called_open_must_be_red_and_every_other_one_green() {
        let judge = |open: &[u64], red: &[u64]| {
            let campaign = Campaign {
                seed_first: 0,
                seeds: 9,
                time: None,
                mode: Mode::Liveness,
                jobs: 1,
                coverage_required: false,
                hashes: false,
                ledger: None,
                open: open.to_vec(),
            };
            campaign.judge(&Totals { red: red.to_vec(), ..Totals::default() })
        };
        assert!(judge(&[], &[]).is_ok() && judge(&[4, 7], &[7, 4]).is_ok());
        assert!(matches!(judge(&[4], &[4, 5, 6]), Err(CampaignError::Red(2))));
        assert!(matches!(judge(&[4, 7], &[4]), Err(CampaignError::Closed(7))));
    }
}
