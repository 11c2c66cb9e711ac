//! Load on a running cluster: operations at a set rate, or so many at a time, and what became of them.
//!
//! With a rate each operation has a time at which it is due, whatever the others do, and its latency
//! runs from then: a stalled server delays what is behind it, and that shows. A generator that cannot
//! keep up says so and voids the run.
//!
//! Start at [`run`]; `put_on` and `drive` put the load on, `stage` is what the operations do, `outcome` the result,
//! `parts` and `merge` are for loads of several processes or machines.

#![expect(clippy::print_stdout, reason = "the result is printed")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod choice;
mod collect;
pub mod compare;
mod cores;
mod drive;
pub(crate) mod echo;
mod export;
mod files;
mod html;
mod merge;
mod options;
pub mod outcome;
mod pacer;
mod parts;
mod put_on;
mod ramp;
mod record;
pub mod scenario;
mod stage;
pub mod subject;

use std::path::{Path, PathBuf};

use client::Config;

pub use self::options::{Options, Reports};
use self::outcome::Outcome;
pub(crate) use self::put_on::{Load, Run};
use crate::cluster::{StepError, file_error};

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
