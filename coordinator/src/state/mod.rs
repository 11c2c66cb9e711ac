//! The coordinator's state: exactly the result of applying the log's commands in order.
//!
//! [`State::apply`] depends on nothing but the state, the stamp and the command: no clock, no
//! randomness, no order of a hash map. Everything lives in rows of a [`Kv`]; the cluster map, the
//! sessions and the counters are kept in memory too. Invariant: what is in memory equals what the
//! rows say. Start at [`State::apply`].

pub mod read;

use std::collections::BTreeSet;

use protocol::cluster_map::{ClusterMap, MapDelta};
use protocol::ids::{ClusterId, Fid, GroupId, MapVersion, SessionId, TargetId};
use protocol::message::command::{Caller, Command, Stamp};
use protocol::message::namespace::OpOutcome;
use protocol::status::Status;

use crate::kv::{Kv, KvError};

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
}

/// The state over one table.
pub struct State<K> {
    kv: K,
    map: ClusterMap,
}

impl<K: Kv> State<K> {
    /// Reads the state from its rows.
    pub fn open(kv: K) -> Result<State<K>, KvError> {
        Ok(State { kv, map: ClusterMap::default() })
    }

    /// Applies one command.
    pub fn apply(&mut self, _stamp: Stamp, _command: &Command) -> Outcome {
        Outcome::Refused(Status::NotReady)
    }

    /// Ends a batch: makes it visible to snapshots together with [`State::applied`].
    pub fn commit(&mut self, durable: bool) -> Result<(), KvError> {
        self.kv.commit(durable)
    }

    /// A view of the last commit for [`read`], usable on any thread.
    pub fn snapshot(&self) -> Result<K::Snapshot, KvError> {
        self.kv.snapshot()
    }

    /// The cluster map, ahead of the last commit by the open batch.
    pub fn map(&self) -> &ClusterMap {
        &self.map
    }

    /// Changes of the map since version `have`; the whole map when they are no longer remembered.
    pub fn delta_since(&self, _have: MapVersion) -> MapDelta {
        self.map.to_delta()
    }

    /// Commands applied since the log began.
    pub fn applied(&self) -> u64 {
        0
    }

    /// Commands applied as of the last durable commit: the log up to here is no longer needed.
    pub fn durable(&self) -> u64 {
        0
    }

    /// Figures for the status of the cluster.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// What the cluster was made with; `None` before it was initialized.
    pub fn settings(&self) -> Option<Settings> {
        None
    }

    /// The session, while it is open.
    pub fn session(&self, _id: SessionId) -> Option<&Session> {
        None
    }

    /// Every open session, ascending.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        std::iter::empty()
    }

    /// Incarnation under which a node registered last.
    pub fn incarnation(&self, _node: protocol::ids::NodeId) -> Option<u64> {
        None
    }

    /// Targets whose journal or index could not be trusted when they registered last.
    pub fn distrusted(&self) -> BTreeSet<TargetId> {
        BTreeSet::new()
    }

    /// Dead files that nodes still hold, at most `limit` pairs of group and file.
    pub fn dead_files(&self, _limit: usize) -> Result<Vec<(GroupId, Vec<Fid>)>, KvError> {
        Ok(Vec::new())
    }
}
