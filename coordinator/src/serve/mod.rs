//! Everything that faces the network: accepts, authenticates, reads requests, writes answers.
//!
//! Decides nothing about the cluster: changes go to the proposer, signs of life to the control
//! loop, reads to the newest view. Invariant: no request is looked at before its sender's
//! certificate was, and no lock is held while anything waits.
//!
//! Start at [`accept`], then `connection` and `dispatch`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use protocol::ids::{ClusterId, CoordinatorId};
use protocol::message::command::Caller;
use tokio::sync::{Semaphore, mpsc};

use crate::control::Tuning;
use crate::kv::Redb;
use crate::limits::{FRAME_GRACE_MS, HANDSHAKE_MS, READERS_MAX, WRITE_STALL_MS};
use crate::metrics::RequestCounts;
use crate::propose::Proposer;
use crate::timers::Event;

pub mod accept;
mod board;
mod client;
mod connection;
mod dispatch;
#[cfg(test)]
pub(crate) mod fixture;
mod health;
mod links;
mod listeners;
pub mod metrics;
mod node;
mod operate;
mod read;
mod role;
mod sessions;
mod watch;
pub mod words;

pub use board::Board;
pub use health::Health;
pub use links::{Link, Links, NodeOrder};
pub use listeners::Listeners;
pub use sessions::Sessions;
pub use words::{Holder, Words};

/// What every connection can reach.
pub struct Shared {
    /// Number, cluster, users.
    pub about: About,
    /// The way to the log.
    pub proposer: Proposer<Redb>,
    /// Sessions and when they were renewed.
    pub sessions: Arc<Sessions>,
    /// Newest report of each target.
    pub health: Health,
    /// What readers were told of files that only ever grew.
    pub words: Words,
    /// Connections over which clients are told that words hold no more.
    pub listeners: Listeners,
    /// What the control loop found out last.
    pub board: Board,
    /// Connections of registered nodes.
    pub links: Links,
    /// The way to the control loop.
    pub control: mpsc::Sender<Event>,
    /// Held by each long read while it runs.
    pub readers: Arc<Semaphore>,
    /// Answered requests, for the metrics.
    pub requests: RequestCounts,
    /// Connections so far; numbers them in the log lines.
    pub connections: AtomicU64,
}

/// What a coordinator says of itself and knows from its configuration.
#[derive(Clone, Debug)]
pub struct About {
    /// Its number.
    pub coordinator: CoordinatorId,
    /// The cluster it serves.
    pub cluster: ClusterId,
    /// Where it listens, for the status.
    pub address: String,
    /// Numeric users by the name in a client's certificate.
    pub users: BTreeMap<String, Caller>,
    /// What the control loop was configured with.
    pub tuning: Tuning,
    /// How long a peer may take.
    pub patience: Patience,
}

/// How long a peer may take before its connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From accept to the end of the hello.
    pub handshake: Duration,
    /// For the rest of a frame that began, on top of its length at the slowest rate.
    pub frame: Duration,
    /// Without taking a byte of what is written to it.
    pub write: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            handshake: Duration::from_millis(HANDSHAKE_MS),
            frame: Duration::from_millis(FRAME_GRACE_MS),
            write: Duration::from_millis(WRITE_STALL_MS),
        }
    }
}

impl Shared {
    /// Puts together what connections reach.
    pub fn new(
        about: About,
        proposer: Proposer<Redb>,
        sessions: Arc<Sessions>,
        control: mpsc::Sender<Event>,
    ) -> Shared {
        Shared {
            about,
            proposer,
            sessions,
            health: Health::default(),
            words: Words::new(crate::clock::boottime()),
            listeners: Listeners::default(),
            board: Board::default(),
            links: Links::default(),
            control,
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            requests: RequestCounts::default(),
            connections: AtomicU64::new(0),
        }
    }
}
