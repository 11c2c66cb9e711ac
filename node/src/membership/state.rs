//! What the node knows of itself and of the cluster. Pure: time comes in as arguments.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use protocol::cluster_map::{ClusterMap, MapDelta};
use protocol::ids::{ClusterId, Fid, GroupId, MapVersion, NodeId, TargetId};
use protocol::message::cluster::{
    HeartbeatRequest, RegisterRequest, TargetHealth, TargetOrders, TargetReport,
};
use protocol::message::heal::GroupOrders;

use super::outbox::Outbox;
use crate::io::Nanos;

/// Taken off every lease for what the clocks of both sides may differ in reading.
const LEASE_MARGIN: Duration = Duration::from_millis(50);
/// The clocks of both sides may run apart by one part in this.
const LEASE_DRIFT: u32 = 1000;

/// Who the node is; fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its number.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Drawn at random at start; a connection made again keeps it.
    pub incarnation: u64,
    /// Where its shards listen.
    pub address: IpAddr,
    /// Its targets, one a shard, as recovery found them.
    pub targets: Vec<TargetReport>,
}

/// What the control executor holds.
#[derive(Debug)]
pub struct State {
    identity: Identity,
    map: ClusterMap,
    health: BTreeMap<TargetId, TargetHealth>,
    outboxes: Vec<Outbox>,
    heartbeats: u64,
}

impl State {
    /// Starts with an empty map; shard `n` owns the target at position `n`.
    pub fn new(identity: Identity) -> State {
        let outboxes = identity.targets.iter().map(|_| Outbox::default()).collect();
        let health =
            identity.targets.iter().map(|target| (target.target, health(target))).collect();
        let map = ClusterMap { cluster: identity.cluster, ..ClusterMap::default() };
        State { identity, map, health, outboxes, heartbeats: 0 }
    }

    /// Who the node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Version of the map.
    pub fn map_version(&self) -> MapVersion {
        self.map.version
    }

    /// What to register with.
    pub fn registration(&self) -> RegisterRequest {
        RegisterRequest {
            node: self.identity.node,
            incarnation: self.identity.incarnation,
            address: self.identity.address,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            targets: self.identity.targets.clone(),
        }
    }

    /// The next heartbeat.
    pub fn heartbeat(&mut self) -> HeartbeatRequest {
        self.heartbeats += 1;
        HeartbeatRequest {
            node: self.identity.node,
            incarnation: self.identity.incarnation,
            seq: self.heartbeats,
            map_version: self.map.version,
            targets: self.health.values().cloned().collect(),
        }
    }

    /// Applies a change of the map and passes it to every shard.
    /// False when changes before it are missing and the whole map must be fetched.
    pub fn apply(&mut self, delta: &MapDelta) -> bool {
        if delta.to <= self.map.version {
            return true;
        }
        if self.map.apply(delta).is_err() {
            return false;
        }
        for outbox in &mut self.outboxes {
            outbox.map(delta);
        }
        true
    }

    /// Passes a renewed lease to every shard.
    pub fn renew(&mut self, sent: Nanos, lease_ms: u32) {
        let expires = lease_end(sent, lease_ms);
        for outbox in &mut self.outboxes {
            outbox.lease(expires);
        }
    }

    /// Passes dead files to the shards whose targets are primaries of their groups.
    pub fn drop_files(&mut self, groups: Vec<(GroupId, Vec<Fid>)>) {
        for (group, fids) in groups {
            if let Some(outbox) = self.primary_outbox(group) {
                outbox.drop_files(group, fids);
            }
        }
    }

    /// Passes orders about single files to the shards whose targets are primaries of the groups.
    pub fn file_orders(&mut self, groups: Vec<GroupOrders>) {
        for orders in groups {
            if let Some(outbox) = self.primary_outbox(orders.group) {
                outbox.file_orders(orders);
            }
        }
    }

    /// Passes the coordinator's wishes to the shards that own the targets.
    pub fn orders(&mut self, orders: &[TargetOrders]) {
        for order in orders {
            if let Some(outbox) = self.outbox_of(order.target) {
                outbox.orders(*order);
            }
        }
    }

    /// Tells every shard which files of chunks that are set aside are dead; each has its own.
    pub fn census(&mut self, dead: Vec<(GroupId, Vec<Fid>)>) {
        for outbox in &mut self.outboxes {
            for (group, fids) in &dead {
                outbox.census(*group, fids.clone());
            }
        }
    }

    fn primary_outbox(&mut self, group: GroupId) -> Option<&mut Outbox> {
        let primary = self.map.groups.get(&group)?.primary()?.target;
        self.outbox_of(primary)
    }

    fn outbox_of(&mut self, target: TargetId) -> Option<&mut Outbox> {
        let shard = self.identity.targets.iter().position(|own| own.target == target)?;
        self.outboxes.get_mut(shard)
    }

    /// State of every target, as its shard said last.
    pub fn health(&self) -> &BTreeMap<TargetId, TargetHealth> {
        &self.health
    }

    /// Notes the state of a target.
    pub fn note_health(&mut self, health: TargetHealth) {
        self.health.insert(health.target, health);
    }

    /// Orders every shard to end.
    pub fn shutdown(&mut self) {
        self.outboxes.iter_mut().for_each(Outbox::shutdown);
    }

    /// Each shard's waiting news, with the map they are made from.
    pub fn outboxes(&mut self) -> (&ClusterMap, &mut [Outbox]) {
        (&self.map, &mut self.outboxes)
    }
}

/// End of a lease, counted from when the heartbeat that renewed it was sent, and ended early by
/// what the coordinator's clock may run faster.
pub fn lease_end(sent: Nanos, lease_ms: u32) -> Nanos {
    let lease = Duration::from_millis(u64::from(lease_ms));
    let usable = lease.saturating_sub(lease / LEASE_DRIFT).saturating_sub(LEASE_MARGIN);
    sent.after(usable)
}

fn health(target: &TargetReport) -> TargetHealth {
    TargetHealth {
        target: target.target,
        durable_lsn: target.recovered_lsn,
        free: target.free,
        ..TargetHealth::default()
    }
}

#[cfg(test)]
mod tests;
