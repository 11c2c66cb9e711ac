//! `status`: the health of the cluster, in the order a person asks.

use std::collections::BTreeMap;

use protocol::cluster_map::{ClusterMap, GroupRecord};
use protocol::ids::TargetId;
use protocol::message::chunk::ShardStatsReply;
use protocol::message::cluster::StatusReply;
use serde_json::{Value, json};

use super::shards::{ask, node_word, target_word};
use crate::Client;
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::units::{human_seconds, human_size};

/// How many groups are in which state; each group is counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Groups {
    total: usize,
    healthy: usize,
    degraded: usize,
    unwritable: usize,
    down: usize,
}

/// Shows the health of the cluster.
pub(crate) async fn status(client: &Client, as_json: bool) -> Result<(), Failure> {
    let (reply, map) = (client.status().await?, client.refresh_map().await?);
    let shards = ask(client, &map, map.targets.keys().copied()).await;
    let text = if as_json {
        format!("{}\n", document(&reply, &map, &shards))
    } else {
        sheet(&reply, &map, &shards)
    };
    print(&text).map_err(Failure::output)
}

impl Groups {
    fn count<'a>(groups: impl Iterator<Item = &'a GroupRecord>) -> Groups {
        let mut count = Groups::default();
        for group in groups {
            count.total += 1;
            if group.down {
                count.down += 1;
            } else if !group.writable() || !group.active {
                count.unwritable += 1;
            } else if group.healthy() {
                count.healthy += 1;
            } else {
                count.degraded += 1;
            }
        }
        count
    }

    fn state(self) -> &'static str {
        if self.total == 0 || self.down + self.unwritable > 0 {
            "unavailable"
        } else if self.degraded > 0 {
            "degraded"
        } else {
            "healthy"
        }
    }
}

/// Seconds until recovery is done; `None` while nothing moves.
fn eta(reply: &StatusReply) -> Option<u64> {
    match (reply.recovery_bytes_left, reply.recovery_bytes_per_s) {
        (0, _) => Some(0),
        (_, 0) => None,
        (left, rate) => Some(left.div_ceil(rate)),
    }
}

fn document(
    reply: &StatusReply,
    map: &ClusterMap,
    shards: &BTreeMap<TargetId, ShardStatsReply>,
) -> Value {
    let groups = Groups::count(map.groups.values());
    let nodes: Vec<Value> = map
        .nodes
        .values()
        .map(|node| {
            let own = map.targets.values().filter(|target| target.node == node.id);
            let list: Vec<Value> = own
                .map(|target| {
                    let mut shard = json!({
                        "shard": target.shard.0,
                        "target": target.id.0,
                        "port": target.port,
                        "state": target_word(target.state),
                        "generation": target.generation.0,
                        "capacity": target.capacity,
                        "answers": shards.contains_key(&target.id),
                    });
                    if let Some(stats) = shards.get(&target.id) {
                        add_counters(&mut shard, stats);
                    }
                    shard
                })
                .collect();
            json!({
                "id": node.id.0,
                "state": node_word(node),
                "address": node.address.to_string(),
                "shards": list,
            })
        })
        .collect();
    let coordinators: Vec<Value> = reply
        .coordinators
        .iter()
        .map(|one| {
            json!({
                "id": one.id,
                "address": one.address,
                "leader": one.leader,
                "state": if one.up { "up" } else { "down" },
            })
        })
        .collect();
    json!({
        "state": groups.state(),
        "version": reply.release,
        "map_version": map.version.0,
        "nodes": nodes,
        "groups": {
            "total": groups.total,
            "healthy": groups.healthy,
            "degraded": groups.degraded,
            "unwritable": groups.unwritable,
            "down": groups.down,
        },
        "recovery": {
            "bytes_left": reply.recovery_bytes_left,
            "bytes_per_s": reply.recovery_bytes_per_s,
            "eta_s": eta(reply),
        },
        "coordinators": coordinators,
        "inodes": reply.inodes,
        "file_bytes": reply.file_bytes,
        "sessions": reply.sessions,
        "dead_files": reply.dead_files,
    })
}

fn add_counters(shard: &mut Value, stats: &ShardStatsReply) {
    let Value::Object(map) = shard else { return };
    let counters = [
        ("used", stats.used),
        ("chunks", stats.chunks),
        ("requests", stats.requests),
        ("bytes_in", stats.bytes_in),
        ("bytes_out", stats.bytes_out),
        ("hops", stats.hops),
        ("misroutes", stats.misroutes),
        ("flushes", stats.flushes),
        ("bytes_copied", stats.bytes_copied),
        ("connections", stats.connections.into()),
    ];
    for (name, value) in counters {
        map.insert(name.to_owned(), json!(value));
    }
    map.insert("core".to_owned(), json!(pinned(stats)));
    map.insert("checksum_path".to_owned(), json!(stats.checksum_path));
}

