//! How long clients notice that a node is gone, measured with the programs that ship.
//!
//! A client reads and writes without pause from several tasks; a node is killed, or cut off in
//! silence, again and again. What counts is the longest time any one task went without success.
//! Start at [`run`].

mod seen;

use std::path::{Path, PathBuf};
use std::time::Duration;

use client::Client;
use protocol::cluster_map::ClusterMap;
use protocol::ids::{Generation, TargetId};
use rustix::process::Signal;

use self::seen::{Away, Seen};
use super::bar::{self, Bar};
use super::lab::network::Place;
use super::lab::{Lab, Plan};
use super::menu::Fault;
use super::observer::{Observer, Repetitions};
use super::workload::{Pace, Workload};
use super::{health, is_root, judge, stage};
use crate::cluster::{StepError, now};

/// Nodes of the lab.
const NODES: u32 = 4;
/// Size of each target.
const TARGET_SIZE: u64 = 1 << 30;
/// How long a node stays away: longer than every limit.
const WINDOW: Duration = Duration::from_secs(4);
/// The lease under which the gap of changes is measured.
const LEASE: &str = "lease_ms = 2000\n";
/// Rest between two repetitions, so that one does not disturb the next.
const SETTLE: Duration = Duration::from_millis(500);
/// Time between two looks at the map of the one who watches what the coordinator does.
const LOOK_EVERY: Duration = Duration::from_millis(4);
/// A cluster that does not serve again after this never will.
const SERVES_WITHIN: Duration = Duration::from_secs(120);
/// A repetition during which the machine itself stood still for this share of the first limit of
/// reads says nothing of a file system: it is shown and done again.
const STOOD_STILL_PERCENT: u32 = 50;
/// Repetitions of a restart of everything for each hundred others.
const RESTARTS_PERCENT: u32 = 25;

/// What the command line asks for.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Repetitions of each measurement.
    #[arg(long, default_value_t = 20)]
    pub repetitions: u32,
    /// Folder for the cluster; about 5 GiB are used for a while.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    pub parent: PathBuf,
}

/// Measures every gap and prints its distribution.
///
/// # Errors
/// [`StepError::Different`] when a bar was missed or an error reached the client.
pub fn run(options: &Options) -> Result<(), StepError> {
    if bar::print(&bars(&options.parent, options.repetitions)?) {
        return Ok(());
    }
    Err(StepError::Different("not every bar was met".to_owned()))
}

/// Measures every gap.
///
/// # Errors
/// [`StepError::Different`] when an error reached a client, or bytes were lost or wrong.
pub(super) fn bars(parent: &Path, repetitions: u32) -> Result<Vec<Bar>, StepError> {
    let plan = Plan {
        nodes: NODES,
        target_size: TARGET_SIZE,
        prezero: false,
        namespaces: is_root(),
        faulty_from: None,
        small_disk: None,
        seed: u64::from(std::process::id()),
        settings: LEASE.to_owned(),
    };
    stage::run(parent, "gaps", plan, async |lab| measure(lab, repetitions).await)
}

async fn measure(mut lab: Lab, repetitions: u32) -> Result<Vec<Bar>, StepError> {
    let config = lab.client_config()?;
    let client = Client::connect(&config).await.map_err(judge::failed)?;
    health::healthy(&mut lab, &client).await?;
    let own = Client::connect(&config).await.map_err(judge::failed)?;
    let mut workload = Workload::start(own, lab.plan().seed, pace()).await?;
    tokio::time::sleep(WINDOW).await;
    let mut bars = away(&mut lab, &client, &workload, Away::Killed, repetitions).await?;
    if lab.cuts().is_some() {
        bars.extend(away(&mut lab, &client, &workload, Away::Cut, repetitions).await?);
    } else {
        println!("gaps: not root: nothing was cut off");
    }
    let restarts = (repetitions * RESTARTS_PERCENT / 100).max(1);
    bars.push(restart_all(&mut lab, &client, &workload, restarts).await?);
    workload.stop().await;
    judge::surfaced(&workload, Fault::KillNode)?;
    lab.end()?;
    Ok(bars)
}

async fn away(
    lab: &mut Lab,
    client: &Client,
    workload: &Workload,
    away: Away,
    repetitions: u32,
) -> Result<Vec<Bar>, StepError> {
    let observer = Observer::start(lab.root())?;
    let still = Duration::from_millis(u64::from(away.reads().0 * STOOD_STILL_PERCENT / 100));
    let mut all = Repetitions::new(repetitions, still);
    while let Some(number) = all.next()? {
        let node = number % NODES + 1;
        let seen = once(lab, client, workload, &observer, away, node).await?;
        println!("{}", seen.line(away, node));
        all.push(seen, seen.machine);
    }
    let again: Vec<Seen> = all.again.iter().map(|(seen, _)| *seen).collect();
    Ok(seen::bars(away, &all.counted, &again))
}

