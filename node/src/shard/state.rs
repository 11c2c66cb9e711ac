//! What a shard knows: the map, its groups, and the tables they share.

use std::collections::BTreeMap;

use protocol::cluster_map::ClusterMap;
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, NodeId, RequestId, TargetId, Version};
use protocol::limits::RESYNCS_PER_TARGET_MAX;
use protocol::message::cluster::{GroupResync, TargetOrders};

use super::budget::Budget;
use super::control::ShardConfig;
use super::event::{JobId, ReplyTo};
use super::upkeep::Upkeep;
use crate::group::calls::Call;
use crate::group::member::Member;
use crate::group::resync::Resync;
use crate::io::Nanos;
use crate::store::GroupInfo;

/// The whole state of one shard.
#[derive(Clone, Debug)]
pub struct ShardState<P> {
    /// What the groups share.
    pub core: Core,
    /// Groups this incarnation was ever a member of, and those the store knew at the start.
    pub groups: BTreeMap<GroupId, Member<P>>,
    /// What the store knew of each group at the start.
    pub known: BTreeMap<GroupId, GroupInfo>,
}

/// What the groups of a shard share.
#[derive(Clone, Debug)]
pub struct Core {
    /// What the shard is.
    pub config: ShardConfig,
    /// Newest map.
    pub map: ClusterMap,
    /// End of the node's lease.
    pub lease: Nanos,
    /// What the coordinator wants of this target.
    pub orders: TargetOrders,
    /// Files that the coordinator says are dead, of chunks that are set aside here.
    pub census: BTreeMap<GroupId, Vec<Fid>>,
    /// True when the store fenced itself.
    pub fenced: bool,
    /// When shutdown was asked for.
    pub stopping: Option<Nanos>,
    /// True once the driver was told to end.
    pub finished: bool,
    /// Bytes and requests in flight.
    pub budget: Budget,
    /// Requests to other members that have no answer yet.
    pub calls: BTreeMap<RequestId, Call>,
    /// Tasks in the store and what they are for.
    pub jobs: BTreeMap<JobId, Job>,
    /// Whole chunks of resync in flight, all groups together.
    pub copies: usize,
    /// Background work that keeps replicas good.
    pub upkeep: Upkeep,
    /// What happened since the start.
    pub counters: Counters,
    next_request: u64,
    next_job: u64,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Data requests of clients admitted.
    pub requests: u64,
    /// Requests answered with another shard's port.
    pub misroutes: u64,
    /// Map deltas that did not fit the map here; a full one follows.
    pub map_gaps: u64,
    /// Bytes that resync copied from here.
    pub resync_bytes_done: u64,
}

/// What a task in the store is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Make the epoch durable.
    Adopt(GroupId, Epoch),
    /// The primary's own copy of a version.
    Local(GroupId, Version),
    /// The primary drops its own copy of a version that failed.
    LocalDiscard(GroupId, Version),
    /// The primary drops pendings that it does not trust.
    FallBack(GroupId, Epoch),
    /// The primary deletes dead files.
    LocalDrop(GroupId, Epoch),
    /// Free files of a group that this target left.
    Forget(GroupId),
    /// A version that the primary sent; `u32` is the payload's length.
    Follow(GroupId, ChunkKey, Version, Epoch, u32),
    /// Good bytes for a damaged version.
    Repair(GroupId, ChunkKey, Version),
    /// A version that the primary takes over from another member.
    Take(GroupId, ChunkKey, Version),
    /// Another request of the primary.
    Answer(GroupId, Epoch, ReplyTo),
}

impl<P> ShardState<P> {
    /// Makes the state of a shard whose store knows these groups.
    pub fn new(config: ShardConfig, known: Vec<(GroupId, GroupInfo)>) -> ShardState<P> {
        let core = Core {
            config,
            map: ClusterMap { cluster: config.cluster, ..ClusterMap::default() },
            lease: Nanos(0),
            orders: TargetOrders { target: config.target, ..TargetOrders::default() },
            census: BTreeMap::new(),
            fenced: false,
            stopping: None,
            finished: false,
            budget: Budget::default(),
            calls: BTreeMap::new(),
            jobs: BTreeMap::new(),
            copies: 0,
            upkeep: Upkeep::default(),
            counters: Counters::default(),
            next_request: 1,
            next_job: 1,
        };
        ShardState { core, groups: BTreeMap::new(), known: known.into_iter().collect() }
    }

    /// Bytes that resync still has to copy from here, as far as inventories are known.
    pub fn resync_bytes_left(&self) -> u64 {
        let of_group = |member: &Member<P>| member.resync.values().map(Resync::left).sum::<u64>();
        self.groups.values().map(of_group).sum()
    }

    /// Cells that are damaged now, in the groups that this target is a member of.
    pub fn cells_bad(&self) -> u64 {
        self.groups.values().map(|member| member.repairs.bad).sum()
    }

    /// Copies under way from here, up to as many as one message holds.
    pub fn resyncs(&self) -> Vec<GroupResync> {
        let of_group = |member: &Member<P>| {
            let group = member.group;
            let copy = move |(target, resync): (&TargetId, &Resync)| GroupResync {
                group,
                target: *target,
                bytes_left: resync.left(),
                bytes_done: resync.bytes_done,
            };
            member.resync.iter().map(copy).collect::<Vec<_>>()
        };
        self.groups.values().flat_map(of_group).take(RESYNCS_PER_TARGET_MAX).collect()
    }
}

impl Core {
    /// Draws a request id; they are unique over all peers.
    pub fn new_request(&mut self) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        id
    }

    /// Notes what a new task is for.
    pub fn new_job(&mut self, owner: Job) -> JobId {
        let id = JobId(self.next_job);
        self.next_job += 1;
        self.jobs.insert(id, owner);
        id
    }

    /// This shard's target.
    pub fn me(&self) -> TargetId {
        self.config.target
    }

    /// True once the map has this start of the target: what its recovery found is kept by the
    /// coordinator.
    pub fn registered(&self) -> bool {
        let record = self.map.targets.get(&self.me());
        record.is_some_and(|record| {
            record.generation == self.config.generation || !guard::holds(Guard::VerdictKnown)
        })
    }

    /// The node a target is attached to, as the map says.
    pub fn node_of(&self, target: TargetId) -> Option<NodeId> {
        self.map.targets.get(&target).map(|record| record.node)
    }
}

impl Job {
    /// The group the task is of.
    pub fn group(&self) -> GroupId {
        match *self {
            Job::Adopt(group, _)
            | Job::Local(group, _)
            | Job::LocalDiscard(group, _)
            | Job::LocalDrop(group, _)
            | Job::FallBack(group, _)
            | Job::Forget(group)
            | Job::Follow(group, ..)
            | Job::Repair(group, ..)
            | Job::Take(group, ..)
            | Job::Answer(group, ..) => group,
        }
    }
}
