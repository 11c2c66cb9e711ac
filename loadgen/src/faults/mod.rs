//! Real processes, broken one way after another while a workload goes on.
//!
//! A cluster of nodes and a coordinator, each in a network namespace of its own, serves a workload
//! whose every cell says whose it is. Each round breaks one thing ([`menu`], [`inject`]), mends it,
//! waits until every group has all its replicas, and then verifies everything that was ever
//! acknowledged ([`judge`]). The choice of faults follows from the seed; what the threads make of
//! it does not. Nothing is left behind but the folder of a run that found a violation.
//! Start at [`run`].

#![expect(clippy::print_stdout, reason = "the rounds are the result")]

pub mod bar;
pub mod corrupt;
pub mod filler;
pub mod gaps;
pub mod heal;
pub mod health;
pub mod inject;
pub mod judge;
pub mod lab;
pub mod menu;
mod observer;
mod rot;
mod scrub;
mod stage;
pub mod workload;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use client::Client;
use tokio::runtime::Runtime;

use self::inject::{Scene, seconds};
use self::judge::Verified;
use self::lab::{Lab, Plan};
use self::menu::{Fault, Needs, Order, Special};
use self::workload::{Pace, Workload};
use crate::cluster::{StepError, file_error, now};
use crate::dice::Dice;

/// Nodes of the lab: two more than replicas, so that there is somewhere to go.
const NODES: u32 = 5;
/// Size of each target: small, so that it can be filled.
const TARGET_SIZE: u64 = 512 << 20;
/// First node with the build that fails on order; the nodes before run what ships.
const FAULTY_FROM: u32 = 2;
/// Node on a small file system.
const SMALL_DISK_NODE: u32 = 4;

/// What the command line asks for.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rounds to run; 0 for as many as fit in the minutes.
    #[arg(long, default_value_t = 10)]
    pub rounds: u32,
    /// Seed of every choice; drawn from the clock when none is given.
    #[arg(long, default_value_t = seed_of_the_clock(), hide_default_value = true)]
    pub seed: u64,
    /// Starts no further round after this many minutes.
    #[arg(long)]
    pub minutes: Option<u32>,
    /// Chooses among these faults alone; may be repeated.
    #[arg(long, value_name = "FAULT", value_parser = fault_named)]
    pub only: Vec<Fault>,
    /// Counts a run without network namespaces as a whole one.
    #[arg(long)]
    pub without_partitions: bool,
    /// Folder for the cluster; about 4 GiB are used for a while.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    pub parent: PathBuf,
}

/// Sums over a run.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    rounds: u32,
    kills: u32,
    bytes: u64,
    replicas: u64,
}