async fn once(
    lab: &mut Lab,
    client: &Client,
    workload: &Workload,
    observer: &Observer,
    away: Away,
    node: u32,
) -> Result<Seen, StepError> {
    tokio::time::sleep(SETTLE).await;
    let target = TargetId(node * 100 + 1);
    workload.restart_watches();
    observer.restart();
    match away {
        Away::Killed => lab.node(node)?.signal(Signal::KILL)?,
        Away::Cut => cut(lab, node)?,
    }
    let mut seen = follow(client, target).await;
    let at = now();
    seen.reads = workload.reads().gaps(at).worst_task;
    seen.writes = workload.writes().gaps(at).worst_task;
    seen.changes = workload.changes().gaps(at).worst_task;
    seen.machine = observer.worst()?;
    match away {
        Away::Killed => {
            lab.node(node)?.kill()?;
            lab.start_node(node)?;
        }
        Away::Cut => lab.cuts().map_or(Ok(()), super::lab::network::Network::mend)?,
    }
    seen.healed = health::healthy(lab, client).await?;
    judge::surfaced(workload, Fault::KillNode)?;
    Ok(seen)
}

fn cut(lab: &Lab, node: u32) -> Result<(), StepError> {
    let missing = || StepError::Different("there are no namespaces to cut".to_owned());
    let network = lab.cuts().ok_or_else(missing)?;
    let node = Place::Node(node);
    for other in network.others(node) {
        network.cut(node, other)?;
        network.cut(other, node)?;
    }
    Ok(())
}

/// Watches the map for as long as the node stays away.
async fn follow(client: &Client, target: TargetId) -> Seen {
    let begun = now();
    let [mut evicted, mut active, mut allowed] = [WINDOW; 3];
    while begun.elapsed() < WINDOW {
        if let Ok(map) = client.refresh_map().await {
            let out = health::is_evicted(&map, target);
            let serves = map.groups.values().all(|group| group.active && group.writable());
            if out {
                evicted = evicted.min(begun.elapsed());
            }
            if out && serves {
                active = active.min(begun.elapsed());
            }
            if out && serves && map.groups.values().all(|group| group.mutations) {
                allowed = allowed.min(begun.elapsed());
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Seen { evicted, active, allowed, ..Seen::default() }
}

/// Kills every node at once and starts all again: the time until every group takes writes.
async fn restart_all(
    lab: &mut Lab,
    client: &Client,
    workload: &Workload,
    repetitions: u32,
) -> Result<Bar, StepError> {
    let mut bar = Bar::new("restart of all nodes at once, serving", None, Some(10_000));
    for _ in 0..repetitions {
        let took = restart_once(lab, client).await?;
        println!("restart of all nodes: serving after {:.0} ms", took.as_secs_f64() * 1e3);
        bar.push(took);
        health::healthy(lab, client).await?;
        judge::verify(lab, workload, Fault::KillAll).await?;
    }
    Ok(bar)
}

/// Kills every node at once and starts all again; how long until every group takes writes.
///
/// # Errors
/// [`StepError`] when that takes too long.
pub(super) async fn restart_once(lab: &mut Lab, client: &Client) -> Result<Duration, StepError> {
    let nodes = 1..=lab.plan().nodes;
    let before = client.refresh_map().await.map_err(judge::failed)?;
    for node in nodes.clone() {
        lab.node(node)?.signal(Signal::KILL)?;
    }
    for node in nodes {
        lab.node(node)?.kill()?;
        lab.start_node(node)?;
    }
    let serves = |map: &ClusterMap| serves_anew(&before, map);
    let took = health::wait(lab, client, "every group to serve", SERVES_WITHIN, serves).await?;
    // They have all registered anew, as the map that was waited for shows.
    lab.take_started();
    Ok(took)
}

/// True when every group takes writes with incarnations that started after `before`.
fn serves_anew(before: &ClusterMap, map: &ClusterMap) -> bool {
    let is_new = |target: TargetId, generation: Generation| {
        before.targets.get(&target).is_none_or(|target| generation > target.generation)
    };
    map.groups.values().all(|group| {
        group.active
            && group.writable()
            && group.serving().all(|member| is_new(member.target, member.generation))
    })
}

fn pace() -> Pace {
    Pace {
        writers: 4,
        readers: 8,
        write_rest: Duration::from_millis(5),
        read_rest: Duration::from_millis(1),
        file_bytes_max: 64 << 10,
        live_bytes_max: 32 << 20,
        fill_bytes: 0,
        changers: 4,
    }
}
