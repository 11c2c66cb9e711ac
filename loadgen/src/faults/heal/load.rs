//! A cluster that holds a given number of bytes and goes on being used.

use std::time::Duration;

use client::Client;
use protocol::cluster_map::ClusterMap;
use protocol::ids::{NodeId, TargetId};
use protocol::message::cluster::StatusReply;

use crate::cluster::{StepError, now};
use crate::faults::inject::seconds;
use crate::faults::lab::Lab;
use crate::faults::workload::{Pace, Workload};
use crate::faults::{health, judge};

/// Nodes of a cluster that holds much.
pub(super) const NODES: u32 = 4;
/// Bytes that each of its nodes holds, at least.
pub(super) const NODE_BYTES: u64 = 2 << 30;
/// Size of each target: what a node holds when one of four is gone takes three quarters of it.
pub(super) const TARGET_SIZE: u64 = 14 << 28;

/// A healthy cluster that was filled as the load says, under that load, which goes on.
///
/// # Errors
/// [`StepError`] when it does not become healthy or a write fails.
pub(super) async fn loaded(lab: &mut Lab, load: Pace) -> Result<(Client, Workload), StepError> {
    let config = lab.client_config()?;
    let client = Client::connect(&config).await.map_err(judge::failed)?;
    health::healthy(lab, &client).await?;
    let own = Client::connect(&config).await.map_err(judge::failed)?;
    let begun = now();
    let fill = load.fill_bytes;
    let workload = Workload::start(own, lab.plan().seed, load).await?;
    workload.written(|totals| totals.written_bytes >= fill).await?;
    println!("{} MiB stored in {}", fill >> 20, seconds(begun.elapsed()));
    Ok((client, workload))
}

/// A load that fills each node with so many bytes and then reads and writes a little without pause.
pub(super) fn light(node_bytes: u64) -> Pace {
    let bytes = node_bytes * u64::from(NODES) / 3;
    Pace {
        writers: 6,
        readers: 4,
        write_rest: Duration::from_millis(250),
        read_rest: Duration::from_millis(20),
        file_bytes_max: 12 << 20,
        live_bytes_max: bytes,
        fill_bytes: bytes,
        changers: 0,
    }
}

/// The target of a node; each node has one.
pub(super) fn target_of(node: u32) -> TargetId {
    TargetId(node * 100 + 1)
}

/// The node with the most places in groups.
pub(super) fn fullest(map: &ClusterMap) -> Option<u32> {
    map.nodes.keys().max_by_key(|node| (places(map, **node), **node)).map(|node| node.0)
}

/// Places in groups that a node has.
pub(super) fn places(map: &ClusterMap, node: NodeId) -> usize {
    let members = map.groups.values().flat_map(|group| &group.members);
    members.filter(|member| member.target == target_of(node.0)).count()
}

/// Bytes that all targets together have copied since they started.
pub(super) fn copied(status: &StatusReply) -> u64 {
    status.targets.iter().map(|health| health.resync_bytes_done).sum()
}

/// Bytes in use on a target.
pub(super) fn used(map: &ClusterMap, status: &StatusReply, target: TargetId) -> u64 {
    let capacity = map.targets.get(&target).map_or(0, |record| record.capacity);
    let free = status.targets.iter().find(|health| health.target == target);
    free.map_or(0, |health| capacity.saturating_sub(health.free))
}
