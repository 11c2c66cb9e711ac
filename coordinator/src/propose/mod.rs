//! Turns requests into commands of the log, in batches, and publishes what they lead to.
//!
//! One thread owns the log and the state. It takes what waits, stamps it, appends it with one
//! flush, applies it in order, publishes a view for readers, and only then answers. Knows nothing
//! of connections. Invariant: an answer is given only when its command is durable and readers can
//! see it.
//!
//! Start at [`start`]; `driver` is the loop, `recovery` what happens before the first round.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use protocol::cluster_map::MapDelta;
use protocol::ids::{CoordinatorId, MapVersion, SessionId};
use protocol::message::MessageError;
use protocol::message::command::{Caller, Command};
use protocol::status::Status;
use tokio::sync::{oneshot, watch};

use crate::kv::{Kv, KvError};
use crate::limits::PROPOSAL_QUEUE_MAX;
use crate::log::{Log, LogError};
use crate::state::{Outcome, State};

mod driver;
mod recovery;
#[cfg(test)]
mod tests;
mod view;

pub use view::{MapDeltas, View};

/// Who proposes, and what the first command of an empty log is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// This coordinator.
    pub coordinator: CoordinatorId,
    /// Proposed when the state was never initialized.
    pub initialize: Command,
}

/// Hears of sessions before anyone is answered, so none is forgotten when an asker goes away.
pub trait SessionWatch: Send + 'static {
    /// The session of this caller is open.
    fn opened(&self, session: SessionId, caller: Caller);
    /// The session has ended.
    fn ended(&self, session: SessionId);
}

/// Why the proposer cannot start or had to stop. The process must end: what is in memory may be
/// ahead of what the disk holds.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The table failed.
    #[error(transparent)]
    Table(#[from] KvError),
    /// The table has seen commands that the log does not hold.
    #[error(
        "state table is at entry {applied} but the log ends at {last}; refusing to start because acknowledged changes are missing from the log: restore data_dir from a backup"
    )]
    Ahead {
        /// Commands the table has applied.
        applied: u64,
        /// Last entry of the log.
        last: u64,
    },
    /// An entry is not a command this release knows.
    #[error("log entry {index} cannot be read ({reason}); start the release that wrote it")]
    Entry {
        /// The entry.
        index: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The first command was refused.
    #[error("cannot initialize the cluster: {0}; correct the configuration")]
    Initialize(Status),
    /// The system gives no random bits or no thread.
    #[error("cannot start the proposer: {0}")]
    System(#[from] std::io::Error),
}

impl ProposeError {
    fn entry(index: u64, error: &MessageError) -> ProposeError {
        ProposeError::Entry { index, reason: error.to_string() }
    }
}

/// What waits for the proposer.
enum Request<K> {
    Propose { command: Command, reply: oneshot::Sender<Outcome> },
    Inspect(Inspection<K>),
    Stop,
}

type Inspection<K> = Box<dyn FnOnce(&State<K>) + Send>;

/// The running proposer: hands in commands and reads what they led to.
pub struct Proposer<K: Kv> {
    queue: SyncSender<Request<K>>,
    view: watch::Receiver<Arc<View<K::Snapshot>>>,
    map: watch::Receiver<MapVersion>,
}

/// The proposer's thread; it ends after [`Proposer::stop`] or with the error that stopped it.
pub type Running = JoinHandle<Result<(), ProposeError>>;

/// Replays the log, opens a new term, and starts the proposer's thread.
///
/// # Errors
/// [`ProposeError`]; nothing runs then.
///
/// # Durability
/// The vote of the new term and, in a new cluster, its first command are durable on return.
pub fn start<L, K>(
    log: L,
    state: State<K>,
    identity: &Identity,
    sessions: Box<dyn SessionWatch>,
) -> Result<(Proposer<K>, Running), ProposeError>
where
    L: Log + 'static,
    K: Kv + Send + 'static,
{
    let driver = recovery::recover(log, state, identity, sessions)?;
    let (queue, requests) = sync_channel(PROPOSAL_QUEUE_MAX);
    let (driver, view, map) = driver.publish()?;
    let thread = std::thread::Builder::new().name("proposer".into());
    let running = thread.spawn(move || driver.run(&requests))?;
    Ok((Proposer { queue, view, map }, running))
}

impl<K: Kv> Clone for Proposer<K> {
    fn clone(&self) -> Self {
        let (queue, view, map) = (self.queue.clone(), self.view.clone(), self.map.clone());
        Proposer { queue, view, map }
    }
}

impl<K: Kv> Proposer<K> {
    /// Hands in a command; the answer comes once it was applied, or never when the thread ends.
    ///
    /// # Errors
    /// [`Status::Busy`] and [`Status::NotReady`] as in [`Proposer::propose`].
    pub fn submit(&self, command: Command) -> Result<oneshot::Receiver<Outcome>, Status> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Propose { command, reply })?;
        Ok(answer)
    }

    /// Proposes a command and waits until it was applied.
    ///
    /// # Errors
    /// - [`Status::Busy`]: too many proposals wait; nothing was done.
    /// - [`Status::NotReady`]: the coordinator is stopping; nothing was done.
    /// - [`Status::Unknown`]: it stopped meanwhile; the command may or may not be in the log.
    ///
    /// # Durability
    /// With an answer, the command is durable and every view taken from now on shows it.
    ///
    /// # Cancel safety
    /// The command stays proposed; only its answer is lost.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Status> {
        self.submit(command)?.await.map_err(|_| Status::Unknown)
    }

    /// Asks the state something that no view holds, between two batches.
    ///
    /// # Errors
    /// As [`Proposer::propose`].
    ///
    /// # Cancel safety
    /// Nothing changes.
    pub async fn inspect<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&State<K>) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let inspection: Inspection<K> = Box::new(move |state| {
            // The asker may be gone; then nobody wants the answer.
            let _ = reply.send(ask(state));
        });
        self.send(Request::Inspect(inspection))?;
        answer.await.map_err(|_| Status::Unknown)
    }

    /// The newest view: it shows every command that was answered before this call.
    pub fn view(&self) -> Arc<View<K::Snapshot>> {
        Arc::clone(&self.view.borrow())
    }

    /// Tells when the map changed; holds its newest version.
    pub fn map_changes(&self) -> watch::Receiver<MapVersion> {
        self.map.clone()
    }

    /// Changes of the map since `have`.
    pub fn delta_since(&self, have: MapVersion) -> MapDelta {
        let view = self.view();
        view.deltas.since(have).unwrap_or_else(|| view.map.to_delta())
    }

    /// Asks the thread to commit the table durably and end; blocks while its queue is full.
    pub fn stop(&self) {
        // An error means that it has ended already.
        let _ = self.queue.send(Request::Stop);
    }

    fn send(&self, request: Request<K>) -> Result<(), Status> {
        self.queue.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => Status::Busy,
            TrySendError::Disconnected(_) => Status::NotReady,
        })
    }
}
