//! Many kills, one after the other, with everything acknowledged verified again and again.
//!
//! A round kills one node, or two with three replicas of everything, at once or shortly after each
//! other, and starts them again at once or after a moment. Now and then the coordinator dies too.

use std::path::Path;
use std::time::Duration;

use client::Client;
use rustix::process::Signal;

use super::plan_of;
use crate::cluster::{StepError, now};
use crate::dice::Dice;
use crate::faults::bar::{Bar, Limit};
use crate::faults::judge::Verified;
use crate::faults::lab::Lab;
use crate::faults::menu::Fault;
use crate::faults::workload::{Pace, Workload};
use crate::faults::{health, judge, stage};

/// Nodes: two more than replicas.
const NODES: u32 = 5;
/// Size of each target.
const TARGET_SIZE: u64 = 1 << 30;
/// Rounds between two verifications of everything.
const VERIFY_EVERY: u32 = 5;
/// Of a hundred rounds, those that kill two nodes.
const PAIR_PERCENT: u64 = 60;
/// Of a hundred rounds, those in which the coordinator dies too.
const COORDINATOR_PERCENT: u64 = 10;
/// Longest time between the first and the second death of a round, in milliseconds.
const APART_MAX_MS: u64 = 300;
/// Longest time that a node stays away, in milliseconds; half of them come back at once.
const AWAY_MAX_MS: u64 = 1_500;

/// What happened so far.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    kills: u32,
    rounds: u32,
    verified: Verified,
}

pub(super) fn bars(parent: &Path, kills: u32) -> Result<Vec<Bar>, StepError> {
    let plan = plan_of(NODES, TARGET_SIZE, String::new());
    stage::run(parent, "kills", plan, async |lab| measure(lab, kills).await)
}

async fn measure(mut lab: Lab, kills: u32) -> Result<Vec<Bar>, StepError> {
    let config = lab.client_config()?;
    let client = Client::connect(&config).await.map_err(judge::failed)?;
    health::healthy(&mut lab, &client).await?;
    let own = Client::connect(&config).await.map_err(judge::failed)?;
    let mut workload = Workload::start(own, lab.plan().seed, pace()).await?;
    let mut dice = Dice::new(lab.plan().seed);
    let (mut sums, begun) = (Sums::default(), now());
    while sums.kills < kills {
        sums.rounds += 1;
        sums.kills += round(&mut lab, &mut dice).await?;
        health::healthy(&mut lab, &client).await?;
        judge::surfaced(&workload, Fault::KillPair)?;
        if sums.rounds.is_multiple_of(VERIFY_EVERY) || sums.kills >= kills {
            verify(&lab, &workload, &mut sums).await?;
            let minutes = begun.elapsed().as_secs_f64() / 60.0;
            println!(
                "{} kills in {} rounds, {:.0} a minute; {} MiB in {} replicas verified, 0 lost, 0 wrong",
                sums.kills,
                sums.rounds,
                f64::from(sums.kills) / minutes,
                sums.verified.bytes >> 20,
                sums.verified.replicas
            );
        }
    }
    workload.stop().await;
    judge::surfaced(&workload, Fault::KillPair)?;
    lab.end()?;
    let mut made =
        Bar::of("kills, 0 lost, 0 wrong, 0 errors", "kills").all(Limit::AtLeast(f64::from(kills)));
    made.values.push(f64::from(sums.kills));
    Ok(vec![made])
}

/// Kills and starts again; how many nodes died.
async fn round(lab: &mut Lab, dice: &mut Dice) -> Result<u32, StepError> {
    let first = node(dice);
    let mut nodes = vec![first];
    if dice.below(100) < PAIR_PERCENT {
        let others: Vec<u32> = (1..=NODES).filter(|other| *other != first).collect();
        nodes.extend(dice.one_of(&others));
    }
    let with_coordinator = dice.below(100) < COORDINATOR_PERCENT;
    if with_coordinator {
        lab.coordinator().kill()?;
    }
    for &node in &nodes {
        lab.node(node)?.signal(Signal::KILL)?;
        if dice.below(2) == 0 {
            tokio::time::sleep(Duration::from_millis(dice.below(APART_MAX_MS))).await;
        }
    }
    for &node in &nodes {
        lab.node(node)?.kill()?;
    }
    if dice.below(2) == 0 {
        tokio::time::sleep(Duration::from_millis(dice.below(AWAY_MAX_MS))).await;
    }
    if with_coordinator {
        lab.coordinator().start()?;
    }
    for &node in &nodes {
        lab.start_node(node)?;
    }
    Ok(u32::try_from(nodes.len()).unwrap_or(0))
}

fn node(dice: &mut Dice) -> u32 {
    1 + u32::try_from(dice.below(NODES.into())).unwrap_or(0)
}

async fn verify(lab: &Lab, workload: &Workload, sums: &mut Sums) -> Result<(), StepError> {
    let verified = judge::verify(lab, workload, Fault::KillPair).await?;
    sums.verified.files += verified.files;
    sums.verified.bytes += verified.bytes;
    sums.verified.replicas += verified.replicas;
    Ok(())
}

fn pace() -> Pace {
    Pace {
        writers: 4,
        readers: 4,
        write_rest: Duration::from_millis(5),
        read_rest: Duration::from_millis(5),
        file_bytes_max: 4 << 20,
        live_bytes_max: 48 << 20,
        fill_bytes: 0,
        changers: 2,
    }
}
