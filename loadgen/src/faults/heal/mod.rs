//! The bars of healing, measured with the programs that ship.
//!
//! Each measurement makes a cluster of its own, so that it can be asked for alone; repetitions share
//! it. A measurement that finds a violation of the contract is an error, whatever its figures say.
//! Start at [`run`].

mod drain;
mod flips;
mod foreground;
mod kills;
mod load;
mod loss;
mod plan;
mod restart;
mod stolen;

use std::path::PathBuf;

use super::bar::{self, Bar};
use super::lab::Plan;
use super::{gaps, is_root};
use crate::cluster::{StepError, now};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Name {
    /// Longest times without a read, a new file or a change when a node goes away.
    Gaps,
    /// How soon lost replicas are copied.
    Plan,
    /// A node with 2 GiB dies: time, ETA, use of the byte budget, and every replica afterwards.
    Loss,
    /// A node with 2 GiB is emptied under load.
    Drain,
    /// Restart of targets with 100,000 chunks, one and all.
    Restart,
    /// Flipped bits are found and repaired.
    Flips,
    /// What healing costs those who read and write.
    Foreground,
    /// Many kills, verified; only when it is named.
    Kills,
}

/// What is measured when nothing is named, in this order.
const ALL: [Name; 7] =
    [Name::Gaps, Name::Plan, Name::Loss, Name::Drain, Name::Restart, Name::Flips, Name::Foreground];

/// What the command line asks for.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Repetitions of a time; what takes long is repeated less often.
    #[arg(long, default_value_t = 20)]
    pub repetitions: u32,
    /// Measures this alone; may be repeated.
    #[arg(long, value_enum)]
    pub only: Vec<Name>,
    /// Kills to make.
    #[arg(long, default_value_t = 500)]
    pub kills: u32,
    /// Folder for the clusters; about 60 GiB are used for a while.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    pub parent: PathBuf,
}

/// Measures what was asked for and prints each bar with its distribution.
///
/// # Errors
/// [`StepError::Different`] when a bar was missed or a measurement failed; the others are made all
/// the same.
pub fn run(options: &Options) -> Result<(), StepError> {
    let names = if options.only.is_empty() { ALL.to_vec() } else { options.only.clone() };
    let (mut bars, mut failures) = (Vec::new(), Vec::new());
    for name in names {
        let begun = now();
        println!("== {name:?}");
        match measure(name, options) {
            Ok(measured) => {
                measured.iter().for_each(|bar| println!("{}", bar.line()));
                bars.extend(measured);
            }
            Err(error) => {
                println!("FAIL {name:?}: {error}");
                failures.push(format!("{name:?}"));
            }
        }
        println!("== {name:?} took {} s", begun.elapsed().as_secs());
    }
    println!("== all");
    let met = bar::print(&bars);
    if failures.is_empty() && met {
        return Ok(());
    }
    let failed = if failures.is_empty() { "none".to_owned() } else { failures.join(", ") };
    Err(StepError::Different(format!("not every bar was met; measurements that failed: {failed}")))
}

fn measure(name: Name, options: &Options) -> Result<Vec<Bar>, StepError> {
    match name {
        Name::Gaps => gaps::bars(&options.parent, options.repetitions),
        Name::Plan => plan::bars(&options.parent, options.repetitions),
        Name::Loss => loss::bars(&options.parent),
        Name::Drain => drain::bars(&options.parent),
        Name::Restart => restart::bars(&options.parent, options.repetitions),
        Name::Flips => flips::bars(&options.parent),
        Name::Foreground => foreground::bars(&options.parent, options.repetitions),
        Name::Kills => kills::bars(&options.parent, options.kills),
    }
}

/// A cluster of nodes that ship, with a few lines of the coordinator's configuration.
fn plan_of(nodes: u32, target_size: u64, settings: String) -> Plan {
    Plan {
        nodes,
        target_size,
        prezero: false,
        namespaces: is_root(),
        faulty_from: None,
        small_disk: None,
        seed: u64::from(std::process::id()),
        settings,
    }
}
