//! What the node's control core and a shard tell each other.
//!
//! Everything here is plain data, so it may cross the mesh between two cores. The control core owns
//! the connection to the coordinator; a shard only knows these values.

use std::time::Duration;

use protocol::cluster_map::MapDelta;
use protocol::ids::{ClusterId, Fid, Generation, GroupId, NodeId, ShardId, TargetId};
use protocol::message::chunk::ShardStatsReply;
use protocol::message::cluster::{
    ActivatedRequest, DropDoneRequest, EvictRequest, SyncDoneRequest, TargetHealth, TargetOrders,
};
use protocol::message::heal::{CensusRequest, FileReportsRequest, GroupOrders};

use crate::io::Nanos;
use crate::limits::COMPARE_PERIOD_S;

/// What a shard is, fixed for the life of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardConfig {
    /// Node it belongs to.
    pub node: NodeId,
    /// Position in the node.
    pub shard: ShardId,
    /// Target it owns.
    pub target: TargetId,
    /// Incarnation of the target, durable since this start.
    pub generation: Generation,
    /// Its own port.
    pub port: u16,
    /// CPU it is pinned to; `u16::MAX` when it is not pinned.
    pub core: u16,
    /// Cluster it belongs to.
    pub cluster: ClusterId,
    /// Waits of the replication rules.
    pub timeouts: Timeouts,
}

/// Waits of the replication rules; tests shrink them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Time between two looks at timers.
    pub tick: Duration,
    /// A member that was silent for this long is sent the request again.
    pub resend: Duration,
    /// A member that answered "not yet" is asked again after this long.
    pub retry: Duration,
    /// A member with outstanding work that was silent for this long is reported.
    pub silence: Duration,
    /// A member that has not finished one write or adoption after this long is reported.
    pub replicate: Duration,
    /// A member tells the primary that it still works when a request is this old, and again
    /// after each such time; well below `resend`, so a slow device causes no second copy.
    pub working: Duration,
    /// Time between two reports of the same fact.
    pub report: Duration,
    /// Time between two reports of the target's health.
    pub health: Duration,
    /// Time between two comparisons of a group's members.
    pub compare: Duration,
    /// First pause before a broken connection is made again; it doubles up to `silence`.
    pub reconnect: Duration,
    /// Longest wait for writes in flight at shutdown.
    pub drain: Duration,
}

/// What the control core tells a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlEvent {
    /// The map changed. After a gap the control core sends a full delta.
    Map(MapDelta),
    /// The node's lease was renewed.
    Lease {
        /// End of the lease on this node's clock.
        expires: Nanos,
    },
    /// Files are dead: delete their chunks from these groups.
    DropFiles(Vec<(GroupId, Vec<Fid>)>),
    /// What the coordinator wants of this target: rates and the scrub pass.
    Orders(TargetOrders),
    /// Files to cut and to measure, for the primaries of their groups.
    FileOrders(Vec<GroupOrders>),
    /// Of the files with chunks that are set aside here, these are dead.
    Census(Vec<(GroupId, Vec<Fid>)>),
    /// Finish what is in flight and end.
    Shutdown,
}

/// What a shard tells the control core.
///
/// `Evict`, `Activated` and `SyncDone` are repeated until the map shows their effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardReport {
    /// A member does not answer.
    Evict(EvictRequest),
    /// This primary finished activation.
    Activated(ActivatedRequest),
    /// A syncing member is complete.
    SyncDone(SyncDoneRequest),
    /// Dead files are gone from every member.
    DropDone(DropDoneRequest),
    /// Files were cut on every member, or measured; the coordinator repeats what it did not hear.
    FileReports(FileReportsRequest),
    /// Which files of the chunks that are set aside here are dead?
    Census(CensusRequest),
    /// State of the target, every few hundred milliseconds.
    Health(TargetHealth),
    /// What the shard owns, has done and does, once a second.
    Figures(Box<ShardStatsReply>),
    /// The shard has ended; its store is closed.
    Stopped,
}

/// A shard's end of the conversation with the control core.
pub trait Control: 'static {
    /// Waits for the next event. One task calls it at a time.
    ///
    /// # Cancel safety
    /// An event is lost only when the future was polled to completion.
    async fn next(&self) -> ControlEvent;

    /// Hands a report over; false when the bounded queue is full, and the shard asks again later.
    /// Never waits.
    fn report(&self, report: ShardReport) -> bool;

    /// Takes the shard's figures, once a second, for whoever watches the node. Never waits; what
    /// finds no room is made again. Where nobody watches they are not made.
    fn publish(&self, _figures: impl FnOnce() -> ShardStatsReply) {}
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let ms = Duration::from_millis;
        Timeouts {
            tick: ms(5),
            resend: ms(150),
            retry: ms(10),
            silence: ms(1000),
            replicate: ms(5000),
            working: ms(100),
            report: ms(250),
            health: ms(250),
            compare: Duration::from_secs(COMPARE_PERIOD_S),
            reconnect: ms(20),
            drain: ms(3000),
        }
    }
}
