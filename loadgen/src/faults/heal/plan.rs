//! How soon the coordinator begins to copy what was lost.
//!
//! Two of eight nodes are killed a few seconds apart. A group that lost one member is copied after
//! the damping, one that lost both at once.

use std::path::Path;
use std::time::{Duration, Instant};

use client::Client;
use protocol::cluster_map::{ClusterMap, GroupRecord};
use protocol::ids::TargetId;
use rustix::process::Signal;

use super::load::target_of;
use super::plan_of;
use crate::cluster::{StepError, now};
use crate::faults::bar::Bar;
use crate::faults::lab::Lab;
use crate::faults::menu::Fault;
use crate::faults::workload::{Pace, Workload};
use crate::faults::{health, judge, stage};

/// Nodes: two of them may be lost at once without counting as a mass failure.
const NODES: u32 = 8;
/// Size of each target.
const TARGET_SIZE: u64 = 512 << 20;
/// Time between the two deaths.
const APART: Duration = Duration::from_secs(4);
/// Time between two looks at the map.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A copy that has not begun this long after the second death never will.
const LIMIT: Duration = Duration::from_secs(40);
/// Time without any change of the map after which plans count as ended.
const REST: Duration = Duration::from_secs(8);
/// Plans that spread data and primaries end within this: a quarter of the groups gets another primary when two
/// of eight nodes return, two every five seconds.
const REST_WITHIN: Duration = Duration::from_secs(300);
/// Repetitions of one round: one for each of the two nodes.
const ROUND_VALUES: u32 = 2;

pub(super) fn bars(parent: &Path, repetitions: u32) -> Result<Vec<Bar>, StepError> {
    let plan = plan_of(NODES, TARGET_SIZE, String::new());
    let rounds = repetitions.div_ceil(ROUND_VALUES).max(1);
    stage::run(parent, "plan", plan, async |lab| measure(lab, rounds).await)
}

async fn measure(mut lab: Lab, rounds: u32) -> Result<Vec<Bar>, StepError> {
    let config = lab.client_config()?;
    let client = Client::connect(&config).await.map_err(judge::failed)?;
    health::healthy(&mut lab, &client).await?;
    let own = Client::connect(&config).await.map_err(judge::failed)?;
    let mut workload = Workload::start(own, lab.plan().seed, pace()).await?;
    let mut damped = Bar::new("copy begins after kill, less 15 s of damping", None, Some(1_000));
    let mut last = Bar::new("copy of a last replica begins after kill", None, Some(1_000));
    for round in 1..=rounds {
        let seen = lose_two(&mut lab, &client).await?;
        println!("round {round}: {seen:?}");
        seen.damped.iter().for_each(|time| damped.push(*time));
        seen.last.iter().for_each(|time| last.push(*time));
        judge::surfaced(&workload, Fault::KillTwo)?;
    }
    judge::verify(&lab, &workload, Fault::KillTwo).await?;
    workload.stop().await;
    lab.end()?;
    Ok(vec![damped, last])
}

/// What one round showed.
#[derive(Debug, Default)]
struct Seen {
    damped: Vec<Duration>,
    last: Vec<Duration>,
}

/// The map, once the plans that spread data over returned nodes have ended: each of them brings
/// somebody new into a group, which must not be taken for a copy of what was lost.
async fn at_rest(client: &Client) -> Result<ClusterMap, StepError> {
    let begun = now();
    let look = async || client.refresh_map().await.map_err(judge::failed);
    let mut map = look().await?;
    while begun.elapsed() < REST_WITHIN {
        tokio::time::sleep(REST).await;
        let next = look().await?;
        if next.version == map.version {
            return Ok(ClusterMap::clone(&next));
        }
        map = next;
    }
    let what = "an end of the plans that spread data".to_owned();
    Err(StepError::Timeout { seconds: REST_WITHIN.as_secs(), what })
}

