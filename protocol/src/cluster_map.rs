//! Who stores what: nodes, targets, placement groups, and how the map changes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::ids::{ClusterId, Epoch, Generation, GroupId, MapVersion, NodeId, ShardId, TargetId};

/// What every process knows of the cluster's placement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterMap {
    /// The cluster the map belongs to.
    pub cluster: ClusterId,
    /// Raised by one with each committed change.
    pub version: MapVersion,
    /// Data nodes by id.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Targets by id.
    pub targets: BTreeMap<TargetId, TargetRecord>,
    /// Placement groups by id.
    pub groups: BTreeMap<GroupId, GroupRecord>,
}

/// One data node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node's number.
    pub id: NodeId,
    /// Whether it answers.
    pub state: NodeState,
    /// Where its shards listen.
    pub address: IpAddr,
    /// True while it is being emptied.
    pub draining: bool,
}

/// Whether a node answers, as far as the coordinator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// Registered and sending heartbeats.
    Up,
    /// No sign of life; its targets are out of every group they can leave.
    Down,
}

/// One target: the storage of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRecord {
    /// The target's number.
    pub id: TargetId,
    /// Node it is attached to.
    pub node: NodeId,
    /// Shard of that node that owns it.
    pub shard: ShardId,
    /// Physical device inside the node, for failure domains.
    pub device: u16,
    /// Port of the owning shard.
    pub port: u16,
    /// Newest registered incarnation.
    pub generation: Generation,
    /// Usable bytes.
    pub capacity: u64,
    /// Whether it serves.
    pub state: TargetState,
}

/// Whether a target serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetState {
    /// Registered by a live node.
    Up,
    /// Its node is down.
    Down,
    /// It stopped itself after a device error and serves no more in this generation.
    Fenced,
    /// It serves, but slower than its peers: it leads no group.
    Slow,
}

/// Role of a member in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Orders the writes of the group.
    Primary,
    /// Holds everything acknowledged.
    Backup,
    /// Receives every new write and is being brought up to date.
    Syncing,
}

/// One member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The target.
    pub target: TargetId,
    /// Incarnation of the target that the membership is for.
    pub generation: Generation,
    /// What it does in the group.
    pub role: Role,
}

/// Why a group's members change step by step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlanReason {
    /// A replica was lost.
    Heal,
    /// A node is being emptied.
    Drain,
    /// Data is being spread evenly.
    Rebalance,
    /// A target is slower than its peers.
    Slow,
}

/// Steps under way in one group: add a member, wait until it is complete, remove another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Why.
    pub reason: PlanReason,
    /// Target that joins.
    pub add: TargetId,
    /// Target that leaves once the new one is complete; 0 when none does.
    pub leave: TargetId,
    /// When it began, in milliseconds since 1970.
    pub since_ms: u64,
}

/// How well one group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupState {
    /// Every replica serves.
    Healthy,
    /// It takes writes, with fewer replicas than it should have.
    Degraded,
    /// It takes no writes now.
    Unwritable,
    /// No member that has everything serves.
    Down,
}

impl GroupState {
    /// Every state, the best first.
    pub const ALL: [GroupState; 4] =
        [GroupState::Healthy, GroupState::Degraded, GroupState::Unwritable, GroupState::Down];

    /// The state in one word.
    pub fn word(self) -> &'static str {
        match self {
            GroupState::Healthy => "healthy",
            GroupState::Degraded => "degraded",
            GroupState::Unwritable => "unwritable",
            GroupState::Down => "down",
        }
    }
}

/// One placement group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRecord {
    /// The group's number.
    pub id: GroupId,
    /// How members hold data; 0 is replication, other values are reserved for erasure coding.
    pub kind: u8,
    /// Version of the membership.
    pub epoch: Epoch,
    /// Newest epoch in which writes may have been acknowledged.
    pub last_writable_epoch: Epoch,
    /// True once the primary has finished activation in `epoch`.
    pub active: bool,
    /// True when no member of the last writable epoch serves.
    pub down: bool,
    /// Replicas the group should have.
    pub replicas: u8,
    /// Fewest serving members that may acknowledge a write.
    pub min_write: u8,
    /// Members: at most one primary.
    pub members: Vec<Member>,
    /// Targets that left the group and are re-admitted as syncing when they return.
    pub evicted: Vec<TargetId>,
    /// False while a member that left may still answer reads under its lease, so that changes of
    /// existing bytes may not be acknowledged yet.
    pub mutations: bool,
    /// Targets that left since changes of existing bytes were last acknowledged.
    pub departed: Vec<TargetId>,
    /// Steps under way.
    pub plan: Option<Plan>,
}

