//! The command line of the simulator.

#![expect(clippy::print_stdout, reason = "a command prints its results")]

use std::path::PathBuf;
use std::time::Duration;

use super::campaign::{self, Campaign, CampaignError};
use super::profile::Mode;
use super::run::Plan;

/// Seeds of a campaign that names none.
const SEEDS_DEFAULT: u64 = 100;

/// `lanefs-loadgen sim`: runs whole clusters in simulated time, each from one seed.
#[derive(Debug, clap::Args)]
pub struct Sim {
    /// How many seeds; 1 when a seed is named.
    #[arg(long)]
    seeds: Option<u64>,
    /// First seed.
    #[arg(long)]
    seed: Option<u64>,
    /// No run starts later than this many minutes after the first one.
    #[arg(long)]
    minutes: Option<u64>,
    /// What faults may do: `liveness` leaves a good copy of everything, `unrestricted` does not.
    #[arg(long, value_parser = parse_mode, default_value = "liveness")]
    mode: Mode,
    /// Processes that run seeds at the same time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Prints every event of one seed, and the digest of all of them.
    #[arg(long, requires = "seed", conflicts_with_all = ["seeds", "minutes"])]
    trace: bool,
    /// Prints the digest of each seed.
    #[arg(long)]
    hashes: bool,
    /// Fails when a situation of the table is met in less than 1 % of the runs.
    #[arg(long)]
    require_coverage: bool,
    /// Adds a line about the seeds that ran to this list, which is made when it does not exist.
    #[arg(long, value_name = "FILE", conflicts_with = "trace")]
    ledger: Option<PathBuf>,
    /// Seeds of known, open bugs, with commas: these must be red, and all others green.
    #[arg(long, value_name = "SEEDS", value_delimiter = ',', conflicts_with = "trace")]
    open: Vec<u64>,
}

/// The process that runs the seeds which arrive on standard input; started by `sim`.
#[derive(Debug, clap::Args)]
pub struct Worker {
    /// What faults may do.
    #[arg(long, value_parser = parse_mode)]
    mode: Mode,
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    let modes = [Mode::Liveness, Mode::Unrestricted];
    let named = modes.into_iter().find(|mode| mode.name() == text);
    named.ok_or_else(|| "use liveness or unrestricted".to_owned())
}

impl Sim {
    /// Runs the seeds and prints what they did.
    ///
    /// # Errors
    /// When a seed is red, or too few runs met a situation that must be met.
    pub fn run(&self) -> Result<(), CampaignError> {
        let seed_first = self.seed.unwrap_or(0);
        if self.trace {
            trace(&Plan { seed: seed_first, mode: self.mode });
            return Ok(());
        }
        let one_or_many = match (self.seed, self.minutes) {
            (_, Some(_)) => u64::MAX / 2 - seed_first,
            (Some(_), None) => 1,
            (None, None) => SEEDS_DEFAULT,
        };
        let campaign = Campaign {
            seed_first,
            seeds: self.seeds.unwrap_or(one_or_many),
            time: self.minutes.map(|minutes| Duration::from_secs(minutes * 60)),
            mode: self.mode,
            jobs: self.jobs.max(1),
            coverage_required: self.require_coverage,
            hashes: self.hashes,
            ledger: self.ledger.clone(),
            open: self.open.clone(),
        };
        campaign.run()
    }
}

/// Runs one seed in this process and prints everything that happens.
fn trace(plan: &Plan) {
    let print = |now: protocol::time::Nanos, line: &str| {
        println!("{:>12.6} {line}", Duration::from_nanos(now.0).as_secs_f64());
    };
    let outcome = plan.run(Some(Box::new(print)));
    println!("{outcome:#?}\nhash {:016x}", outcome.hash);
}

impl Worker {
    /// Runs seeds until the input ends.
    ///
    /// # Errors
    /// When the other end is gone.
    pub fn run(&self) -> std::io::Result<()> {
        campaign::serve(self.mode)
    }
}
