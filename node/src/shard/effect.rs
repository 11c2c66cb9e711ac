//! Everything a shard can ask the driver to do. Effects are orders; they are carried out in order.

use std::rc::Rc;
use std::time::Duration;

use protocol::checksum::CellSum;
use protocol::cluster_map::Role;
use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, OpId, RequestId, TargetId, Version};
use protocol::message::chunk::{
    AdoptReply, AdoptRequest, CommittedNotice, DiscardRequest, DropRequest, InventoryReply,
    InventoryRequest, QuarantineRequest, ReplicateReply, ReplicateRequest, WorkingNotice,
    WriteClass, WriteReply,
};
use protocol::message::heal::{DigestReply, DigestRequest, FetchRequest};
use protocol::status::Status;

use super::control::ShardReport;
use super::event::{ConnId, JobId, ReplyTo};
use super::heal::HealOrder;

/// Orders of one step, in the order they must be carried out.
pub type Effects<P> = Vec<Effect<P>>;

/// One order to the driver.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect<P> {
    /// Hand a task to the store; its end comes back as `Event::Stored`.
    Store {
        /// Names the task.
        job: JobId,
        /// What to do.
        task: Task<P>,
    },
    /// Tell the store that everything at or below a version is committed.
    CommitThrough {
        /// The group.
        group: GroupId,
        /// The mark.
        through: Version,
    },
    /// Send a message to another member.
    Send {
        /// The member.
        target: TargetId,
        /// Request id; 0 for a notice.
        request: RequestId,
        /// Epoch for the header.
        epoch: Epoch,
        /// The message.
        message: PeerMessage,
        /// Its payload.
        payload: Option<P>,
    },
    /// Read the newest version of a chunk and send it whole.
    SendWhole {
        /// The member.
        target: TargetId,
        /// Request id.
        request: RequestId,
        /// Epoch for the header.
        epoch: Epoch,
        /// What to read and how to label it.
        whole: Whole,
        /// Which connection it goes over.
        lane: Lane,
    },
    /// Read committed bytes and answer with them; `Event::Served` when done.
    ServeRead {
        /// Where the answer goes.
        to: ReplyTo,
        /// Epoch for the header.
        epoch: Epoch,
        /// What to read.
        read: ReadTask,
    },
    /// Check a chunk on the device and answer; `Event::Served` when done.
    ServeVerify {
        /// Where the answer goes.
        to: ReplyTo,
        /// Group that holds the chunk.
        group: GroupId,
        /// The chunk.
        key: ChunkKey,
    },
    /// Answer a request.
    Reply {
        /// Where the answer goes.
        to: ReplyTo,
        /// Epoch for the header.
        epoch: Epoch,
        /// The answer.
        answer: Result<ReplyBody, Refusal>,
    },
    /// Tell a primary, on the connection it uses, that work is outstanding.
    Working {
        /// The connection.
        conn: ConnId,
        /// Epoch for the header.
        epoch: Epoch,
        /// The notice.
        notice: WorkingNotice,
    },
    /// Tell the store that the coordinator knows what its recovery found.
    VerdictKnown,
    /// Tell the control core.
    Report(ShardReport),
    /// What heals replicas.
    Heal(HealOrder),
    /// Write a line for whoever operates the node.
    Alert(Alert),
    /// Everything in flight is done: close the store and end.
    Finish,
}

/// Something that whoever operates the node should know; the log bounds how often it is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alert {
    /// Nobody trusts a version that may have been acknowledged: the one before is served again.
    FellBack {
        /// The group.
        group: GroupId,
        /// The chunk.
        key: ChunkKey,
        /// The version.
        version: Version,
    },
    /// A syncing member has no room for what it should hold.
    NoRoom {
        /// The group.
        group: GroupId,
        /// The member.
        target: TargetId,
        /// How long it is left in peace.
        pause: Duration,
    },
    /// A member that serves holds a chunk otherwise than the others, and calls it good.
    Differs {
        /// The group.
        group: GroupId,
        /// The chunk.
        key: ChunkKey,
        /// The member that is wrong.
        target: TargetId,
    },
    /// A primary lacked what another member has, and took it over.
    TakenOver {
        /// The group.
        group: GroupId,
        /// The chunk.
        key: ChunkKey,
        /// The version.
        version: Version,
    },
    /// Two replicas hold other bytes under one version, each with good checksums.
    Divergent {
        /// The group.
        group: GroupId,
        /// The chunk.
        key: ChunkKey,
        /// The other member.
        target: TargetId,
    },
}

