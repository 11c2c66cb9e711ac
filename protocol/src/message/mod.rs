//! The messages: what each frame's body says.
//!
//! Domain types with public fields live here, one file per conversation; the flatbuffers form is
//! confined to `generated/` and to the `codec` modules beside each file. Domain types derive no
//! serialization.
//!
//! - [`cluster`]: hello, registration, heartbeats, map, group reports, sessions, status.
//! - [`activity`]: what one shard does, for rates and percentiles.
//! - [`chunk`]: the data path between clients, primaries and backups.
//! - [`heal`]: repair, digests, and the coordinator's orders about single files.
//! - [`operate`]: an operator's orders and what clients report.
//! - [`namespace`]: lookups, listings and mutations of the file tree.
//! - [`command`]: what the coordinator's replicated log holds.

pub mod activity;
pub mod chunk;
pub mod cluster;
pub mod command;
pub mod heal;
pub mod namespace;
pub mod operate;

mod codec;
mod framing;
mod generated;

pub use codec::{Body, check_body, decode_command, encode_command};
pub use framing::{
    Context, error_frame, error_reply, notice_frame, open, open_error, reply_frame, request_frame,
};

use crate::frame::FrameError;
use crate::limits::{BODY_LEN_MAX, BODY_LEN_MAX_LIST, PAYLOAD_LEN_MAX};
use crate::message::cluster::ErrorReply;
use crate::status::Status;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        /// What a frame is. A response has the kind of its request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Kind {
            $($(#[$doc])* $name = $code,)*
        }

        impl Kind {
            /// Every kind, for tables and tests.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// Reads a wire code without the response bit.
            pub fn from_code(code: u16) -> Option<Kind> {
                match code {
                    $($code => Some(Kind::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// First frame of every connection, in both directions.
    Hello = 0x0001;
    /// Presents a capability; the answer is its handle on this connection.
    BindToken = 0x0002;

    /// Client to any serving member: bytes of a chunk.
    Read = 0x0101;
    /// Client to primary: bytes for a chunk.
    Write = 0x0102;
    /// Primary to backup or syncing member: bytes for a chunk under a version.
    Replicate = 0x0103;
    /// Primary to member, notice: everything at or below a version is committed.
    Committed = 0x0104;
    /// Member to primary, notice: work is outstanding, no reason to suspect me.
    Working = 0x0105;
    /// New primary to member: adopt my epoch, tell me your pendings.
    Adopt = 0x0106;
    /// New primary to member: drop these pendings.
    Discard = 0x0107;
    /// Primary to syncing member: what do you hold?
    Inventory = 0x0108;
    /// Primary to syncing member: set these chunks aside.
    Quarantine = 0x0109;
    /// Primary to member: delete every chunk of these files.
    Drop = 0x010a;
    /// Client to member: read one chunk from the device and report its checksums.
    Verify = 0x010b;
    /// Anyone to shard: counters and ownership.
    ShardStats = 0x010c;
    /// Member to member: cells of a chunk, to repair the asker's copy.
    Fetch = 0x010d;
    /// Primary to member: what do you hold, in one number?
    Digest = 0x010e;
    /// Client to member: these cells do not match their checksums.
    ReportCorrupt = 0x010f;

    /// Node to coordinator: here I am.
    Register = 0x0201;
    /// Node to coordinator, every few hundred milliseconds.
    Heartbeat = 0x0202;
    /// Coordinator to node, notice: the map changed.
    MapPush = 0x0203;
    /// Anyone to coordinator: the map since a version.
    MapFetch = 0x0204;
    /// Primary's node to coordinator: this member does not answer.
    Evict = 0x0205;
    /// Primary's node to coordinator: activation is complete.
    Activated = 0x0206;
    /// Primary's node to coordinator: this syncing member is complete.
    SyncDone = 0x0207;
    /// Coordinator to node, notice: delete these files from these groups.
    DropFiles = 0x0208;
    /// Node to coordinator: deletion is durable on every member.
    DropDone = 0x0209;
    /// Anyone to coordinator: state of the cluster.
    Status = 0x020a;
    /// Administrator to coordinator: an operator's order.
    Admin = 0x020b;
    /// Anyone to coordinator: groups with a plan or a syncing member.
    Plans = 0x020c;
    /// Node to coordinator: which of these files are dead?
    Census = 0x020d;
    /// Coordinator to node, notice: cut or measure these files.
    FileOrders = 0x020e;
    /// Node to coordinator: files that were cut or measured.
    FileReports = 0x020f;

    /// Client to coordinator: open a session.
    SessionOpen = 0x0301;
    /// Client to coordinator: keep the session.
    SessionRenew = 0x0302;
    /// Client to coordinator: end the session.
    SessionClose = 0x0303;
    /// Client to coordinator: resolve a batch of paths.
    Lookup = 0x0304;
    /// Client to coordinator: one page of a directory.
    ReadDir = 0x0305;
    /// Client to coordinator: a batch of namespace changes.
    Mutate = 0x0306;
    /// Client to coordinator: the primary of a group does not answer.
    Unreachable = 0x0307;
    /// Coordinator to client, notice: these files may be changed from now on.
    GrowthCleared = 0x0308;
    /// Client to coordinator: I rely on what I was told no more.
    WordsReturned = 0x0309;
}

impl Kind {
    /// The code in the header, without the response bit.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// True when frames of this kind may carry a payload in the given direction.
    pub fn has_payload(self, response: bool) -> bool {
        match self {
            Kind::Read | Kind::Fetch => response,
            Kind::Write | Kind::Replicate => !response,
            _ => false,
        }
    }

    /// Longest body of this kind, in bytes.
    pub fn body_len_max(self) -> usize {
        if self.has_long_body() { BODY_LEN_MAX_LIST } else { BODY_LEN_MAX }
    }

    /// Longest payload of this kind in the given direction, in bytes; 0 when it carries none.
    pub fn payload_len_max(self, response: bool) -> usize {
        if self.has_payload(response) { PAYLOAD_LEN_MAX } else { 0 }
    }

    /// True for kinds that are never answered.
    pub fn is_notice(self) -> bool {
        matches!(
            self,
            Kind::Committed
                | Kind::Working
                | Kind::MapPush
                | Kind::DropFiles
                | Kind::FileOrders
                | Kind::GrowthCleared
        )
    }

    /// True when a body of this kind may be as long as [`crate::limits::BODY_LEN_MAX_LIST`].
    pub fn has_long_body(self) -> bool {
        matches!(
            self,
            Kind::Adopt
                | Kind::Discard
                | Kind::Inventory
                | Kind::Quarantine
                | Kind::Verify
                | Kind::Register
                | Kind::Heartbeat
                | Kind::MapPush
                | Kind::MapFetch
                | Kind::DropFiles
                | Kind::DropDone
                | Kind::Status
                | Kind::Plans
                | Kind::Census
                | Kind::FileOrders
                | Kind::FileReports
                | Kind::Lookup
                | Kind::ReadDir
                | Kind::Mutate
        )
    }
}

/// Why a body is not the message its frame claims, or a message does not fit a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The body is not a valid flatbuffer of this message.
    #[error("malformed {message}")]
    Malformed {
        /// Name of the message.
        message: &'static str,
    },
    /// A field is missing or out of its range.
    #[error("{message}: field {field} is missing or out of range")]
    Field {
        /// Name of the message.
        message: &'static str,
        /// The field, as it is named in the schema.
        field: &'static str,
    },
    /// The frame carries another message than the one expected.
    #[error("expected {message}, the frame is a {kind:?} {}", direction(*.response))]
    Unexpected {
        /// Name of the message that was expected.
        message: &'static str,
        /// Kind of the frame that came.
        kind: Kind,
        /// True when it was a response.
        response: bool,
    },
    /// The peer answered with an error.
    #[error("{status:?}: {}", reply.text)]
    Refused {
        /// Status of the response.
        status: Status,
        /// What the peer says about it.
        reply: ErrorReply,
    },
    /// The message is longer than a frame of its kind may be: send it in parts.
    #[error("{message} of {len} bytes does not fit a frame of at most {max} bytes")]
    TooLong {
        /// Name of the message.
        message: &'static str,
        /// Length of its body or payload, in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The frame itself is damaged.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl MessageError {
    /// The status to answer with when a request could not be decoded.
    pub fn status(&self) -> Status {
        match self {
            MessageError::Field { .. } => Status::Invalid,
            MessageError::Refused { status, .. } => *status,
            MessageError::TooLong { .. } => Status::LimitReached,
            MessageError::Frame(error) => error.status(),
            MessageError::Malformed { .. } | MessageError::Unexpected { .. } => Status::BadFrame,
        }
    }
}

/// A body that can be written to and read from a frame.
///
/// Decoding checks structure and ranges: a decoded message holds nothing that the rest of the
/// program must check again. Requests and responses are different types with the same [`Kind`].
/// The table of all of them is [`Body::ALL`].
pub trait Message: Sized {
    /// Kind of the frame that carries it.
    const KIND: Kind;
    /// True when it is the answer to a request of that kind.
    const RESPONSE: bool;
    /// Name of the message, as in the schema.
    const NAME: &'static str;

    /// Writes the body.
    ///
    /// Ranges are checked by the receiver, not here.
    fn encode(&self) -> Vec<u8>;

    /// Reads and checks the body.
    ///
    /// # Errors
    /// [`MessageError`]; never panics, whatever the bytes are.
    fn decode(body: &[u8]) -> Result<Self, MessageError>;

    /// Length of the payload that follows the body, in bytes.
    fn payload_len(&self) -> u32 {
        0
    }
}

fn direction(response: bool) -> &'static str {
    if response { "response" } else { "request" }
}