/// The CPU a shard is pinned to; `None` when it is not.
pub(super) fn pinned(stats: &ShardStatsReply) -> Option<u16> {
    (stats.core != u16::MAX).then_some(stats.core)
}

fn sheet(
    reply: &StatusReply,
    map: &ClusterMap,
    shards: &BTreeMap<TargetId, ShardStatsReply>,
) -> String {
    let groups = Groups::count(map.groups.values());
    let Groups { total, healthy, degraded, unwritable, down } = groups;
    let mut text = format!(
        "{}: {total} groups: {healthy} healthy, {degraded} degraded, {unwritable} unwritable, \
         {down} down\n",
        groups.state()
    );
    if reply.recovery_bytes_left > 0 {
        let left = human_size(reply.recovery_bytes_left);
        let rate = human_size(reply.recovery_bytes_per_s);
        let eta = eta(reply).map_or_else(|| "unknown".to_owned(), human_seconds);
        text.push_str(&format!("recovery: {left} left, {rate}/s, ETA {eta}\n"));
    }
    let (inodes, bytes) = (reply.inodes, human_size(reply.file_bytes));
    text.push_str(&format!("files: {inodes} inodes, {bytes}\n"));
    for one in &reply.coordinators {
        let leader = if one.leader { " leader" } else { "" };
        let state = if one.up { "up" } else { "down" };
        text.push_str(&format!("coordinator {} {state} {}{leader}\n", one.id, one.address));
    }
    for node in map.nodes.values() {
        let state = node_word(node);
        text.push_str(&format!("node {} {state} {}\n", node.id, node.address));
        for target in map.targets.values().filter(|target| target.node == node.id) {
            text.push_str(&format!(
                "  shard {} target {} port {} {}",
                target.shard,
                target.id,
                target.port,
                target_word(target.state)
            ));
            if let Some(stats) = shards.get(&target.id) {
                let core = pinned(stats).map_or_else(|| "-".to_owned(), |core| core.to_string());
                let (used, capacity) = (human_size(stats.used), human_size(stats.capacity));
                text.push_str(&format!(
                    " core {core}: {used} of {capacity}, {} chunks, {} requests, {} hops",
                    stats.chunks, stats.requests, stats.hops
                ));
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use protocol::cluster_map::{Member, Role};
    use protocol::ids::{Epoch, Generation, GroupId};

    use super::*;

    fn group(members: u32, active: bool, down: bool) -> GroupRecord {
        let member = |target| Member {
            target: TargetId(target),
            generation: Generation(1),
            role: if target == 1 { Role::Primary } else { Role::Backup },
        };
        GroupRecord {
            id: GroupId(1),
            kind: 0,
            epoch: Epoch(1),
            last_writable_epoch: Epoch(1),
            active,
            down,
            replicas: 3,
            min_write: 2,
            members: (1..=members).map(member).collect(),
            evicted: vec![],
            mutations: true,
            ..GroupRecord::default()
        }
    }

    #[test]
    fn each_group_is_counted_once_in_its_worst_state() {
        let groups = [
            group(3, true, false),
            group(2, true, false),
            group(1, true, false),
            group(3, false, false),
            group(3, true, true),
        ];
        let count = Groups::count(groups.iter());
        let expected = Groups { total: 5, healthy: 1, degraded: 1, unwritable: 2, down: 1 };
        assert_eq!(count, expected);
    }

    #[test]
    fn the_state_is_the_worst_that_matters() {
        let state = |groups: &[GroupRecord]| Groups::count(groups.iter()).state();
        assert_eq!(state(&[]), "unavailable");
        assert_eq!(state(&[group(3, true, false)]), "healthy");
        assert_eq!(state(&[group(3, true, false), group(2, true, false)]), "degraded");
        assert_eq!(state(&[group(3, true, false), group(1, true, false)]), "unavailable");
    }

    #[test]
    fn the_document_has_every_field_of_the_contract() {
        let reply = StatusReply {
            map_version: protocol::ids::MapVersion(1),
            coordinators: vec![],
            targets: vec![],
            recovery_bytes_left: 10,
            recovery_bytes_per_s: 3,
            inodes: 1,
            file_bytes: 0,
            sessions: 0,
            dead_files: 0,
            release: "0.1.0".to_owned(),
            recovery_eta_s: None,
            endangered: 0,
            guarded: false,
            scrub_pass: 0,
            drains: vec![],
            alarms: vec![],
        };
        let document = document(&reply, &ClusterMap::default(), &BTreeMap::new());
        for key in ["state", "nodes", "groups", "recovery", "coordinators", "version"] {
            assert!(document.get(key).is_some(), "{key}");
        }
        for key in ["total", "healthy", "degraded", "unwritable", "down"] {
            assert!(document["groups"][key].is_u64(), "{key}");
        }
        assert_eq!(document["recovery"]["eta_s"], 4);
    }
}
