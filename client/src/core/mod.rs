//! Drives the pure plans: sends what they say, waits as they say, tells them what came back.
//!
//! Owns the transport, the clock and what the operations of this process share. Decides nothing.
//!
//! Start at [`Core`]. `ask` speaks to coordinators and `map` keeps the map fresh; `follow` is what
//! `read` and `write` have in common; `errands` are done on the side; `words` are what coordinators
//! say of files.

mod ask;
mod errands;
mod follow;
mod map;
mod read;
mod words;
mod write;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use protocol::ids::{ClusterId, Seq};
use protocol::limits::DEADLINE_DEFAULT_MS;
use protocol::time::Nanos;
use tokio::sync::Semaphore;

use crate::cache::MapCache;
use crate::changed::Changed;
use crate::error::Error;
use crate::limits::IN_FLIGHT_BYTES_MAX;
use crate::plan::{Conditions, Failure};
use crate::retry::mix;
use crate::transport::{Peer, Transport};

/// What every operation of one client shares.
pub(crate) struct Core {
    /// For what is done on the side.
    me: Weak<Core>,
    pub(crate) cluster: ClusterId,
    transport: Arc<dyn Transport>,
    coordinators: Vec<Peer>,
    /// Coordinator that answered last, by position.
    leader: AtomicU64,
    started: tokio::time::Instant,
    map: MapCache,
    /// Newest version of the map that any answer spoke of.
    newest_map: AtomicU64,
    conditions: Mutex<Conditions>,
    changed: Mutex<Changed>,
    has_words: AtomicBool,
    in_flight: Semaphore,
    /// Differs between processes, so that they do not pause or choose in step.
    seed: u64,
    operations: AtomicU64,
    /// Sequence numbers of chunk writes; apart from those of namespace changes, which must be
    /// consecutive.
    writes: AtomicU64,
    /// Time an operation has, in milliseconds.
    operation_ms: u64,
}

/// Why a chunk operation failed, before the file it belongs to is named.
pub(crate) struct Failed {
    failure: Failure,
    waited_ms: u64,
}

impl Core {
    pub(crate) fn new(
        cluster: ClusterId,
        transport: Arc<dyn Transport>,
        coordinators: Vec<Peer>,
        seed: u64,
    ) -> Arc<Core> {
        Arc::new_cyclic(|me| Core {
            me: me.clone(),
            cluster,
            transport,
            coordinators,
            leader: AtomicU64::new(0),
            started: tokio::time::Instant::now(),
            map: MapCache::default(),
            newest_map: AtomicU64::new(0),
            conditions: Mutex::new(Conditions::default()),
            changed: Mutex::new(Changed::default()),
            has_words: AtomicBool::new(false),
            in_flight: Semaphore::new(IN_FLIGHT_BYTES_MAX),
            seed,
            operations: AtomicU64::new(0),
            writes: AtomicU64::new(1),
            operation_ms: u64::from(DEADLINE_DEFAULT_MS),
        })
    }

    /// A point in time as this client counts it.
    pub(crate) fn at(&self, instant: tokio::time::Instant) -> Nanos {
        Nanos(0).after(instant.saturating_duration_since(self.started))
    }

    pub(crate) fn conditions(&self) -> MutexGuard<'_, Conditions> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no other operation of this process gets.
    pub(crate) fn operation_seed(&self) -> u64 {
        mix(self.seed ^ self.operations.fetch_add(1, Ordering::Relaxed))
    }

    /// The number of a chunk write, rising.
    pub(crate) fn next_write_seq(&self) -> Seq {
        Seq(self.writes.fetch_add(1, Ordering::Relaxed))
    }

    async fn admit(
        &self,
        len: u32,
        start: Nanos,
    ) -> Result<tokio::sync::SemaphorePermit<'_>, Failed> {
        self.in_flight.acquire_many(len).await.map_err(|_| self.failed(Failure::Closed, start))
    }

    fn failed(&self, failure: Failure, start: Nanos) -> Failed {
        Failed {
            failure,
            waited_ms: u64::try_from(self.now().since(start).as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn now(&self) -> Nanos {
        Nanos(0).after(self.started.elapsed())
    }

    fn time_until(&self, at: Nanos) -> Duration {
        at.since(self.now())
    }

    async fn wait_until(&self, at: Nanos) {
        tokio::time::sleep(self.time_until(at)).await;
    }
}

impl Failed {
    /// True when a write was left because its group takes none for now.
    pub(crate) fn has_left(&self) -> bool {
        matches!(self.failure, Failure::Left { .. })
    }

    /// The failure as an error of what the caller was doing.
    pub(crate) fn at(self, what: &str) -> Error {
        let what = what.to_owned();
        match self.failure {
            Failure::Refused { status, text } => Error::refused(what, status, &text),
            Failure::Deadline { attempts, last } => {
                Error::Deadline { what, waited_ms: self.waited_ms, attempts, last }
            }
            Failure::Left { last } => {
                Error::Deadline { what, waited_ms: self.waited_ms, attempts: 1, last }
            }
            Failure::Unreadable { detail } => Error::Unreadable { what, detail },
            Failure::Rejected { detail } => Error::Rejected { what, detail },
            Failure::Closed => Error::Closed { what },
        }
    }
}
