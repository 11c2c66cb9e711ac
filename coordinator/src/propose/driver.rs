//! The proposer's loop: take what waits, append, apply, publish, answer.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use protocol::guard::{self, Guard};
use protocol::ids::MapVersion;
use protocol::message::command::{Command, Stamp};
use protocol::message::encode_command;
use protocol::status::Status;
use protocol::time::Nanos;
use tokio::sync::{oneshot, watch};

use super::recovery::history_start;
use super::view::{MapDeltas, View};
use super::{Inspection, ProposeError, Request, SessionWatch};
use crate::clock::{self, Nonces};
use crate::kv::Kv;
use crate::limits::{
    COMMAND_LEN_MAX, PROPOSAL_BATCH_BYTES, PROPOSAL_BATCH_MAX, TABLE_COMMIT_COMMANDS,
    TABLE_COMMIT_INTERVAL_MS,
};
use crate::log::{Entry, Log, LogId, Payload};
use crate::state::{Ledger, Outcome, State};

/// Owner of the log and the state.
pub(super) struct Driver<L, K: Kv> {
    log: L,
    state: State<K>,
    sessions: Box<dyn SessionWatch>,
    nonces: Nonces,
    term: u64,
    stamp: Stamp,
    published: Option<Published<K>>,
    /// When the oldest change that is not durable in the table was made.
    unsaved_since: Option<Nanos>,
}

struct Published<K: Kv> {
    view: watch::Sender<Arc<View<K::Snapshot>>>,
    map: watch::Sender<MapVersion>,
}

type Views<K> = watch::Receiver<Arc<View<<K as Kv>::Snapshot>>>;

/// One round's proposals.
#[derive(Default)]
struct Round {
    entries: Vec<Entry>,
    commands: Vec<(Stamp, Command, oneshot::Sender<Outcome>)>,
    bytes: usize,
}

impl<L: Log, K: Kv> Driver<L, K> {
    pub(super) fn new(
        log: L,
        state: State<K>,
        sessions: Box<dyn SessionWatch>,
        nonces: Nonces,
        term: u64,
        stamp: Stamp,
    ) -> Driver<L, K> {
        let (published, unsaved_since) = (None, None);
        Driver { log, state, sessions, nonces, term, stamp, published, unsaved_since }
    }

    /// Publishes the first view.
    pub(super) fn publish(
        mut self,
    ) -> Result<(Self, Views<K>, watch::Receiver<MapVersion>), ProposeError> {
        let deltas = Arc::new(MapDeltas::at(history_start(&self.state)));
        let map = Arc::new(self.state.map().clone());
        let ledger = Arc::new(self.state.ledger().clone());
        let (map_sender, map_changes) = watch::channel(map.version);
        let (sender, views) = watch::channel(Arc::new(self.look(map, deltas, ledger)?));
        self.published = Some(Published { view: sender, map: map_sender });
        Ok((self, views, map_changes))
    }

    /// Runs until it is told to stop or something fails.
    pub(super) fn run(mut self, requests: &Receiver<Request<K>>) -> Result<(), ProposeError> {
        loop {
            let mut round = Round::default();
            let mut inspections = Vec::new();
            let mut stop = false;
            let mut next = self.wait(requests);
            while let Some(request) = next {
                match request {
                    Request::Propose { command, reply } => {
                        self.stamp(&mut round, command, reply)?
                    }
                    Request::Inspect(inspection) => inspections.push(inspection),
                    Request::Stop => stop = true,
                }
                next = if stop || round.full() || inspections.len() >= PROPOSAL_BATCH_MAX {
                    None
                } else {
                    requests.try_recv().ok()
                };
            }
            self.settle(round, inspections)?;
            if stop {
                self.state.commit(true)?;
                return Ok(());
            }
            self.save_table_when_due()?;
        }
    }

