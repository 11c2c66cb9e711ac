//! What the command line of a load says.

use std::path::PathBuf;

use super::scenario::{Scenario, Work};
use super::subject::Share;
use super::{Run, export, html};
use crate::cluster::{StepError, file_error};
use crate::limits::LOAD_PARTS_MAX;

/// What the command line asks for; what is given here comes before what the scenario file says.
#[derive(Clone, Debug, clap::Args)]
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
    /// Where the result is written.
    #[command(flatten)]
    pub reports: Reports,
    /// Prints no line each second.
    #[arg(long)]
    pub quiet: bool,
    /// Divides the load among so many processes of this machine and puts their results together.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(LOAD_PARTS_MAX)))]
    #[arg(conflicts_with_all = ["part", "ramp"])]
    pub processes: u32,
    /// Puts on one part of the load, such as `1/4`; the others are started elsewhere, with the same
    /// scenario, and `merge` puts the results together. The first makes the files.
    #[arg(long, requires = "start_at", conflicts_with = "ramp")]
    pub part: Option<Share>,
    /// When the load begins: seconds since 1970, the same for every part.
    #[arg(long)]
    pub start_at: Option<f64>,
}

/// Files for a result.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Reports {
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
    /// Keeps the histograms in the result, which `merge` needs.
    #[arg(long)]
    pub mergeable: bool,
}

impl Options {
    /// The scenario, with what the command line says otherwise.
    ///
    /// # Errors
    /// [`StepError`] with what cannot be measured.
    pub(super) fn scenario(&self) -> Result<Scenario, StepError> {
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

impl Reports {
    /// Writes what was asked for.
    ///
    /// # Errors
    /// [`StepError`] with the file that cannot be written.
    pub(super) fn write(&self, run: &Run) -> Result<(), StepError> {
        let write =
            |path: &Option<PathBuf>, make: &dyn Fn() -> Result<Vec<u8>, StepError>| match path {
                Some(path) => std::fs::write(path, make()?).map_err(file_error(path)),
                None => Ok(()),
            };
        write(&self.json, &|| self.document(run))?;
        write(&self.html, &|| Ok(html::page(&run.outcome).into_bytes()))?;
        write(&self.hlog, &|| export::interval_log(&run.by_second))?;
        write(&self.hgrm, &|| Ok(export::percentiles(&run.total).into_bytes()))
    }

    fn document(&self, run: &Run) -> Result<Vec<u8>, StepError> {
        let mut outcome = run.outcome.clone();
        if self.mergeable {
            let log = export::interval_log(&run.by_second)?;
            outcome.hlog = Some(String::from_utf8_lossy(&log).into_owned());
        }
        serde_json::to_vec(&outcome).map_err(|error| StepError::Different(error.to_string()))
    }
}
