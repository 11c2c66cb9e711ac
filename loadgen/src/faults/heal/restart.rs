//! Restarts of targets that hold 100,000 chunks each: one after the other, and all at once.

use std::path::Path;
use std::time::Duration;

use client::Client;
use protocol::ids::{Generation, TargetId};
use rustix::process::Signal;

use super::load::{self, target_of};
use super::plan_of;
use crate::cluster::{StepError, now};
use crate::faults::bar::Bar;
use crate::faults::inject::seconds;
use crate::faults::lab::Lab;
use crate::faults::menu::Fault;
use crate::faults::observer::{Observer, Repetitions};
use crate::faults::workload::{Pace, Workload};
use crate::faults::{gaps, health, judge, stage};

/// Nodes: as many as replicas, so that each target holds every chunk.
const NODES: u32 = 3;
/// Size of each target.
const TARGET_SIZE: u64 = 4 << 30;
/// Files of one chunk each.
const FILES: u64 = 100_000;
/// How long a node stays down: enough to be out of every group.
const DOWN: Duration = Duration::from_millis(500);
/// A restart during which the machine itself stood still for so long is made again: a fifth of what is
/// allowed.
const STOOD_STILL: Duration = Duration::from_millis(60);
/// Restarts of everything for each hundred of one target.
const ALL_PERCENT: u32 = 25;
/// A target that does not serve again after this never will.
const SERVES_WITHIN: Duration = Duration::from_secs(60);

pub(super) fn bars(parent: &Path, repetitions: u32) -> Result<Vec<Bar>, StepError> {
    let plan = plan_of(NODES, TARGET_SIZE, String::new());
    stage::run(parent, "restart", plan, async |lab| measure(lab, repetitions).await)
}

async fn measure(mut lab: Lab, repetitions: u32) -> Result<Vec<Bar>, StepError> {
    let (client, mut workload) = load::loaded(&mut lab, small()).await?;
    let begun = now();
    workload.written(|totals| totals.written_files >= FILES).await?;
    println!("{FILES} files, {} more to write them", seconds(begun.elapsed()));
    let bars = {
        // Nothing is written meanwhile, so that every restart finds the same.
        let _rest = workload.rest().await?;
        restarts(&mut lab, &client, &workload, repetitions).await?
    };
    let verified = judge::verify(&lab, &workload, Fault::KillAll).await?;
    println!("{} files and {} replicas verified, nothing lost", verified.files, verified.replicas);
    workload.stop().await;
    judge::surfaced(&workload, Fault::KillAll)?;
    lab.end()?;
    Ok(bars)
}

async fn restarts(
    lab: &mut Lab,
    client: &Client,
    workload: &Workload,
    repetitions: u32,
) -> Result<Vec<Bar>, StepError> {
    let mut one = Bar::new("restart of a target with 100,000 chunks, serving", None, Some(300));
    let mut back = Bar::new("  and a member of all its groups again", None, None);
    let mut again = Bar::new("  done again: serving", None, None);
    let mut stood_still = Bar::new("  done again: the machine stood still for", None, None);
    let observer = Observer::start(lab.root())?;
    let mut made = Repetitions::new(repetitions, STOOD_STILL);
    while let Some(number) = made.next()? {
        observer.restart();
        let node = number % NODES + 1;
        let seen = one_target(lab, client, node).await?;
        let stood_still = observer.worst()?;
        println!(
            "node {node}: serving after {}, a member again after {}; the machine stood still for {}",
            seconds(seen.0),
            seconds(seen.1),
            seconds(stood_still)
        );
        made.push(seen, stood_still);
    }
    for (serving, member) in made.counted {
        one.push(serving);
        back.push(member);
    }
    for ((serving, _), still) in made.again {
        again.push(serving);
        stood_still.push(still);
    }
    let mut all = Bar::new("restart of all such nodes at once, serving", None, Some(10_000));
    for _ in 0..(repetitions * ALL_PERCENT / 100).max(1) {
        all.push(gaps::restart_once(lab, client).await?);
        health::healthy(lab, client).await?;
    }
    judge::surfaced(workload, Fault::KillAll)?;
    let made_again = [again, stood_still].into_iter().filter(|bar| !bar.values.is_empty());
    Ok([one, back].into_iter().chain(made_again).chain([all]).collect())
}

/// Time from the start of a node's process until it serves, and until it is whole again.
async fn one_target(
    lab: &mut Lab,
    client: &Client,
    node: u32,
) -> Result<(Duration, Duration), StepError> {
    let target = target_of(node);
    let before = generation(client, target).await?;
    lab.node(node)?.signal(Signal::KILL)?;
    lab.node(node)?.kill()?;
    tokio::time::sleep(DOWN).await;
    let started = now();
    lab.start_node(node)?;
    // It registers when it has recovered and listens.
    loop {
        if generation(client, target).await? > before {
            break;
        }
        if started.elapsed() > SERVES_WITHIN {
            let what = format!("target {target} to serve");
            return Err(StepError::Timeout { seconds: SERVES_WITHIN.as_secs(), what });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let serving = started.elapsed();
    lab.take_started();
    health::healthy(lab, client).await?;
    Ok((serving, started.elapsed()))
}

async fn generation(client: &Client, target: TargetId) -> Result<Option<Generation>, StepError> {
    let map = client.refresh_map().await.map_err(judge::failed)?;
    Ok(map.targets.get(&target).map(|record| record.generation))
}

fn small() -> Pace {
    let bytes = FILES * 2048;
    Pace {
        writers: 16,
        write_rest: Duration::from_millis(100),
        file_bytes_max: 4096,
        live_bytes_max: u64::MAX,
        fill_bytes: bytes + bytes / 20,
        ..Pace::default()
    }
}
