//! How one operation reaches its end: which target to ask next, and what an answer means.
//!
//! Pure and synchronous: time, seeds, the map and what is known of the targets come in as
//! arguments, so the simulator runs exactly this. An operation is a state machine:
//!
//! 1. `next(now, map, conditions)` says what to do: send an [`Attempt`], refresh the map, wait, fail.
//! 2. The caller does it and tells `on_outcome(now, outcome, conditions)` how an attempt ended.
//! 3. [`Step`] says whether that was the end or what comes before the following `next`.
//!
//! Beside its answer an operation may want something done on the side: an [`Errand`], which the
//! caller takes with `take_errands()` whenever it has asked the plan something, and which nobody
//! waits for.
//!
//! Fail-over is not a retry. A refused or broken connection, an attempt that ran out, an answer
//! of class `Refresh` or `Elsewhere`, and a group that is not active yet are limited only by the
//! operation's deadline. `Busy` and a payload damaged on the way cost a share of the process's
//! [`RetryBudget`]; while that is used up the operation waits instead of adding load.

pub mod errand;
pub mod range;
pub mod read;
pub mod write;

pub mod coordinator;

mod failover;
#[cfg(test)]
mod fixture;

use std::net::SocketAddr;

use protocol::ids::{Epoch, NodeId, TargetId};
use protocol::status::Status;
use protocol::time::Nanos;

use crate::health::Health;
use crate::hedge::Hedges;
use crate::retry::RetryBudget;

pub use errand::{Doubt, Errand, Inquiry, Recently};
pub use read::{CheckedRead, ReadDone, ReadOp, ReadTask};
pub use write::{WriteOp, WriteTask};

/// What the operations of one process learn from each other.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Targets to stay away from.
    pub health: Health,
    /// Retries the process may still add to the load.
    pub budget: RetryBudget,
    /// Second requests for reads that take long.
    pub hedges: Hedges,
    /// What was done on the side lately.
    pub recently: Recently,
}

/// One request to one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt<R> {
    /// Target to ask.
    pub target: TargetId,
    /// Node whose certificate must be shown.
    pub node: NodeId,
    /// Where the owning shard listens.
    pub address: SocketAddr,
    /// Epoch of the group for the frame header.
    pub epoch: Epoch,
    /// When to give this attempt up.
    pub give_up_at: Nanos,
    /// Body of the request.
    pub request: R,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<R> {
    /// Send this and report how it ended.
    Send(Attempt<R>),
    /// Fetch a newer map, then ask again; when none can be had, ask again all the same.
    RefreshMap,
    /// Ask again at this time.
    WaitUntil(Nanos),
    /// The operation has failed.
    Fail(Failure),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<A> {
    /// The target answered `Ok`.
    Answered(A),
    /// The target answered with another status.
    Refused(Refusal),
    /// There was no answer.
    Link(LinkFailure),
}

/// An answer that is not `Ok`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its status.
    pub status: Status,
    /// What the server says, for people.
    pub text: String,
    /// Port of the right shard, for `WrongShard`; else 0.
    pub port: u16,
    /// When to try again, for `Busy`; else 0.
    pub retry_after_ms: u32,
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkFailure {
    /// Nobody listens there; nothing was sent.
    Refused,
    /// The connection could not be used or ended before the answer.
    Broken,
    /// The attempt's time ran out.
    TimedOut,
}

/// What an outcome leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<D> {
    /// The operation is complete.
    Done(D),
    /// Call `next` at once.
    TryNow,
    /// Call `next` at this time.
    WaitUntil(Nanos),
    /// Refresh the map, then call `next`.
    RefreshMap,
    /// The operation has failed.
    Fail(Failure),
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A server refused for good.
    Refused {
        /// The status.
        status: Status,
        /// What the server said.
        text: String,
    },
    /// Time ran out.
    Deadline {
        /// Attempts made.
        attempts: u32,
        /// How the last one ended.
        last: String,
    },
    /// The group takes no writes for now, and the caller may write elsewhere.
    Left {
        /// How the last attempt ended.
        last: String,
    },
    /// No replica has bytes that verify.
    Unreadable {
        /// What each replica answered.
        detail: String,
    },
    /// No coordinator accepts this client, or none is who it should be.
    Rejected {
        /// What the last one said.
        detail: String,
    },
    /// The client was closed meanwhile.
    Closed,
}

impl Refusal {
    /// A refusal that says nothing but its status.
    pub fn of(status: Status) -> Refusal {
        Refusal { status, text: status.text().to_owned(), port: 0, retry_after_ms: 0 }
    }
}

impl LinkFailure {
    /// The failure in words.
    pub fn text(self) -> &'static str {
        match self {
            LinkFailure::Refused => "connection refused",
            LinkFailure::Broken => "connection broke",
            LinkFailure::TimedOut => "no answer in time",
        }
    }
}
