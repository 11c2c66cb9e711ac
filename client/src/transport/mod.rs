//! The seam between what the client decides and how bytes travel.
//!
//! [`Transport`] carries one request to one peer and brings its answer. Three implementations:
//! TCP with TLS ([`tls`], [`tcp`], [`pool`], [`connection`]) in production, and [`memory`] for
//! tests and the simulator. Nothing here retries: a call ends with an answer or says why not.

pub mod connection;
pub mod memory;
pub mod pool;
pub mod tcp;
pub mod tls;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use protocol::ids::{CoordinatorId, Epoch, MapVersion, NodeId, TargetId};
use protocol::message::Kind;
use protocol::status::Status;
use tokio::sync::mpsc;

use crate::plan::LinkFailure;

/// Who must be at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerId {
    /// A coordinator.
    Coordinator(CoordinatorId),
    /// The shard that owns a target.
    Target {
        /// Node whose certificate it shows.
        node: NodeId,
        /// The target.
        target: TargetId,
    },
}

/// Someone to talk to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Who it is.
    pub id: PeerId,
    /// `host:port`.
    pub address: String,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    /// What it asks.
    pub kind: Kind,
    /// Epoch of the group it names; 0 where none is meant.
    pub epoch: Epoch,
    /// Version of the sender's map.
    pub map_version: MapVersion,
    /// How long to wait for the answer; the server is told.
    pub timeout: Duration,
    /// Encoded body.
    pub body: Vec<u8>,
    /// Raw bytes that follow the body.
    pub payload: Bytes,
}

/// The answer to a call, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: Status,
    /// Version of the server's map.
    pub map_version: MapVersion,
    /// Encoded body; an `ErrorReply` when the status is not `Ok`.
    pub body: Vec<u8>,
    /// Raw bytes that followed the body.
    pub payload: Bytes,
}

/// What a server said without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What it says.
    pub kind: Kind,
    /// Encoded body.
    pub body: Vec<u8>,
}

/// Where notices arrive.
pub type Notices = mpsc::Receiver<Notice>;

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The connection could not be made, ended, or stayed silent.
    #[error("{detail}")]
    Link {
        /// Which of the three.
        failure: LinkFailure,
        /// What the operating system or TLS said.
        detail: String,
    },
    /// The peer does not accept this client, is not who it should be, or breaks the protocol.
    #[error("{detail}")]
    Rejected {
        /// What it said or did.
        detail: String,
    },
}

/// A call on its way.
pub type CallFuture<'a> = Pin<Box<dyn Future<Output = Result<Answer, CallError>> + Send + 'a>>;

/// Carries requests to peers.
pub trait Transport: Send + Sync + 'static {
    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// [`CallError`]; nothing is repeated. When the outcome is not `Refused`, the request may have
    /// been executed.
    ///
    /// # Cancel safety
    /// The request may have been sent; its answer is dropped.
    fn call<'a>(&'a self, peer: &'a Peer, call: Call) -> CallFuture<'a>;

    /// Where the notices of coordinators arrive; given once, and only when there can be some.
    ///
    /// Notices that come while [`NOTICES_MAX`](crate::limits::NOTICES_MAX) wait are dropped.
    fn notices(&self) -> Option<Notices> {
        None
    }
}

impl CallError {
    /// A link failure with its detail.
    pub fn link(failure: LinkFailure, detail: impl Into<String>) -> CallError {
        CallError::Link { failure, detail: detail.into() }
    }

    /// The failure as the data path sees it: a peer that is not who it should be is a broken one.
    pub fn failure(&self) -> LinkFailure {
        match self {
            CallError::Link { failure, .. } => *failure,
            CallError::Rejected { .. } => LinkFailure::Broken,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            PeerId::Coordinator(id) => write!(f, "coordinator {id} at {}", self.address),
            PeerId::Target { target, .. } => write!(f, "target {target} at {}", self.address),
        }
    }
}