/// Runs the rounds and prints a line for each.
///
/// # Errors
/// [`StepError::Different`] for a violation; the folder is then kept and the command that repeats
/// the run is printed. Other errors when the harness itself failed.
pub fn run(options: &Options) -> Result<(), StepError> {
    let plan = Plan {
        nodes: NODES,
        target_size: TARGET_SIZE,
        prezero: false,
        namespaces: is_root(),
        faulty_from: Some(FAULTY_FROM),
        small_disk: is_root().then_some(SMALL_DISK_NODE),
        seed: options.seed,
        settings: String::new(),
    };
    let allowed = allowed(&plan, &options.only)?;
    if !plan.namespaces {
        println!("faults: not root: partitions and the full disk are skipped");
    }
    let root = options.parent.join(format!("lanefs-faults-{}", std::process::id()));
    std::fs::create_dir(&root).map_err(file_error(&root))?;
    // The network first: threads that exist already would stay outside of it.
    let network = Lab::network(&plan)?;
    let runtime = Runtime::new()
        .map_err(|source| StepError::Start { program: "the runtime".to_owned(), source })?;
    let namespaces = plan.namespaces;
    let outcome = runtime.block_on(async {
        let lab = Lab::start(&root, plan, network)?;
        tokio::select! {
            outcome = rounds(lab, options, &allowed) => outcome.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    });
    drop(runtime);
    conclude(options, &root, outcome)?;
    if namespaces || options.without_partitions {
        return Ok(());
    }
    Err(StepError::Different(
        "partitions were skipped; run as root, or give --without-partitions".to_owned(),
    ))
}

/// Says how it went; removes the folder unless somebody has to look at it.
fn conclude(
    options: &Options,
    root: &Path,
    outcome: Result<Option<Sums>, StepError>,
) -> Result<(), StepError> {
    match outcome {
        Ok(None) => {
            std::fs::remove_dir_all(root).map_err(file_error(root))?;
            Err(StepError::Different("interrupted".to_owned()))
        }
        Ok(Some(sums)) => {
            println!(
                "faults: {} rounds, {} kills, {} MiB verified in {} replicas, 0 losses, 0 wrong bytes, seed {}",
                sums.rounds,
                sums.kills,
                sums.bytes >> 20,
                sums.replicas,
                options.seed
            );
            std::fs::remove_dir_all(root).map_err(file_error(root))
        }
        Err(error) => {
            println!("faults: VIOLATION: {error}");
            println!("faults: logs and containers are in {}", root.display());
            let rounds = options.rounds.max(1);
            println!(
                "faults: repeat with: lanefs-loadgen faults --seed {} --rounds {rounds}{}",
                options.seed,
                options
                    .only
                    .iter()
                    .map(|fault| format!(" --only {}", fault.name()))
                    .collect::<String>()
            );
            Err(error)
        }
    }
}

async fn rounds(mut lab: Lab, options: &Options, allowed: &[Fault]) -> Result<Sums, StepError> {
    let config = lab.client_config()?;
    let client = Client::connect(&config).await.map_err(judge::failed)?;
    let up = health::healthy(&mut lab, &client).await?;
    println!("faults: seed {}, {NODES} nodes up after {}", options.seed, seconds(up));
    let mut dice = Dice::new(options.seed);
    for node in FAULTY_FROM..=NODES {
        lab.order(node, &inject::unflushed(dice.draw()))?;
    }
    let own = Client::connect(&config).await.map_err(judge::failed)?;
    let mut workload = Workload::start(own, options.seed, pace()).await?;
    let end = options.minutes.map(|minutes| now() + Duration::from_secs(60 * u64::from(minutes)));
    let special = Special { faulty_from: FAULTY_FROM, small_disk: SMALL_DISK_NODE };
    let mut sums = Sums::default();
    while more(options, sums.rounds, end) {
        let Some(order) = menu::draw(&mut dice, allowed, NODES, special) else { break };
        sums.rounds += 1;
        let verified = round(&mut lab, &client, &workload, &order, sums.rounds).await?;
        sums.kills += kills(order.fault);
        sums.bytes += verified.bytes;
        sums.replicas += verified.replicas;
    }
    println!("faults: at the end {}", lab.footprint());
    workload.stop().await;
    judge::surfaced(&workload, Fault::KillNode)?;
    lab.end()?;
    Ok(sums)
}

async fn round(
    lab: &mut Lab,
    client: &Client,
    workload: &Workload,
    order: &Order,
    number: u32,
) -> Result<Verified, StepError> {
    let named = |error: StepError| {
        StepError::Different(format!(
            "round {number}, {} of node {}: {error}",
            order.fault.name(),
            order.node
        ))
    };
    workload.restart_watches();
    let mut scene = Scene { lab, client, workload };
    let what = inject::carry_out(&mut scene, order).await.map_err(named)?;
    let healed = health::healthy(lab, client).await.map_err(named)?;
    let at = now();
    let gaps =
        [workload.reads(), workload.lookups(), workload.writes()].map(|watch| watch.gaps(at));
    let verified = judge::verify(lab, workload, order.fault).await.map_err(named)?;
    if let Some(death) = lab.deaths().into_iter().next() {
        return Err(named(StepError::Different(death)));
    }
    let [reads, lookups, writes] = gaps.map(|gaps| format!("{:.3}", gaps.worst_task.as_secs_f64()));
    println!(
        "round {number:>4}  {:<18} {what:<58} without reads {reads} s, lookups {lookups} s, writes {writes} s; \
         healthy after {}; {} files, {} MiB, {} replicas verified",
        order.fault.name(),
        seconds(healed),
        verified.files,
        verified.bytes >> 20,
        verified.replicas,
    );
    Ok(verified)
}

fn pace() -> Pace {
    Pace {
        writers: 3,
        readers: 6,
        write_rest: Duration::from_millis(15),
        read_rest: Duration::from_millis(4),
        file_bytes_max: 12 << 20,
        live_bytes_max: 96 << 20,
        ..Pace::default()
    }
}

fn more(options: &Options, done: u32, end: Option<Instant>) -> bool {
    let in_time = end.is_none_or(|end| now() < end);
    in_time && (options.rounds == 0 || done < options.rounds)
}

/// Processes that a fault kills, as far as the count is fixed.
fn kills(fault: Fault) -> u32 {
    match fault {
        Fault::KillPair | Fault::KillTwo => 2,
        Fault::KillAll | Fault::PowerCutAll => NODES,
        Fault::KillNode
        | Fault::KillCoordinator
        | Fault::RestartStopCoordinator
        | Fault::PowerCutNode
        | Fault::WriteErrors
        | Fault::ShortWrites
        | Fault::FlushError
        | Fault::FullDisk => 1,
        _ => 0,
    }
}

/// The faults to choose from.
fn allowed(plan: &Plan, only: &[Fault]) -> Result<Vec<Fault>, StepError> {
    let possible = |fault: &Fault| match fault.needs() {
        Needs::Nothing => true,
        Needs::Namespaces => plan.namespaces,
        Needs::FaultDisk => plan.faulty_from.is_some(),
        Needs::SmallDisk => plan.small_disk.is_some(),
    };
    let wanted = if only.is_empty() { Fault::ALL } else { only };
    let allowed: Vec<Fault> = wanted.iter().copied().filter(possible).collect();
    if allowed.is_empty() {
        return Err(StepError::Different("none of these faults can be made here".to_owned()));
    }
    Ok(allowed)
}

fn fault_named(name: &str) -> Result<Fault, String> {
    let names = || Fault::ALL.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(", ");
    Fault::named(name).ok_or_else(|| format!("expected one of {}", names()))
}

#[expect(clippy::disallowed_methods, reason = "a seed of its own for each run; it is printed")]
fn seed_of_the_clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(namespaces: bool) -> Plan {
        Plan {
            nodes: 5,
            target_size: 1,
            prezero: false,
            namespaces,
            faulty_from: Some(2),
            small_disk: namespaces.then_some(4),
            seed: 1,
            settings: String::new(),
        }
    }

    #[test]
    fn without_namespaces_the_other_faults_remain() {
        let all = allowed(&plan(true), &[]).unwrap();
        assert_eq!(all, Fault::ALL);
        let rest = allowed(&plan(false), &[]).unwrap();
        assert!(rest.contains(&Fault::KillNode) && !rest.contains(&Fault::CutNode));
        assert!(!rest.contains(&Fault::FullDisk));
        assert!(allowed(&plan(false), &[Fault::CutNode]).is_err());
    }
}
