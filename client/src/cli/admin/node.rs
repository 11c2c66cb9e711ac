//! `admin node`: the nodes, and orders about single ones.

use protocol::cluster_map::{ClusterMap, NodeRecord};
use protocol::ids::{NodeId, TargetId};
use protocol::message::cluster::{DrainStatus, StatusReply};
use protocol::message::operate::AdminOp;
use serde_json::{Value, json};

use super::args::{NodeCommand, NodeOrder};
use super::order::{eta, give};
use crate::Client;
use crate::cli::cluster::{node_word, target_word};
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::units::human_size;

pub(super) async fn run(client: &Client, command: NodeCommand) -> Result<(), Failure> {
    let on = |order: &NodeOrder| NodeId(order.number);
    match command {
        NodeCommand::List { json } => list(client, json).await,
        NodeCommand::Drain(order) => give(client, AdminOp::Drain(on(&order)), order.json).await,
        NodeCommand::Undrain(order) => give(client, AdminOp::Undrain(on(&order)), order.json).await,
        NodeCommand::Remove(order) => give(client, AdminOp::Remove(on(&order)), order.json).await,
    }
}

async fn list(client: &Client, as_json: bool) -> Result<(), Failure> {
    let (reply, map) = (client.status().await?, client.refresh_map().await?);
    let lines = map.nodes.values().map(|node| Line::of(node, &map, &reply));
    let text = if as_json {
        let nodes: Vec<Value> = lines.map(|line| line.document()).collect();
        format!("{}\n", json!({ "nodes": nodes }))
    } else {
        lines.map(|line| line.text()).collect()
    };
    print(&text).map_err(Failure::output)
}

/// One node as it is shown.
struct Line<'a> {
    node: &'a NodeRecord,
    targets: Vec<(TargetId, &'static str)>,
    /// Places in groups.
    places: usize,
    capacity: u64,
    free: u64,
    drain: Option<DrainStatus>,
}

impl<'a> Line<'a> {
    fn of(node: &'a NodeRecord, map: &ClusterMap, reply: &StatusReply) -> Line<'a> {
        let own: Vec<_> = map.targets.values().filter(|target| target.node == node.id).collect();
        let is_own = |target: TargetId| own.iter().any(|record| record.id == target);
        let members = map.groups.values().flat_map(|group| &group.members);
        let free = reply.targets.iter().filter(|health| is_own(health.target));
        Line {
            node,
            targets: own.iter().map(|target| (target.id, target_word(target.state))).collect(),
            places: members.filter(|member| is_own(member.target)).count(),
            capacity: own.iter().map(|target| target.capacity).sum(),
            free: free.map(|health| health.free).sum(),
            drain: reply.drains.iter().find(|drain| drain.node == node.id).copied(),
        }
    }

    fn document(&self) -> Value {
        let drain = self.drain.map(|drain| {
            json!({
                "groups_left": drain.groups_left,
                "bytes_left": drain.bytes_left,
                "eta_s": drain.eta_s,
            })
        });
        let target = |(id, state): &(TargetId, &str)| json!({ "target": id.0, "state": state });
        json!({
            "id": self.node.id.0,
            "state": node_word(self.node),
            "address": self.node.address.to_string(),
            "draining": self.node.draining,
            "groups": self.places,
            "capacity": self.capacity,
            "free": self.free,
            "targets": self.targets.iter().map(target).collect::<Vec<_>>(),
            "drain": drain,
        })
    }

    fn text(&self) -> String {
        let used = human_size(self.capacity.saturating_sub(self.free));
        let mut text = format!(
            "node {} {} {}: {} groups, {used} of {} used",
            self.node.id,
            node_word(self.node),
            self.node.address,
            self.places,
            human_size(self.capacity)
        );
        if let Some(drain) = self.drain {
            let (left, eta) = (human_size(drain.bytes_left), eta(drain.eta_s));
            if drain.groups_left == 0 {
                text.push_str("; empty: it may be removed");
            } else {
                let groups = drain.groups_left;
                text.push_str(&format!("; {groups} groups and {left} to move, ETA {eta}"));
            }
        }
        text.push('\n');
        text
    }
}
