//! Writes on their way, as frames show them: what was sent to whom, what was prepared where, which
//! acknowledgements are out.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{Epoch, GroupId, OpId, Version};
use protocol::message::chunk::{CommittedNotice, ReplicateMode, ReplicateRequest, WriteRequest};
use protocol::status::Status;

use super::{Exchange, Seen, exchange};
use crate::sim::executor::ProcessId;

/// All writes that are not over.
#[derive(Default)]
pub(super) struct Flights {
    /// Operations that a client sent and no answer was sent for: to whom, and which.
    asked: BTreeMap<Exchange, (ProcessId, OpId)>,
    versions: BTreeMap<(GroupId, Version), Flight>,
    /// Which version a request to store is about.
    requests: BTreeMap<Exchange, (GroupId, Version)>,
    /// Versions by operation, to find the one that an answer acknowledges.
    operations: BTreeMap<OpId, (GroupId, Version)>,
}

/// One version.
pub(super) struct Flight {
    pub(super) primary: ProcessId,
    pub(super) sent: BTreeSet<ProcessId>,
    pub(super) prepared: BTreeSet<ProcessId>,
    pub(super) acknowledged: bool,
}

/// How far a write was when its primary died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    /// No member got it.
    Nowhere,
    /// Some members have prepared it, or may have.
    Some,
    /// All others have prepared it, the client does not know.
    All,
    /// The client knows, the members do not know that it is committed.
    Acknowledged,
}

impl Flights {
    pub(super) fn on_write(&mut self, seen: &Seen<'_>, request: &WriteRequest) {
        self.asked.insert(exchange(seen), (seen.to, request.op));
    }

    pub(super) fn on_write_answer(&mut self, seen: &Seen<'_>) {
        let Some((_, op)) = self.asked.remove(&exchange(seen)) else { return };
        let Some(version) = self.operations.get(&op) else { return };
        if seen.header.status == Status::Ok
            && let Some(flight) = self.versions.get_mut(version)
        {
            flight.acknowledged = true;
        }
    }

    pub(super) fn on_replicate(&mut self, seen: &Seen<'_>, request: &ReplicateRequest) {
        if request.mode != ReplicateMode::Write {
            return;
        }
        let name = (request.group, request.version);
        let flight = self.versions.entry(name).or_insert_with(|| Flight {
            primary: seen.from,
            sent: BTreeSet::new(),
            prepared: BTreeSet::new(),
            acknowledged: false,
        });
        flight.sent.insert(seen.to);
        self.requests.insert(exchange(seen), name);
        self.operations.insert(request.op, name);
    }

    pub(super) fn on_prepared(&mut self, seen: &Seen<'_>) {
        let Some(name) = self.requests.remove(&exchange(seen)) else { return };
        if seen.header.status == Status::Ok
            && let Some(flight) = self.versions.get_mut(&name)
        {
            flight.prepared.insert(seen.from);
        }
    }

    /// Everything at or below the mark is over.
    pub(super) fn on_committed(&mut self, notice: &CommittedNotice) {
        let first = (notice.group, Version::ZERO);
        let over: Vec<_> =
            self.versions.range(first..=(notice.group, notice.through)).map(|it| *it.0).collect();
        for name in over {
            self.versions.remove(&name);
        }
        self.operations
            .retain(|_, (group, version)| *group != notice.group || *version > notice.through);
    }

    /// Nothing of an older epoch goes on.
    pub(super) fn on_epoch(&mut self, group: GroupId, epoch: Epoch) {
        self.versions.retain(|(of, version), _| *of != group || version.epoch >= epoch);
    }

    /// What was asked of a process is lost with it.
    pub(super) fn on_death(&mut self, process: ProcessId) {
        self.asked.retain(|_, (to, _)| *to != process);
        self.versions.retain(|_, flight| flight.primary != process);
    }

    /// How far each write of a primary was.
    pub(super) fn of_primary(&self, primary: ProcessId) -> BTreeSet<Progress> {
        let mut found = BTreeSet::new();
        for flight in self.versions.values().filter(|flight| flight.primary == primary) {
            found.insert(match flight.sent == flight.prepared {
                _ if flight.acknowledged => Progress::Acknowledged,
                true => Progress::All,
                false => Progress::Some,
            });
        }
        let started: BTreeSet<OpId> = self.operations.keys().copied().collect();
        let waits = |(to, op): &(ProcessId, OpId)| *to == primary && !started.contains(op);
        if self.asked.values().any(waits) {
            found.insert(Progress::Nowhere);
        }
        found
    }

    /// True when a version waits for this process and its primary is another one.
    pub(super) fn waits_for(&self, backup: ProcessId) -> bool {
        self.versions
            .values()
            .any(|flight| flight.sent.contains(&backup) && !flight.prepared.contains(&backup))
    }
}
