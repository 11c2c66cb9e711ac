//! The coordinator's state: exactly the result of applying the log's commands in order.
//!
//! [`State::apply`] depends on nothing but the state, the stamp and the command: no clock, no
//! randomness, no order of a hash map. Everything lives in rows of a [`Kv`]; the cluster map, the
//! sessions and the counters are kept in memory too. Invariant: what is in memory equals what the
//! rows say. Start at [`State::apply`].

pub mod read;

mod cluster;
mod gc;
mod group;
mod ledger;
mod operate;
mod session;
mod settling;

mod attributes;
mod census;
mod content;
mod create;
mod namespace;
mod permission;
mod remove;
mod rename;
mod writing;

mod codec;
mod history;
mod inode;
mod invariant;
mod map_rows;
mod outcome;
mod rows;
mod tally;

pub use settling::FileOrder;

use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster_map::{ClusterMap, MapDelta};
use protocol::ids::{ClusterId, Generation, GroupId, Lsn, MapVersion, NodeId, SessionId, TargetId};
use protocol::message::command::{Caller, Command, Stamp};
use protocol::message::namespace::OpOutcome;
use protocol::status::Status;

use crate::kv::{Kv, KvError};
pub use gc::DeadFiles;
use history::{Changed, History};
pub use invariant::Audit;
pub use ledger::Ledger;
use map_rows::NodeInfo;
use tally::Tally;

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// Refused; nothing changed.
    Refused(Status),
    /// The session that was opened.
    Session(SessionId),
    /// Outcomes of a mutation's operations, in their order.
    Ops(Vec<OpOutcome>),
}

/// Figures for the status of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Linked inodes, the root directory among them.
    pub inodes: u64,
    /// Sum of the sizes of all linked files, in bytes.
    pub file_bytes: u64,
    /// Open sessions.
    pub sessions: u32,
    /// Pairs of group and file that wait to be deleted from nodes.
    pub dead_files: u64,
    /// Orders about single files that groups have not reported as done.
    pub file_orders: u64,
}

/// What the cluster was made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The cluster.
    pub cluster: ClusterId,
    /// Replicas of each group.
    pub replicas: u8,
    /// Fewest serving members that may acknowledge a write.
    pub min_write: u8,
    /// Groups each target should be a member of.
    pub groups_per_target: u16,
    /// Targets to wait for before groups are made.
    pub targets_expected: u32,
}

/// An open session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Who opened it.
    pub caller: Caller,
    /// Name of the client program.
    pub client: String,
    /// Stamp of its opening.
    pub opened_ms: u64,
    /// Highest sequence number of its operations.
    seq_max: u64,
    /// No outcome below this number is kept.
    seq_min: u64,
    /// Its unlinked files.
    reserved: usize,
    /// Files it has open for writing in place.
    opened: usize,
}

/// The state over one table.
///
/// One owner applies and commits; [`State::snapshot`] gives other threads something to read.
pub struct State<K> {
    kv: K,
    settings: Option<Settings>,
    tally: Tally,
    /// [`Tally::applied`] as of the last durable commit.
    durable: u64,
    map: ClusterMap,
    nodes: BTreeMap<NodeId, NodeInfo>,
    ledger: Ledger,
    /// Incarnation and newest durable journal position that each target reported.
    durables: BTreeMap<TargetId, (Generation, Lsn)>,
    /// Groups that new files may be laid out on, ascending; follows from the map.
    writable: Vec<GroupId>,
    sessions: BTreeMap<SessionId, Session>,
    history: History,
    /// Parts of the map that the current command changed.
    changed: BTreeSet<Changed>,
    /// Set when the table failed; nothing is applied or committed any more.
    fault: Option<KvError>,
}

/// Why an operation went no further.
#[derive(Debug)]
enum Stop {
    /// The command may not be carried out; part of the replicated result.
    Refused(Status),
    /// The table failed here; this replica must stop.
    Fault(KvError),
}

/// Result of a part of a command.
type Step<T> = Result<T, Stop>;

impl<K: Kv> State<K> {
    /// Reads the state from its rows.
    ///
    /// # Errors
    /// [`KvError`] when the table cannot be read or a row in it is damaged.
    pub fn open(kv: K) -> Result<State<K>, KvError> {
        let settings = tally::load_settings(&kv)?;
        let tally = Tally::load(&kv)?;
        let loaded = map_rows::load(&kv, settings, tally.map_version)?;
        let mut state = State {
            settings,
            durable: tally.applied,
            history: History::starting_at(tally.map_version),
            tally,
            map: loaded.map,
            nodes: loaded.nodes,
            ledger: loaded.ledger,
            durables: loaded.durables,
            writable: Vec::new(),
            sessions: BTreeMap::new(),
            changed: BTreeSet::new(),
            fault: None,
            kv,
        };
        state.load_sessions()?;
        state.choose_writable();
        Ok(state)
    }

    /// Applies one command.
    ///
    /// Every outcome, refusals too, is the same on every replica. A refused command and a refused
    /// operation of a mutation change nothing. When the table fails, this and every later command
    /// answers [`Status::Internal`] and [`State::commit`] returns the error: the process must stop,
    /// and its restart replays the log.
    pub fn apply(&mut self, stamp: Stamp, command: &Command) -> Outcome {
        if self.fault.is_some() {
            return Outcome::Refused(Status::Internal);
        }
        let outcome = match self.dispatch(stamp, command) {
            Ok(outcome) => outcome,
            Err(Stop::Refused(status)) => Outcome::Refused(status),
            Err(Stop::Fault(fault)) => {
                self.fault = Some(fault);
                return Outcome::Refused(Status::Internal);
            }
        };
        self.settle();
        outcome
    }

