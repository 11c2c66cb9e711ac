//! Hello, registration, heartbeats, map, group reports, sessions, status.

use std::net::IpAddr;

use crate::cluster_map::MapDelta;
use crate::ids::{
    ClusterId, Epoch, Fid, Generation, GroupId, Lsn, MapVersion, NodeId, SessionId, ShardId,
    TargetId, Version,
};
use crate::limits::ERROR_TEXT_MAX;
use crate::status::Status;

/// First frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloRequest {
    /// Oldest protocol version the sender speaks.
    pub version_min: u16,
    /// Newest protocol version the sender speaks.
    pub version_max: u16,
    /// Feature bits of the sender.
    pub features: u64,
    /// Cluster the sender belongs to.
    pub cluster: ClusterId,
    /// Target the sender means to reach; 0 for a coordinator or any shard.
    pub target: TargetId,
}

/// Answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// Version both will speak.
    pub version: u16,
    /// Feature bits both have.
    pub features: u64,
    /// Requests the sender may have in flight.
    pub requests_in_flight: u32,
}

/// Body of every response whose status is not `Ok`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorReply {
    /// For people: what went wrong and where.
    pub text: String,
    /// Port of the right shard, for `WrongShard`; else 0.
    pub port: u16,
    /// When to try again, for `Busy`; else 0.
    pub retry_after_ms: u32,
}

/// A node and its targets present themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterRequest {
    /// The node's number; must match its certificate.
    pub node: NodeId,
    /// Drawn at random when the process started.
    pub incarnation: u64,
    /// Where its shards listen.
    pub address: IpAddr,
    /// Release of the node, for people.
    pub release: String,
    /// Its targets.
    pub targets: Vec<TargetReport>,
}

/// One target as its node found it at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetReport {
    /// The target.
    pub target: TargetId,
    /// Shard that owns it.
    pub shard: ShardId,
    /// Physical device inside the node.
    pub device: u16,
    /// Port of the owning shard.
    pub port: u16,
    /// Incarnation, already durable.
    pub generation: Generation,
    /// Last journal position that recovery found.
    pub recovered_lsn: Lsn,
    /// False when recovery could not trust the journal or index.
    pub intact: bool,
    /// Usable bytes.
    pub capacity: u64,
    /// Free bytes.
    pub free: u64,
    /// Groups the target holds data or an epoch of.
    pub groups: Vec<GroupReport>,
}

/// What a target knows of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// The group.
    pub group: GroupId,
    /// Newest epoch it adopted.
    pub epoch: Epoch,
    /// Everything at or below is committed here.
    pub committed_through: Version,
}

/// The node is part of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterReply {
    /// Length of the lease each heartbeat renews, in milliseconds.
    pub lease_ms: u32,
    /// Time between heartbeats, in milliseconds.
    pub heartbeat_ms: u32,
    /// The whole map.
    pub map: MapDelta,
}

/// Sign of life of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatRequest {
    /// The node.
    pub node: NodeId,
    /// As registered.
    pub incarnation: u64,
    /// Counts heartbeats from 1.
    pub seq: u64,
    /// Version of the node's map.
    pub map_version: MapVersion,
    /// Its targets.
    pub targets: Vec<TargetHealth>,
}

/// State of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetHealth {
    /// The target.
    pub target: TargetId,
    /// Newest durable journal position.
    pub durable_lsn: Lsn,
    /// Free bytes.
    pub free: u64,
    /// True when it fenced itself.
    pub fenced: bool,
    /// Bytes that resync still has to copy from this target as primary.
    pub resync_bytes_left: u64,
    /// Bytes that resync has copied from this target as primary, since start.
    pub resync_bytes_done: u64,
    /// Newest map version that the target's shard has applied.
    pub map_version: MapVersion,
    /// Copies under way from this target as primary.
    pub resyncs: Vec<GroupResync>,
    /// Newest scrub pass that it finished.
    pub scrub_pass: u32,
    /// Bytes that the present scrub pass has checked.
    pub scrub_bytes_done: u64,
    /// Bytes that the present scrub pass has to check.
    pub scrub_bytes_total: u64,
    /// Cells found damaged since start.
    pub cells_damaged: u64,
    /// Cells repaired since start.
    pub cells_repaired: u64,
    /// Cells that are damaged now.
    pub cells_bad: u64,
    /// Chunks set aside.
    pub quarantined_chunks: u64,
    /// Their bytes.
    pub quarantined_bytes: u64,
    /// 99th percentile of device time over the last seconds, in microseconds.
    pub device_p99_us: u32,
    /// Device transfers in that time.
    pub device_ops: u32,
    /// 99th percentile of flush time over the last seconds, in microseconds.
    pub flush_p99_us: u32,
    /// Age of the oldest device transfer that has not ended, in milliseconds.
    pub oldest_io_ms: u32,
}

/// One copy under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupResync {
    /// The group.
    pub group: GroupId,
    /// Member that is being brought up to date.
    pub target: TargetId,
    /// Bytes that still have to be copied to it.
    pub bytes_left: u64,
    /// Bytes that were copied to it.
    pub bytes_done: u64,
}

/// What the coordinator wants of one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetOrders {
    /// The target.
    pub target: TargetId,
    /// Rate at which it may send copies as primary, in bytes per second; 0 for the node's default.
    pub resync_bytes_per_s: u64,
    /// Rate at which it checks what it holds, in bytes per second; 0 for the node's default.
    pub scrub_bytes_per_s: u64,
    /// Scrub pass that it should have finished.
    pub scrub_pass: u32,
}

/// Answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// The heartbeat answered.
    pub seq: u64,
    /// Length of the lease, counted by the node from when it sent the heartbeat.
    pub lease_ms: u32,
    /// Newest map version.
    pub map_version: MapVersion,
    /// Changes since the node's map version, when there are any.
    pub delta: Option<MapDelta>,
    /// What is wanted of the node's targets.
    pub orders: Vec<TargetOrders>,
}

/// Tells a node that the map changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapPushNotice {
    /// The change.
    pub delta: MapDelta,
}

/// Asks for the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFetchRequest {
    /// Version the sender has; 0 for none.
    pub have: MapVersion,
}

/// The map since the asked version; not newer than it when nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFetchReply {
    /// The change.
    pub delta: MapDelta,
}

/// The primary of a group asks to remove a member that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvictRequest {
    /// The group.
    pub group: GroupId,
    /// Epoch in which it did not answer.
    pub epoch: Epoch,
    /// The member.
    pub target: TargetId,
    /// Target that asks.
    pub reporter: TargetId,
}

/// Accepted; the new epoch comes with the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvictReply;

/// The primary of a group has finished activation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivatedRequest {
    /// The group.
    pub group: GroupId,
    /// The epoch.
    pub epoch: Epoch,
    /// The primary.
    pub target: TargetId,
}

/// Committed: the primary may acknowledge writes of the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivatedReply;

/// A syncing member holds everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncDoneRequest {
    /// The group.
    pub group: GroupId,
    /// Epoch in which it became complete.
    pub epoch: Epoch,
    /// The member.
    pub target: TargetId,
}

/// Committed; the promotion comes with the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncDoneReply;

/// Tells the node of a group's primary that files are dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropFilesNotice {
    /// Group and dead files in it.
    pub groups: Vec<(GroupId, Vec<Fid>)>,
}

/// The files are gone from every member of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropDoneRequest {
    /// Group and files.
    pub groups: Vec<(GroupId, Vec<Fid>)>,
}

/// Noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropDoneReply;

/// Asks for the state of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRequest;

/// State of the cluster as the coordinator sees it; groups are in the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReply {
    /// Newest map version.
    pub map_version: MapVersion,
    /// Coordinators and which one leads.
    pub coordinators: Vec<CoordinatorStatus>,
    /// Latest report of each target.
    pub targets: Vec<TargetHealth>,
    /// Bytes that resync still has to copy.
    pub recovery_bytes_left: u64,
    /// Rate of resync over the last seconds, in bytes per second.
    pub recovery_bytes_per_s: u64,
    /// Inodes in the namespace.
    pub inodes: u64,
    /// Sum of the sizes of all files, in bytes.
    pub file_bytes: u64,
    /// Open sessions.
    pub sessions: u32,
    /// Files that wait to be deleted from nodes.
    pub dead_files: u64,
    /// Release of the coordinator, for people.
    pub release: String,
    /// Expected seconds until every group has its replicas; `None` when nobody knows.
    pub recovery_eta_s: Option<u64>,
    /// Groups with one serving member.
    pub endangered: u32,
    /// True while a mass failure keeps the planner from starting copies.
    pub guarded: bool,
    /// Scrub pass that was asked for last.
    pub scrub_pass: u32,
    /// Nodes that are being emptied.
    pub drains: Vec<DrainStatus>,
    /// What an operator should look at.
    pub alarms: Vec<Alarm>,
}

/// One node that is being emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainStatus {
    /// The node.
    pub node: NodeId,
    /// Places in groups that it still has.
    pub groups_left: u32,
    /// Bytes that still have to move.
    pub bytes_left: u64,
    /// Expected seconds until it is empty; `None` when nobody knows yet.
    pub eta_s: Option<u64>,
}

/// Something an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Target it is about; 0 for the cluster.
    pub target: TargetId,
    /// Name for programs, such as `disk_rolled_back`.
    pub name: String,
    /// For people: what, where, what to do.
    pub text: String,
}

/// One coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorStatus {
    /// Its number.
    pub id: u32,
    /// Where it listens, `host:port`.
    pub address: String,
    /// True when it leads.
    pub leader: bool,
    /// True when it answers.
    pub up: bool,
}

/// Opens a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOpenRequest {
    /// Name of the client program, for people.
    pub client: String,
}

/// The session is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOpenReply {
    /// Its id.
    pub session: SessionId,
    /// It ends when it is not renewed for this long, in milliseconds.
    pub lease_ms: u32,
    /// Numeric user the coordinator takes the caller for.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// True when the caller may set owners.
    pub admin: bool,
}

/// Keeps sessions alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRenewRequest {
    /// The session.
    pub session: SessionId,
}

/// The session lives on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRenewReply;

/// Ends a session; its unpublished inodes are deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionCloseRequest {
    /// The session.
    pub session: SessionId,
}

/// Ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionCloseReply;

impl ErrorReply {
    /// Makes an error reply from a status and a detail for people.
    ///
    /// The detail may hold what a peer sent: control characters are escaped, and the text is cut at
    /// [`ERROR_TEXT_MAX`] bytes.
    pub fn new(status: Status, detail: impl AsRef<str>) -> ErrorReply {
        let mut text = status.text().to_owned();
        if !detail.as_ref().is_empty() {
            text.push_str(": ");
        }
        for character in detail.as_ref().chars() {
            let escaped = if character.is_control() {
                character.escape_default().collect::<String>()
            } else {
                character.to_string()
            };
            if text.len() + escaped.len() > ERROR_TEXT_MAX {
                break;
            }
            text.push_str(&escaped);
        }
        ErrorReply { text, ..ErrorReply::default() }
    }
}