/// Work for the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task<P> {
    /// Make one write durable.
    Write(WriteTask<P>),
    /// Install a whole chunk at a fixed version.
    Install(WriteTask<P>, Installed),
    /// Make an epoch durable.
    Adopt(GroupId, Epoch),
    /// Drop pendings.
    Discard(GroupId, Vec<(ChunkKey, Version)>),
    /// Set chunks aside.
    Quarantine(GroupId, Vec<ChunkKey>),
    /// Delete files.
    Drop(GroupId, Vec<Fid>),
    /// Put good bytes in the place of damaged ones.
    Repair(RepairTask<P>),
}

/// One version to make durable, as the store wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteTask<P> {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// Version to store it under.
    pub version: Version,
    /// Version it builds on.
    pub base: Version,
    /// Operation that caused it.
    pub op: OpId,
    /// Whether it only extends the chunk.
    pub class: WriteClass,
    /// First byte inside the chunk.
    pub offset: u32,
    /// Bytes of payload.
    pub len: u32,
    /// Length the chunk is expected to reach.
    pub expect_len: u32,
    /// Truncation generation of the file.
    pub trunc_gen: u32,
    /// Cell size, as a power of two.
    pub cell_log2: u8,
    /// Chunk size, as a power of two.
    pub chunk_log2: u8,
    /// One checksum for each touched cell.
    pub sums: Rc<[CellSum]>,
    /// The bytes; `None` when there are none.
    pub payload: Option<P>,
}

/// Good bytes for consecutive cells of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairTask<P> {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// The damaged version.
    pub version: Version,
    /// Cell the bytes start with.
    pub first_cell: u32,
    /// Bytes of payload: whole cells, the chunk's last one cut at its length.
    pub len: u32,
    /// The bytes.
    pub payload: P,
}

/// What an installed chunk brings along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Newest operation of each recent session.
    pub ops: Vec<OpId>,
    /// True when the chunk was ever changed other than by growth.
    pub mutated: bool,
    /// True when the version is committed on the sender.
    pub committed: bool,
    /// True when the bytes were compared with their sums.
    pub checked: bool,
}

/// A message to another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// Store this version.
    Replicate(Box<ReplicateRequest>),
    /// Adopt my epoch.
    Adopt(AdoptRequest),
    /// Drop these pendings.
    Discard(DiscardRequest),
    /// What do you hold?
    Inventory(InventoryRequest),
    /// What does the group amount to?
    Digest(DigestRequest),
    /// Set these chunks aside.
    Quarantine(QuarantineRequest),
    /// Delete these files.
    Drop(DropRequest),
    /// Send me these cells.
    Fetch(FetchRequest),
    /// This much is committed.
    Committed(CommittedNotice),
}

/// One of the two connections to a target. A frame of several MiB holds up whatever is sent behind
/// it, so copies have a connection of their own and clients never wait for one to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// What clients or changes of membership wait for.
    Urgent,
    /// Copies of resync.
    Bulk,
}

/// A whole chunk to read and send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// The primary that sends it: this target.
    pub primary: TargetId,
    /// Role of the receiver.
    pub role: Role,
    /// Mark for the receiver; [`Version::ZERO`] while it may not apply one.
    pub committed_through: Version,
}

/// Bytes to read for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadTask {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// First byte inside the chunk.
    pub offset: u32,
    /// Bytes wanted.
    pub len: u32,
    /// True when the newest version is committed although the store does not know yet.
    pub newest: bool,
    /// The version that was looked up; another one will not do unless the chunk only grows.
    pub exact: Option<Version>,
    /// True when the cells are to be verified first.
    pub verify: bool,
}

/// Body of a positive answer; bodies of reads are made by the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyBody {
    /// The write is durable on every member.
    Write(WriteReply),
    /// The version is durable here.
    Replicate(ReplicateReply),
    /// The epoch is durable here.
    Adopt(AdoptReply),
    /// One page of what is here.
    Inventory(InventoryReply),
    /// What the group amounts to here.
    Digest(DigestReply),
    /// The pendings are gone.
    Discard,
    /// The chunks are set aside.
    Quarantine,
    /// The files are gone.
    Drop,
}

/// A negative answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub status: Status,
    /// Detail for people, appended to the status's text; may be empty.
    pub detail: String,
    /// Port of the right shard, for `WrongShard`.
    pub port: u16,
    /// When to try again, for `Busy`.
    pub retry_after_ms: u32,
}

impl Refusal {
    /// Refuses with a detail for people.
    pub fn new(status: Status, detail: impl Into<String>) -> Refusal {
        let retry_after_ms = if status == Status::Busy { BUSY_RETRY_MS } else { 0 };
        Refusal { status, detail: detail.into(), port: 0, retry_after_ms }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal::new(status, "")
    }
}

/// Pause that a `Busy` answer asks for, in milliseconds.
const BUSY_RETRY_MS: u32 = 20;
