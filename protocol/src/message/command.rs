//! What the coordinator's replicated log holds.
//!
//! A closed set: the state of the coordinator is exactly the result of applying these in order.

use std::net::IpAddr;

use crate::cluster_map::{Member, Plan};
use crate::ids::{
    ClusterId, Epoch, Fid, Generation, GroupId, Lsn, NodeId, Seq, SessionId, TargetId,
};
use crate::message::cluster::TargetReport;
use crate::message::heal::GroupReports;
use crate::message::namespace::NamespaceOp;

/// Time and randomness of a command, decided before it is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since 1970; strictly rising along the log.
    pub time_ms: u64,
    /// Random bits for whatever the command has to choose.
    pub nonce: u64,
}

/// Who asks, as the certificate says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Numeric user.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// True when it may set owners and administer.
    pub admin: bool,
}

/// One change of the coordinator's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// First command of a log: makes the cluster and its root directory.
    Initialize {
        /// The cluster.
        cluster: ClusterId,
        /// Replicas of each group.
        replicas: u8,
        /// Fewest serving members that may acknowledge a write.
        min_write: u8,
        /// Groups each target should be a member of.
        groups_per_target: u16,
        /// Targets to wait for before groups are made.
        targets_expected: u32,
        /// Owner of the root directory.
        owner: Caller,
    },
    /// A node registered; new targets join, known ones start a new generation.
    RegisterNode {
        /// The node.
        node: NodeId,
        /// As the node sent it.
        incarnation: u64,
        /// Where its shards listen.
        address: IpAddr,
        /// Its targets.
        targets: Vec<TargetReport>,
    },
    /// A node gives no sign of life, or is back without having restarted.
    SetNodeState {
        /// The node.
        node: NodeId,
        /// True when it answers.
        up: bool,
    },
    /// A target fenced itself.
    FenceTarget {
        /// The target.
        target: TargetId,
    },
    /// Makes groups over the registered targets.
    CreateGroups {
        /// How many.
        count: u32,
    },
    /// Changes the membership of a group in a new epoch.
    ChangeGroup {
        /// The group.
        group: GroupId,
        /// Refused unless the group is in this epoch.
        expected_epoch: Epoch,
        /// Members of the new epoch.
        members: Vec<Member>,
        /// Targets to re-admit when they return.
        evicted: Vec<TargetId>,
        /// True when no member serves.
        down: bool,
        /// Why the membership changes step by step; `None` when no steps follow.
        plan: Option<Plan>,
    },
    /// No member that left a group can answer reads any more.
    AllowMutations {
        /// The group.
        group: GroupId,
        /// Refused unless the group is in this epoch.
        epoch: Epoch,
    },
    /// A node is to be emptied, or no longer.
    SetNodeDraining {
        /// The node.
        node: NodeId,
        /// True to empty it.
        draining: bool,
    },
    /// Forgets a node whose targets are in no group.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// A target is slower than its peers, or no longer.
    SetTargetSlow {
        /// The target.
        target: TargetId,
        /// True to avoid it.
        slow: bool,
    },
    /// Every target is to check everything it holds.
    StartScrub,
    /// Data is to be spread evenly over the targets, or no longer.
    SetRebalance {
        /// True to spread it.
        on: bool,
    },
    /// Journal positions that targets reported as durable.
    NoteDurable {
        /// Target, its incarnation and the position.
        targets: Vec<(TargetId, Generation, Lsn)>,
    },
    /// What groups have done for single files.
    FileReports {
        /// One entry for each group.
        groups: Vec<GroupReports>,
    },
    /// The primary of an epoch has finished activation.
    Activated {
        /// The group.
        group: GroupId,
        /// Refused unless the group is in this epoch.
        epoch: Epoch,
    },
    /// A syncing member is complete; it becomes a backup in a new epoch.
    SyncDone {
        /// The group.
        group: GroupId,
        /// Refused unless the group is in this epoch.
        epoch: Epoch,
        /// The member.
        target: TargetId,
    },
    /// Opens a session.
    OpenSession {
        /// Who opens it.
        caller: Caller,
        /// Name of the client program.
        client: String,
    },
    /// Ends a session and abandons its unpublished files.
    EndSession {
        /// The session.
        session: SessionId,
    },
    /// Namespace changes of one session.
    Mutate {
        /// The session.
        session: SessionId,
        /// Who asks.
        caller: Caller,
        /// The changes.
        ops: Vec<(Seq, NamespaceOp)>,
    },
    /// Dead files are gone from every member of these groups.
    DropDone {
        /// Group and files.
        groups: Vec<(GroupId, Vec<Fid>)>,
    },
    /// Digest of the state before this command, so replicas can compare.
    Digest {
        /// Commands applied so far.
        applied: u64,
        /// Hash of the state's tables.
        digest: u128,
    },
}
