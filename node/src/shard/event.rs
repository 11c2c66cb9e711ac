//! Everything that can wake a shard.
//!
//! Events are facts. `P` stands for a payload: the pure code passes it on and never looks inside.

use protocol::ids::{Epoch, GroupId, NodeId, RequestId, TargetId};
use protocol::message::Kind;
use protocol::message::chunk::{
    AdoptReply, AdoptRequest, CommittedNotice, DiscardRequest, DropRequest, InventoryReply,
    InventoryRequest, QuarantineRequest, ReadRequest, ReplicateReply, ReplicateRequest,
    VerifyRequest, WorkingNotice, WriteRequest,
};
use protocol::message::heal::{DigestReply, DigestRequest, FetchRequest, ReportCorruptRequest};
use protocol::status::Status;

use super::control::ControlEvent;
use super::heal::HealEvent;
use crate::io::Nanos;
use crate::store::{Durable, StoreError};

/// An inbound connection, numbered by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Work handed to the store, numbered by the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyTo {
    /// Connection the request came on.
    pub conn: ConnId,
    /// Its request id.
    pub request: RequestId,
    /// What was asked.
    pub kind: Kind,
}

/// What the frame header and the connection say about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where the answer goes.
    pub reply: ReplyTo,
    /// Epoch in the header.
    pub epoch: Epoch,
    /// When the asker stops waiting.
    pub deadline: Option<Nanos>,
    /// The node the certificate names; `None` for clients and administrators.
    pub node: Option<NodeId>,
}

/// A request of another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<P> {
    /// Bytes of a chunk are wanted.
    Read(ReadRequest),
    /// Bytes for a chunk; `intact` says whether the payload matched its sums.
    Write(WriteRequest, P, bool),
    /// A version to store; `intact` as for a write.
    Replicate(ReplicateRequest, P, bool),
    /// A primary asks to adopt its epoch.
    Adopt(AdoptRequest),
    /// A primary asks to drop pendings.
    Discard(DiscardRequest),
    /// A primary asks what is here.
    Inventory(InventoryRequest),
    /// A primary asks what the group amounts to here.
    Digest(DigestRequest),
    /// A primary asks to set chunks aside.
    Quarantine(QuarantineRequest),
    /// A primary asks to delete files.
    Drop(DropRequest),
    /// Someone asks to check a chunk on the device.
    Verify(VerifyRequest),
    /// A member asks for cells, to repair its own.
    Fetch(FetchRequest),
    /// Someone found bytes that do not match their checksum.
    ReportCorrupt(ReportCorruptRequest),
}

/// A peer's answer to a request of this shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The version is durable there.
    Replicate(ReplicateReply),
    /// The epoch is durable there.
    Adopt(AdoptReply),
    /// One page of what is there.
    Inventory(InventoryReply),
    /// What the group amounts to there.
    Digest(DigestReply),
    /// `Discard`, `Quarantine` or `Drop` is durable there.
    Done,
    /// It was refused.
    Refused(Status),
}

/// A fact the shard has to react to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<P> {
    /// A request arrived.
    Asked(Asked, Request<P>),
    /// A primary says what is committed.
    Committed {
        /// Node the connection belongs to.
        node: NodeId,
        /// Epoch in the header.
        epoch: Epoch,
        /// What it said.
        notice: CommittedNotice,
    },
    /// A member says that it still works.
    Working {
        /// The member.
        target: TargetId,
        /// Epoch in the header.
        epoch: Epoch,
        /// What it said.
        notice: WorkingNotice,
    },
    /// A member answered.
    Answered {
        /// The member.
        target: TargetId,
        /// The request it answers.
        request: RequestId,
        /// Its answer.
        answer: Answer,
    },
    /// A request could not be handed to the network; it is sent again later.
    Unsent {
        /// The request.
        request: RequestId,
    },
    /// The connection to a member broke or could not be made.
    PeerLost {
        /// The member.
        target: TargetId,
        /// True when the connection was refused: its process is certainly not running.
        refused: bool,
    },
    /// A connection to a member was made.
    PeerUp {
        /// The member.
        target: TargetId,
    },
    /// The store finished a task.
    Stored {
        /// The task.
        job: JobId,
        /// How it ended; `Some` for a write or an install.
        result: Result<Option<Durable>, StoreError>,
    },
    /// A whole chunk could not be read for sending.
    WholeFailed {
        /// The request that should have carried it.
        request: RequestId,
        /// Why.
        error: StoreError,
    },
    /// A read or verification left the shard or failed.
    Served {
        /// Bytes that were reserved for it.
        bytes: u32,
    },
    /// Something about healing happened.
    Heal(HealEvent<P>),
    /// The control core said something.
    Control(ControlEvent),
    /// Time passed.
    Tick {
        /// True when the store fenced itself.
        fenced: bool,
    },
}

impl<P> Request<P> {
    /// The group it is about.
    pub fn group(&self) -> GroupId {
        match self {
            Request::Read(request) => request.group,
            Request::Write(request, ..) => request.group,
            Request::Replicate(request, ..) => request.group,
            Request::Adopt(request) => request.group,
            Request::Discard(request) => request.group,
            Request::Inventory(request) => request.group,
            Request::Digest(request) => request.group,
            Request::Quarantine(request) => request.group,
            Request::Drop(request) => request.group,
            Request::Verify(request) => request.group,
            Request::Fetch(request) => request.group,
            Request::ReportCorrupt(request) => request.group,
        }
    }
}