    /// Ends a batch: makes it visible to snapshots together with [`State::applied`].
    ///
    /// # Errors
    /// [`KvError`] when the table failed now or during the batch; the process must stop.
    ///
    /// # Durability
    /// With `durable`, everything applied so far is on stable media on return.
    pub fn commit(&mut self, durable: bool) -> Result<(), KvError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        self.kv.commit(durable).inspect_err(|fault| self.fault = Some(fault.clone()))?;
        if durable {
            self.durable = self.tally.applied;
        }
        Ok(())
    }

    /// A view of the last commit for [`read`], usable on any thread.
    ///
    /// # Errors
    /// [`KvError::Engine`] when the table cannot be read.
    pub fn snapshot(&self) -> Result<K::Snapshot, KvError> {
        self.kv.snapshot()
    }

    /// The cluster map, ahead of the last commit by the open batch.
    pub fn map(&self) -> &ClusterMap {
        &self.map
    }

    /// Changes of the map since version `have`; the whole map when they are no longer remembered.
    pub fn delta_since(&self, have: MapVersion) -> MapDelta {
        self.history.delta(&self.map, have)
    }

    /// Commands applied since the log began.
    pub fn applied(&self) -> u64 {
        self.tally.applied
    }

    /// Commands applied as of the last durable commit: the log up to here is no longer needed.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Figures for the status of the cluster.
    pub fn counters(&self) -> Counters {
        Counters {
            inodes: self.tally.inodes,
            file_bytes: self.tally.file_bytes,
            sessions: u32::try_from(self.sessions.len()).unwrap_or(u32::MAX),
            dead_files: self.tally.dead_files,
            file_orders: self.tally.file_orders,
        }
    }

    /// What the cluster was made with; `None` before it was initialized.
    pub fn settings(&self) -> Option<Settings> {
        self.settings
    }

    /// The session, while it is open.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// Every open session, ascending.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter().map(|(&id, session)| (id, session))
    }

    /// Incarnation under which a node registered last.
    pub fn incarnation(&self, node: NodeId) -> Option<u64> {
        self.nodes.get(&node).map(|info| info.incarnation)
    }

    /// What is kept of the cluster beyond the map; changes only together with the map's version.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What is durably known of how far a target's journal was durable, and in which generation.
    pub fn noted_durable(&self, target: TargetId) -> Option<(Generation, Lsn)> {
        self.durables.get(&target).copied()
    }

    fn dispatch(&mut self, stamp: Stamp, command: &Command) -> Step<Outcome> {
        if self.settings.is_none() && !matches!(command, Command::Initialize { .. }) {
            return Err(Status::NotReady.into());
        }
        match command {
            Command::Initialize { .. } => self.initialize(stamp, command),
            Command::RegisterNode { node, incarnation, address, targets } => {
                self.register_node(*node, *incarnation, *address, targets)
            }
            Command::SetNodeState { node, up } => self.set_node_state(*node, *up),
            Command::FenceTarget { target } => self.fence_target(*target),
            Command::CreateGroups { count } => self.create_groups(*count),
            Command::ChangeGroup { group, expected_epoch, members, evicted, down, plan } => {
                let change = group::Change { members, evicted, down: *down, plan: *plan };
                self.change_group(stamp, *group, *expected_epoch, &change)
            }
            Command::Activated { group, epoch } => self.activated(*group, *epoch),
            Command::SyncDone { group, epoch, target } => self.sync_done(*group, *epoch, *target),
            Command::OpenSession { caller, client } => self.open_session(stamp, *caller, client),
            Command::EndSession { session } => self.end_session(*session),
            Command::Mutate { session, caller, ops } => self.mutate(stamp, *session, *caller, ops),
            Command::DropDone { groups } => self.drop_done(groups),
            Command::Digest { applied, digest } => self.compare_digest(*applied, *digest),
            Command::FileReports { groups } => self.file_reports(groups),
            Command::AllowMutations { group, epoch } => self.allow_mutations(*group, *epoch),
            Command::SetNodeDraining { node, draining } => self.set_draining(*node, *draining),
            Command::RemoveNode { node } => self.remove_node(*node),
            Command::SetTargetSlow { target, slow } => self.set_slow(*target, *slow),
            Command::StartScrub => self.start_scrub(),
            Command::SetRebalance { on } => self.set_rebalance(*on),
            Command::NoteDurable { targets } => self.note_durable(targets),
        }
    }

    /// Restores "memory equals rows" after a command.
    fn settle(&mut self) {
        if !self.changed.is_empty() {
            self.tally.map_version.0 += 1;
            self.map.version = self.tally.map_version;
            self.store_changed();
            self.history.note(self.map.version, std::mem::take(&mut self.changed));
            self.choose_writable();
        }
        self.tally.applied += 1;
        self.tally.store(&mut self.kv);
    }

    fn choose_writable(&mut self) {
        let writable = self.map.groups.values().filter(|group| group.writable());
        self.writable = writable.map(|group| group.id).collect();
        if self.writable.is_empty() {
            self.writable = self.map.groups.keys().copied().collect();
        }
    }

    fn compare_digest(&mut self, applied: u64, digest: u128) -> Step<Outcome> {
        let same = self.tally.applied == applied && self.digest()? == digest;
        if same { Ok(Outcome::Done) } else { Err(Status::Conflict.into()) }
    }
}

impl From<Status> for Stop {
    fn from(status: Status) -> Stop {
        Stop::Refused(status)
    }
}

impl From<KvError> for Stop {
    fn from(fault: KvError) -> Stop {
        Stop::Fault(fault)
    }
}
