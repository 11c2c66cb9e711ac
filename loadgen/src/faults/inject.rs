//! Breaks one thing, keeps it broken for a while, and mends it.
//!
//! Owns what each fault means. On return everything that was broken is mended, though the cluster
//! may still have to heal. Start at [`carry_out`].

use std::time::Duration;

use client::Client;
use protocol::ids::TargetId;
use protocol::status::Status;
use rustix::process::Signal;

use super::filler::Filler;
use super::health;
use super::lab::Lab;
use super::lab::network::{Network, Place};
use super::menu::{Fault, Order};
use super::rot;
use super::workload::Workload;
use crate::cluster::StepError;
use crate::dice::Dice;

/// A node whose flush failed must be out of every group within this.
const EVICTED_WITHIN: Duration = Duration::from_secs(15);
/// The coordinator runs less than this before it is stopped again.
const AWAKE_MS_MAX: u64 = 300;
/// Time in which a failing container fails often enough for its node to notice.
const SICK_HOLD: Duration = Duration::from_secs(4);

/// What a fault needs to be carried out.
pub struct Scene<'a> {
    /// The cluster.
    pub lab: &'a mut Lab,
    /// A client that is not the workload's.
    pub client: &'a Client,
    /// What goes on meanwhile.
    pub workload: &'a Workload,
}

/// Breaks, waits and mends; what happened, for people.
///
/// # Errors
/// [`StepError`] when the harness failed, or the cluster did not do what this fault asks of it.
pub async fn carry_out(scene: &mut Scene<'_>, order: &Order) -> Result<String, StepError> {
    match order.fault {
        Fault::KillNode | Fault::PowerCutNode => kill(scene, order, &[order.node]).await,
        Fault::KillPair => kill(scene, order, &[order.node, order.other]).await,
        Fault::KillTwo => {
            kill(scene, order, &[order.node]).await?;
            health::healthy(scene.lab, scene.client).await?;
            kill(scene, order, &[order.other]).await?;
            Ok(format!("nodes {} and {}, one after the other", order.node, order.other))
        }
        Fault::KillCoordinator => {
            scene.lab.coordinator().kill()?;
            tokio::time::sleep(order.hold).await;
            scene.lab.coordinator().start()?;
            Ok(format!("down {}", seconds(order.hold)))
        }
        Fault::KillAll | Fault::PowerCutAll => kill_all(scene, order).await,
        Fault::StopNode => {
            scene.lab.node(order.node)?.signal(Signal::STOP)?;
            tokio::time::sleep(order.hold).await;
            scene.lab.node(order.node)?.signal(Signal::CONT)?;
            Ok(format!("node {}, {}", order.node, seconds(order.hold)))
        }
        Fault::StopCoordinator => {
            stop_coordinator(scene, order.hold).await?;
            Ok(seconds(order.hold))
        }
        Fault::RestartStopCoordinator => {
            scene.lab.coordinator().kill()?;
            scene.lab.coordinator().start()?;
            let awake = Duration::from_millis(Dice::new(order.seed).below(AWAKE_MS_MAX));
            tokio::time::sleep(awake).await;
            stop_coordinator(scene, order.hold).await?;
            Ok(format!("{}, stopped {} after its start", seconds(order.hold), seconds(awake)))
        }
        Fault::CutNode
        | Fault::CutNodeIn
        | Fault::CutNodeOut
        | Fault::CutPair
        | Fault::CutPairOneWay
        | Fault::CutClient
        | Fault::CutCoordinator => cut(scene, order).await,
        Fault::ReadErrors => sick(scene, order, "read_errors_per_mille = 200", false).await,
        Fault::WriteErrors => sick(scene, order, "write_errors_per_mille = 50", true).await,
        Fault::ShortWrites => sick(scene, order, "short_writes_per_mille = 50", true).await,
        Fault::SlowDevice => sick(scene, order, "slow_factor = 20", false).await,
        Fault::FlushError => flush_error(scene, order).await,
        Fault::FullTarget => full_target(scene, order).await,
        Fault::FullDisk => full_disk(scene, order).await,
        Fault::BitFlips => rot::carry_out(scene, order).await,
    }
}

async fn stop_coordinator(scene: &mut Scene<'_>, hold: Duration) -> Result<(), StepError> {
    scene.lab.coordinator().signal(Signal::STOP)?;
    tokio::time::sleep(hold).await;
    scene.lab.coordinator().signal(Signal::CONT)
}

/// True when the contract allows the workload to see this error under that fault.
pub fn is_allowed(fault: Fault, status: Option<Status>) -> bool {
    fault == Fault::FullTarget && status == Some(Status::NoSpace)
}

/// Orders for a container that loses what was not flushed; `seed` decides what survives.
pub fn unflushed(seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let tear = [0, 512, 4096][usize::try_from(dice.below(3)).unwrap_or(0)];
    let early = dice.below(600);
    format!("seed = {seed}\nunflushed = 1\ntear_bytes = {tear}\nearly_per_mille = {early}\n")
}

async fn kill(scene: &mut Scene<'_>, order: &Order, nodes: &[u32]) -> Result<String, StepError> {
    // All signals first, so that nobody has time to notice the first death.
    for &node in nodes {
        scene.lab.node(node)?.signal(Signal::KILL)?;
    }
    for &node in nodes {
        scene.lab.node(node)?.kill()?;
    }
    tokio::time::sleep(order.hold).await;
    for &node in nodes {
        scene.lab.start_node(node)?;
    }
    let names: Vec<String> = nodes.iter().map(u32::to_string).collect();
    Ok(format!("node {}, down {}", names.join(" and "), seconds(order.hold)))
}