/// Changes of a map from one version to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapDelta {
    /// The cluster the map belongs to.
    pub cluster: ClusterId,
    /// Version the delta applies to; ignored when `full`.
    pub from: MapVersion,
    /// Version after it was applied.
    pub to: MapVersion,
    /// True when the delta holds the whole map and replaces what the receiver has.
    pub full: bool,
    /// Changed nodes.
    pub nodes: Vec<NodeRecord>,
    /// Changed targets.
    pub targets: Vec<TargetRecord>,
    /// Changed groups.
    pub groups: Vec<GroupRecord>,
    /// Nodes that are no longer part of the cluster.
    pub removed_nodes: Vec<NodeId>,
    /// Targets that are no longer part of the cluster.
    pub removed_targets: Vec<TargetId>,
    /// Revocations since `from`: opaque records, empty until capabilities are enforced.
    pub revocations: Vec<Vec<u8>>,
    /// Signature of the coordinator over the rest; empty until relays are allowed.
    pub signature: Vec<u8>,
}

/// The receiver's map is older than the delta's starting point: fetch a full map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("map delta starts at version {from}, this map is at {have}")]
pub struct MapGap {
    /// Where the delta starts.
    pub from: MapVersion,
    /// The receiver's version.
    pub have: MapVersion,
}

impl ClusterMap {
    /// Applies a delta; one that is not newer changes nothing and is no error.
    ///
    /// # Errors
    /// [`MapGap`] when changes between this map and the delta are missing.
    pub fn apply(&mut self, delta: &MapDelta) -> Result<(), MapGap> {
        if delta.to <= self.version {
            return Ok(());
        }
        if delta.full {
            *self = ClusterMap { cluster: delta.cluster, ..ClusterMap::default() };
        } else if delta.from > self.version {
            return Err(MapGap { from: delta.from, have: self.version });
        }
        self.version = delta.to;
        self.nodes.retain(|node, _| !delta.removed_nodes.contains(node));
        self.targets.retain(|target, _| !delta.removed_targets.contains(target));
        self.nodes.extend(delta.nodes.iter().map(|node| (node.id, node.clone())));
        self.targets.extend(delta.targets.iter().map(|target| (target.id, target.clone())));
        self.groups.extend(delta.groups.iter().map(|group| (group.id, group.clone())));
        Ok(())
    }

    /// The whole map as a delta.
    pub fn to_delta(&self) -> MapDelta {
        MapDelta {
            cluster: self.cluster,
            to: self.version,
            full: true,
            nodes: self.nodes.values().cloned().collect(),
            targets: self.targets.values().cloned().collect(),
            groups: self.groups.values().cloned().collect(),
            ..MapDelta::default()
        }
    }

    /// Node and address of a target's own port.
    pub fn endpoint(&self, target: TargetId) -> Option<(NodeId, SocketAddr)> {
        let record = self.targets.get(&target)?;
        let node = self.nodes.get(&record.node)?;
        Some((node.id, SocketAddr::new(node.address, record.port)))
    }
}

impl GroupRecord {
    /// The member that orders writes.
    pub fn primary(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.role == Role::Primary)
    }

    /// Members that hold everything acknowledged, the primary first.
    pub fn serving(&self) -> impl Iterator<Item = &Member> {
        let backups = self.members.iter().filter(|member| member.role == Role::Backup);
        self.primary().into_iter().chain(backups)
    }

    /// True when enough members serve to acknowledge a write.
    pub fn writable(&self) -> bool {
        !self.down && self.serving().count() >= usize::from(self.min_write)
    }

    /// How well it is.
    pub fn state(&self) -> GroupState {
        if self.down {
            GroupState::Down
        } else if !self.writable() || !self.active {
            GroupState::Unwritable
        } else if self.healthy() {
            GroupState::Healthy
        } else {
            GroupState::Degraded
        }
    }

    /// True when every replica the group should have serves.
    pub fn healthy(&self) -> bool {
        self.active && !self.down && self.serving().count() >= usize::from(self.replicas)
    }

    /// The entry of one target.
    pub fn member(&self, target: TargetId) -> Option<&Member> {
        self.members.iter().find(|member| member.target == target)
    }
}