async fn lose_two(lab: &mut Lab, client: &Client) -> Result<Seen, StepError> {
    let map = at_rest(client).await?;
    let missing = || StepError::Different("no two nodes share a group".to_owned());
    let pair = pair(&map).ok_or_else(missing)?;
    let first = kill(lab, pair.0)?;
    tokio::time::sleep(APART).await;
    let second = kill(lab, pair.1)?;
    let targets = (target_of(pair.0), target_of(pair.1));
    let had = |group: &GroupRecord, target| group.member(target).is_some();
    let lost = |one: bool, other: bool| -> Vec<GroupRecord> {
        let is_such =
            |group: &&GroupRecord| had(group, targets.0) == one && had(group, targets.1) == other;
        map.groups.values().filter(is_such).cloned().collect()
    };
    let (both, alone) = (lost(true, true), [lost(true, false), lost(false, true)]);
    let at_last = begins(client, &both, targets, second).await?;
    let mut seen = Seen { last: vec![at_last.duration_since(second)], ..Seen::default() };
    for (groups, killed) in alone.iter().zip([first, second]) {
        let at = begins(client, groups, targets, killed).await?;
        let took = at.duration_since(killed);
        let damping = coordinator::limits::HEAL_AFTER;
        let early = || StepError::Different(format!("copied {took:?} after the kill: undamped"));
        seen.damped.push(took.checked_sub(damping).ok_or_else(early)?);
    }
    for node in [pair.0, pair.1] {
        lab.node(node)?.kill()?;
        lab.start_node(node)?;
    }
    health::healthy(lab, client).await?;
    Ok(seen)
}

fn kill(lab: &mut Lab, node: u32) -> Result<Instant, StepError> {
    lab.node(node)?.signal(Signal::KILL)?;
    Ok(now())
}

/// When the first of some groups gets somebody new in place of those that died.
async fn begins(
    client: &Client,
    groups: &[GroupRecord],
    dead: (TargetId, TargetId),
    since: Instant,
) -> Result<Instant, StepError> {
    let begun = |map: &ClusterMap| {
        groups.iter().any(|before| {
            let now = map.groups.get(&before.id);
            now.is_some_and(|group| {
                let new = |target| before.member(target).is_none();
                group.members.iter().any(|member| new(member.target))
                    && group.serving().all(|it| it.target != dead.0 && it.target != dead.1)
            })
        })
    };
    while since.elapsed() < LIMIT {
        if client.refresh_map().await.is_ok_and(|map| begun(&map)) {
            return Ok(now());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let what = format!("a copy of one of {} groups to begin", groups.len());
    Err(StepError::Timeout { seconds: LIMIT.as_secs(), what })
}

/// The two nodes that share the most groups, each of which has groups without the other too.
fn pair(map: &ClusterMap) -> Option<(u32, u32)> {
    let nodes: Vec<u32> = map.nodes.keys().map(|node| node.0).collect();
    let pairs = nodes.iter().flat_map(|one| nodes.iter().map(move |other| (*one, *other)));
    let count = |one: u32, other: Option<u32>| {
        let is_in = |group: &&GroupRecord| {
            let has = |node| group.member(target_of(node)).is_some();
            has(one) && other.is_none_or(has)
        };
        map.groups.values().filter(is_in).count()
    };
    let shared = |(one, other): &(u32, u32)| count(*one, Some(*other));
    pairs
        .filter(|(one, other)| one < other)
        .filter(|pair| {
            let both = shared(pair);
            both > 0 && count(pair.0, None) > both && count(pair.1, None) > both
        })
        .max_by_key(shared)
}

fn pace() -> Pace {
    Pace {
        writers: 2,
        readers: 2,
        write_rest: Duration::from_millis(20),
        read_rest: Duration::from_millis(20),
        file_bytes_max: 64 << 10,
        live_bytes_max: 32 << 20,
        ..Pace::default()
    }
}
