//! Running totals of each group: space, chunks, what is set aside, and the digest of its content.
//!
//! Pure. The index takes an entry's share out before it changes the entry and puts the new one in
//! afterwards, so every total is exact after every record and costs nothing to ask for.

use std::collections::BTreeMap;

use protocol::checksum::sum128;
use protocol::ids::GroupId;

use super::entry::{Entry, Name};
use super::state::ChunkState;

/// What one entry, or all entries of a group together, amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Units of the arena that some version refers to.
    pub(super) units: u64,
    /// Chunks with a committed version that are served.
    pub(super) committed: u64,
    /// Sum of their lengths.
    pub(super) bytes: u64,
    /// Wrapping sum over those chunks of a hash of name, version, length and content.
    pub(super) hash: u128,
    /// Versions that are not committed.
    pub(super) pendings: u64,
    /// Chunks that are set aside.
    pub(super) quarantined: u64,
    /// Their share of `units`.
    pub(super) quarantined_units: u64,
}

/// Totals of every group that has any.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tallies {
    groups: BTreeMap<GroupId, Tally>,
    total: Tally,
}

impl Tally {
    /// The share of one entry.
    pub(super) fn of(name: Name, entry: &Entry) -> Tally {
        let units = entry.units;
        let pendings = entry.pendings.len() as u64;
        if entry.quarantined.is_some() {
            let (quarantined, quarantined_units) = (1, units);
            return Tally { units, pendings, quarantined, quarantined_units, ..Tally::default() };
        }
        let committed = entry.committed.as_ref();
        Tally {
            units,
            committed: u64::from(committed.is_some()),
            bytes: committed.map_or(0, |state| u64::from(state.len)),
            hash: committed.map_or(0, |state| content_hash(name, state)),
            pendings,
            ..Tally::default()
        }
    }

    fn change(&mut self, before: &Tally, after: &Tally) {
        self.units = self.units - before.units + after.units;
        self.committed = self.committed - before.committed + after.committed;
        self.bytes = self.bytes - before.bytes + after.bytes;
        self.hash = self.hash.wrapping_sub(before.hash).wrapping_add(after.hash);
        self.pendings = self.pendings - before.pendings + after.pendings;
        self.quarantined = self.quarantined - before.quarantined + after.quarantined;
        self.quarantined_units =
            self.quarantined_units - before.quarantined_units + after.quarantined_units;
    }
}

impl Tallies {
    /// Replaces one entry's share by another.
    pub(super) fn change(&mut self, group: GroupId, before: &Tally, after: &Tally) {
        if before == after {
            return;
        }
        self.total.change(before, after);
        let tally = self.groups.entry(group).or_default();
        tally.change(before, after);
        if *tally == Tally::default() {
            self.groups.remove(&group);
        }
    }

    /// Totals of one group.
    pub(super) fn group(&self, group: GroupId) -> Tally {
        self.groups.get(&group).copied().unwrap_or_default()
    }

    /// Totals of all groups.
    pub(super) fn total(&self) -> Tally {
        self.total
    }
}

/// What a committed chunk adds to the digest of its group: replicas with equal chunks agree on it,
/// wherever the bytes lie.
fn content_hash(name: Name, state: &ChunkState) -> u128 {
    let mut bytes = [0; 32];
    let fields = [
        &name.1.fid.0.to_le_bytes()[..],
        &name.1.index.to_le_bytes(),
        &state.version.epoch.0.to_le_bytes(),
        &state.version.counter.to_le_bytes(),
        &state.len.to_le_bytes(),
        &state.content.to_le_bytes(),
    ];
    for (slot, byte) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
        *slot = *byte;
    }
    sum128(&bytes)
}