    /// Waits for the first request of a round, but not beyond the next commit of the table.
    fn wait(&self, requests: &Receiver<Request<K>>) -> Option<Request<K>> {
        let Some(since) = self.unsaved_since else {
            // All handles gone means that nobody is left to answer.
            return Some(requests.recv().unwrap_or(Request::Stop));
        };
        let interval = Duration::from_millis(TABLE_COMMIT_INTERVAL_MS);
        let left = interval.saturating_sub(clock::boottime().since(since));
        match requests.recv_timeout(left) {
            Ok(request) => Some(request),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Request::Stop),
        }
    }

    fn stamp(
        &mut self,
        round: &mut Round,
        command: Command,
        reply: oneshot::Sender<Outcome>,
    ) -> Result<(), ProposeError> {
        let time_ms = clock::wall_ms().max(self.stamp.time_ms + 1);
        let stamp = Stamp { time_ms, nonce: self.nonces.draw()? };
        let bytes = encode_command(&stamp, &command);
        if bytes.len() > COMMAND_LEN_MAX {
            // The asker may be gone; then nobody wants the answer.
            let _ = reply.send(Outcome::Refused(Status::LimitReached));
            return Ok(());
        }
        self.stamp = stamp;
        let index = self.log.last().index + 1 + round.entries.len() as u64;
        round.bytes += bytes.len();
        let id = LogId { term: self.term, index };
        round.entries.push(Entry { id, payload: Payload::Command(bytes) });
        round.commands.push((stamp, command, reply));
        Ok(())
    }

    fn settle(
        &mut self,
        round: Round,
        inspections: Vec<Inspection<K>>,
    ) -> Result<(), ProposeError> {
        if !round.entries.is_empty() {
            if guard::holds(Guard::LogFirst) {
                self.log.append(&round.entries)?;
            }
            let mut answers = Vec::with_capacity(round.commands.len());
            for (stamp, command, reply) in round.commands {
                let outcome = self.state.apply(stamp, &command);
                self.tell_sessions(&command, &outcome);
                answers.push((reply, outcome));
            }
            self.state.commit(false)?;
            self.unsaved_since.get_or_insert_with(clock::boottime);
            self.show()?;
            for (reply, outcome) in answers {
                // The asker may be gone; the command stays applied.
                let _ = reply.send(outcome);
            }
        }
        for inspection in inspections {
            inspection(&self.state);
        }
        Ok(())
    }

    fn tell_sessions(&self, command: &Command, outcome: &Outcome) {
        match (command, outcome) {
            (Command::OpenSession { caller, .. }, Outcome::Session(session)) => {
                self.sessions.opened(*session, *caller);
            }
            (Command::EndSession { session }, _) => self.sessions.ended(*session),
            _ => {}
        }
    }

    /// Publishes the state as of the last commit.
    fn show(&mut self) -> Result<(), ProposeError> {
        let Some(published) = &self.published else { return Ok(()) };
        let before = Arc::clone(&published.view.borrow());
        let version = self.state.map().version;
        let (map, deltas, ledger) = if version == before.map.version {
            let (map, deltas) = (Arc::clone(&before.map), Arc::clone(&before.deltas));
            (map, deltas, Arc::clone(&before.ledger))
        } else {
            let mut deltas = MapDeltas::clone(&before.deltas);
            deltas.push(self.state.delta_since(before.map.version));
            let map = Arc::new(self.state.map().clone());
            (map, Arc::new(deltas), Arc::new(self.state.ledger().clone()))
        };
        let view = self.look(map, deltas, ledger)?;
        if let Some(published) = &self.published {
            published.view.send_replace(Arc::new(view));
            if version != before.map.version {
                published.map.send_replace(version);
            }
        }
        Ok(())
    }

    fn look(
        &self,
        map: Arc<protocol::cluster_map::ClusterMap>,
        deltas: Arc<MapDeltas>,
        ledger: Arc<Ledger>,
    ) -> Result<View<K::Snapshot>, ProposeError> {
        Ok(View {
            snapshot: self.state.snapshot()?,
            map,
            deltas,
            ledger,
            counters: self.state.counters(),
            settings: self.state.settings().unwrap_or_default(),
            applied: self.state.applied(),
        })
    }

    /// Commits the table durably once enough changed or enough time passed, and purges the log.
    fn save_table_when_due(&mut self) -> Result<(), ProposeError> {
        let Some(since) = self.unsaved_since else { return Ok(()) };
        let interval = Duration::from_millis(TABLE_COMMIT_INTERVAL_MS);
        let unsaved = self.state.applied().saturating_sub(self.state.durable());
        if clock::boottime().since(since) < interval && unsaved < TABLE_COMMIT_COMMANDS {
            return Ok(());
        }
        self.state.commit(true)?;
        self.unsaved_since = None;
        if let Err(error) = self.log.purge(self.state.durable()) {
            tracing::warn!(%error, "old log segments stay; the next purge tries again");
        }
        Ok(())
    }
}

impl Round {
    fn full(&self) -> bool {
        self.entries.len() >= PROPOSAL_BATCH_MAX || self.bytes >= PROPOSAL_BATCH_BYTES
    }
}