async fn kill_all(scene: &mut Scene<'_>, order: &Order) -> Result<String, StepError> {
    let all = 1..=scene.lab.plan().nodes;
    let with_coordinator = order.seed.is_multiple_of(2);
    for node in all.clone() {
        scene.lab.node(node)?.signal(Signal::KILL)?;
    }
    if with_coordinator {
        scene.lab.coordinator().kill()?;
    }
    for node in all.clone() {
        scene.lab.node(node)?.kill()?;
    }
    tokio::time::sleep(order.hold).await;
    if with_coordinator {
        scene.lab.coordinator().start()?;
    }
    for node in all {
        scene.lab.start_node(node)?;
    }
    let whom = if with_coordinator { "all nodes and the coordinator" } else { "all nodes" };
    Ok(format!("{whom}, down {}", seconds(order.hold)))
}

async fn cut(scene: &mut Scene<'_>, order: &Order) -> Result<String, StepError> {
    let missing = || StepError::Different("there are no namespaces to cut".to_owned());
    let network = scene.lab.cuts().ok_or_else(missing)?;
    let (node, other) = (Place::Node(order.node), Place::Node(order.other));
    let what = match order.fault {
        Fault::CutPair => {
            both_ways(network, node, other)?;
            format!("nodes {} and {}", order.node, order.other)
        }
        Fault::CutPairOneWay => {
            network.cut(node, other)?;
            format!("from node {} to node {}", order.node, order.other)
        }
        Fault::CutClient => {
            both_ways(network, node, Place::Client)?;
            format!("node {} and the clients", order.node)
        }
        Fault::CutCoordinator => {
            let cuts = network.others(Place::Coordinator);
            cuts.iter().try_for_each(|one| both_ways(network, Place::Coordinator, *one))?;
            "the coordinator".to_owned()
        }
        direction => {
            for one in network.others(node) {
                if direction != Fault::CutNodeOut {
                    network.cut(one, node)?;
                }
                if direction != Fault::CutNodeIn {
                    network.cut(node, one)?;
                }
            }
            format!("node {}", order.node)
        }
    };
    tokio::time::sleep(order.hold).await;
    scene.lab.cuts().ok_or_else(missing)?.mend()?;
    Ok(format!("{what}, {}", seconds(order.hold)))
}

fn both_ways(network: &Network, one: Place, other: Place) -> Result<(), StepError> {
    network.cut(one, other)?;
    network.cut(other, one)
}

/// Makes a container fail or slow for a while; a node that may have fenced itself starts again.
async fn sick(
    scene: &mut Scene<'_>,
    order: &Order,
    orders: &str,
    restart: bool,
) -> Result<String, StepError> {
    scene.lab.order(order.node, &format!("{}{orders}\n", unflushed(order.seed)))?;
    tokio::time::sleep(order.hold.max(SICK_HOLD)).await;
    scene.lab.order(order.node, &unflushed(!order.seed))?;
    if restart {
        scene.lab.node(order.node)?.kill()?;
        scene.lab.start_node(order.node)?;
    }
    Ok(format!("node {}, {}", order.node, seconds(order.hold.max(SICK_HOLD))))
}

async fn flush_error(scene: &mut Scene<'_>, order: &Order) -> Result<String, StepError> {
    let orders = format!("{}flush_errors = 1\n", unflushed(order.seed));
    scene.lab.order(order.node, &orders)?;
    let target = TargetId(order.node * 100 + 1);
    let what = format!("target {target} to be evicted after its flush failed");
    let evicted = |map: &_| health::is_evicted(map, target);
    let took = health::wait(scene.lab, scene.client, &what, EVICTED_WITHIN, evicted).await?;
    tokio::time::sleep(order.hold).await;
    scene.lab.order(order.node, &unflushed(!order.seed))?;
    scene.lab.node(order.node)?.kill()?;
    scene.lab.start_node(order.node)?;
    Ok(format!("node {}, out of every group after {}", order.node, seconds(took)))
}

async fn full_target(scene: &mut Scene<'_>, order: &Order) -> Result<String, StepError> {
    let filler = Filler::fill(scene.client, order.seed).await?;
    tokio::time::sleep(order.hold).await;
    let bytes = filler.bytes();
    let room = filler.remove(scene.client).await?;
    Ok(format!("refused after {} MiB, took writes again after {}", bytes >> 20, seconds(room)))
}

async fn full_disk(scene: &mut Scene<'_>, order: &Order) -> Result<String, StepError> {
    let missing = || StepError::Different("no node is on a small disk".to_owned());
    let bytes = scene.lab.small_disk().ok_or_else(missing)?.fill()?;
    tokio::time::sleep(order.hold / 2).await;
    // A full disk must also be startable.
    scene.lab.node(order.node)?.kill()?;
    scene.lab.start_node(order.node)?;
    health::healthy(scene.lab, scene.client).await?;
    tokio::time::sleep(order.hold / 2).await;
    scene.lab.small_disk().ok_or_else(missing)?.clear()?;
    Ok(format!("node {}, {} MiB beside the container", order.node, bytes >> 20))
}

/// A time for people.
pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
