//! `status`: the health of the cluster, in the order a person asks.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use protocol::cluster_map::ClusterMap;
use protocol::ids::TargetId;
use protocol::message::chunk::ShardStatsReply;
use protocol::message::cluster::{Alarm, DrainStatus, StatusReply, TargetHealth};
use serde_json::{Value, json};

use super::groups::Groups;
use super::shards::{ask, node_word, target_word};
use crate::Client;
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::units::{human_seconds, human_size};

/// Pause between two looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows the health of the cluster.
pub(crate) async fn status(client: &Client, as_json: bool) -> Result<(), Failure> {
    let text = shown(client, as_json).await?;
    print(&text).map_err(Failure::output)
}

/// Shows the health of the cluster again and again.
pub(crate) async fn watch(client: &Client) -> Result<(), Failure> {
    let clear = std::io::stdout().is_terminal();
    loop {
        let text = shown(client, false).await?;
        let text = if clear { format!("{CLEAR}{text}") } else { format!("{text}\n") };
        print(&text).map_err(Failure::output)?;
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

async fn shown(client: &Client, as_json: bool) -> Result<String, Failure> {
    let (reply, map) = (client.status().await?, client.refresh_map().await?);
    let shards = ask(client, &map, map.targets.keys().copied()).await;
    Ok(if as_json {
        format!("{}\n", document(&reply, &map, &shards))
    } else {
        sheet(&reply, &map, &shards)
    })
}

/// Seconds until recovery is done; `None` while nothing moves.
fn eta(reply: &StatusReply) -> Option<u64> {
    if reply.recovery_eta_s.is_some() {
        return reply.recovery_eta_s;
    }
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
            "endangered": groups.endangered,
        },
        "recovery": {
            "bytes_left": reply.recovery_bytes_left,
            "bytes_per_s": reply.recovery_bytes_per_s,
            "eta_s": eta(reply),
            "guarded": reply.guarded,
        },
        "drains": drains(reply),
        "scrub": scrub(reply),
        "alarms": alarms(reply),
        "coordinators": coordinators,
        "inodes": reply.inodes,
        "file_bytes": reply.file_bytes,
        "sessions": reply.sessions,
        "dead_files": reply.dead_files,
    })
}

fn drains(reply: &StatusReply) -> Vec<Value> {
    let drain = |drain: &DrainStatus| {
        json!({
            "node": drain.node.0,
            "groups_left": drain.groups_left,
            "bytes_left": drain.bytes_left,
            "eta_s": drain.eta_s,
        })
    };
    reply.drains.iter().map(drain).collect()
}

fn scrub(reply: &StatusReply) -> Value {
    let sum = |of: fn(&TargetHealth) -> u64| reply.targets.iter().map(of).sum::<u64>();
    json!({
        "pass": reply.scrub_pass,
        "cells_damaged": sum(|health| health.cells_damaged),
        "cells_repaired": sum(|health| health.cells_repaired),
        "cells_bad": sum(|health| health.cells_bad),
        "quarantined_chunks": sum(|health| health.quarantined_chunks),
        "quarantined_bytes": sum(|health| health.quarantined_bytes),
    })
}

fn alarms(reply: &StatusReply) -> Vec<Value> {
    let alarm = |alarm: &Alarm| {
        let target = (alarm.target.0 != 0).then_some(alarm.target.0);
        json!({ "target": target, "name": alarm.name, "text": alarm.text })
    };
    reply.alarms.iter().map(alarm).collect()
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
        ("allocations", stats.activity.allocations),
        ("connections", stats.connections.into()),
        ("clear_connections", stats.clear_connections.into()),
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
    let Groups { total, healthy, degraded, unwritable, down, endangered } = groups;
    let mut text = format!(
        "{}: {total} groups: {healthy} healthy, {degraded} degraded, {unwritable} unwritable, \
         {down} down\n",
        groups.state()
    );
    if endangered > 0 {
        text.push_str(&format!("endangered: {endangered} groups have one serving replica\n"));
    }
    text.push_str(&work(reply));
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
                if stats.clear_connections > 0 {
                    let clear = stats.clear_connections;
                    text.push_str(&format!(", {clear} connections not encrypted"));
                }
            }
            text.push('\n');
        }
    }
    text
}

/// What the cluster does by itself, and what it wants an operator to see.
fn work(reply: &StatusReply) -> String {
    let mut text = String::new();
    let time = |eta: Option<u64>| eta.map_or_else(|| "unknown".to_owned(), human_seconds);
    if reply.recovery_bytes_left > 0 {
        let left = human_size(reply.recovery_bytes_left);
        let rate = human_size(reply.recovery_bytes_per_s);
        text.push_str(&format!("recovery: {left} left, {rate}/s, ETA {}\n", time(eta(reply))));
    }
    if reply.guarded {
        text.push_str("recovery: no copies are started, because too much disappeared at once\n");
    }
    for drain in &reply.drains {
        let (node, groups, left) = (drain.node, drain.groups_left, human_size(drain.bytes_left));
        let eta = time(drain.eta_s);
        text.push_str(&format!("drain of node {node}: {groups} groups, {left} left, ETA {eta}\n"));
    }
    let sum = |of: fn(&TargetHealth) -> u64| reply.targets.iter().map(of).sum::<u64>();
    let (damaged, bad) = (sum(|health| health.cells_damaged), sum(|health| health.cells_bad));
    if damaged + bad > 0 {
        let repaired = sum(|health| health.cells_repaired);
        text.push_str(&format!(
            "damage: {damaged} cells found damaged, {repaired} repaired, {bad} bad now\n"
        ));
    }
    for alarm in &reply.alarms {
        text.push_str(&format!("alarm {}: {}\n", alarm.name, alarm.text));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
