//! The versions of one chunk: how they follow each other, and how a checkpoint holds them.

use std::rc::Rc;

use protocol::ids::{ChunkKey, GroupId, Lsn, Version};
use smallvec::SmallVec;

use super::bytes::{Reader, Writer};
use super::extent::{Extent, ExtentSet};
use super::state::ChunkState;

/// Name of a chunk on a target.
pub(super) type Name = (GroupId, ChunkKey);

/// Bytes of an entry in a checkpoint before its states.
#[cfg(test)]
pub(super) const ENTRY_FIELDS: &[(&str, usize)] =
    &[("group", 4), ("key", 12), ("flags", 1), ("pendings", 1)];
const ENTRY_HEAD_LEN: usize = 18;
/// Bytes that follow them when the chunk is set aside: since when.
const SINCE_LEN: usize = 8;
const FLAG_QUARANTINED: u8 = 1;
const FLAG_COMMITTED: u8 = 2;

/// Versions of one chunk: seldom more than one that is committed and one that is not.
pub(super) type States = SmallVec<[Rc<ChunkState>; 2]>;

/// The versions of one chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) committed: Option<Rc<ChunkState>>,
    /// Ascending; each builds on the one before.
    pub(super) pendings: Vec<Rc<ChunkState>>,
    /// When it was set aside, in seconds since 1970: kept, not served, not listed.
    pub(super) quarantined: Option<u64>,
    /// Number of units that some version refers to; kept by who changes the versions.
    pub(super) units: u64,
}

impl Entry {
    /// The newest version, committed or pending.
    pub(super) fn newest(&self) -> Option<&Rc<ChunkState>> {
        self.pendings.last().or(self.committed.as_ref())
    }

    /// Every version, oldest first.
    pub(super) fn states(&self) -> impl Iterator<Item = &Rc<ChunkState>> + Clone {
        self.committed.iter().chain(&self.pendings)
    }

    /// Every unit some version refers to.
    pub(super) fn owned(&self) -> ExtentSet {
        ExtentSet::union(lists(self.states()))
    }

    /// The one version there is, when there are not several.
    pub(super) fn only(&self) -> Option<&ChunkState> {
        self.committed.as_deref().filter(|_| self.pendings.is_empty())
    }

    /// True when the chunk keeps room for its growth and nothing grows into it now.
    pub(super) fn reserves(&self) -> bool {
        self.only().is_some_and(|state| state.reserve.units > state.slack())
    }

    /// Takes note that the versions were others, of so many units: returns those units that none refers
    /// to any more.
    ///
    /// A commit moves a version and costs nothing here; other changes go once through the lists of
    /// what came and what went.
    pub(super) fn settle(&mut self, before: &[Rc<ChunkState>], units: u64) -> Vec<Extent> {
        let now: States = self.states().cloned().collect();
        let (freed, gained) = (beyond(before, &now), beyond(&now, before));
        self.units = units + gained.units() - freed.units();
        debug_assert_eq!(self.units, self.owned().units(), "units that some version refers to");
        freed.into_runs()
    }

    /// Length of [`Entry::encode`].
    pub(super) fn encoded_len(&self) -> usize {
        let since = if self.quarantined.is_some() { SINCE_LEN } else { 0 };
        ENTRY_HEAD_LEN + since + self.states().map(|state| 8 + state.encoded_len()).sum::<usize>()
    }

    /// Appends the entry as a checkpoint holds it: each state follows its journal position.
    pub(super) fn encode(&self, name: Name, out: &mut Writer) {
        let flags = if self.quarantined.is_some() { FLAG_QUARANTINED } else { 0 }
            | if self.committed.is_some() { FLAG_COMMITTED } else { 0 };
        let pendings = u8::try_from(self.pendings.len()).unwrap_or(u8::MAX);
        out.u32(name.0.0).key(name.1).u8(flags).u8(pendings);
        if let Some(since_s) = self.quarantined {
            out.u64(since_s);
        }
        for state in self.states() {
            state.encode(out.u64(state.lsn.0));
        }
    }

    /// Reads what [`Entry::encode`] wrote.
    pub(super) fn decode(from: &mut Reader<'_>) -> Option<(Name, Entry)> {
        let name = (from.group()?, from.key()?);
        let (flags, pendings) = (from.u8()?, from.u8()?);
        let aside = flags & FLAG_QUARANTINED != 0;
        let quarantined = if aside { Some(from.u64()?) } else { None };
        let state = |from: &mut Reader<'_>| {
            let lsn = Lsn(from.u64()?);
            ChunkState::decode(from, lsn).map(Rc::new)
        };
        let committed = if flags & FLAG_COMMITTED != 0 { Some(state(from)?) } else { None };
        let pendings = from.list(usize::from(pendings), state)?.into_vec();
        let mut entry = Entry { committed, pendings, quarantined, units: 0 };
        entry.units = match entry.only() {
            Some(state) => state.owned.iter().map(|run| u64::from(run.units)).sum(),
            None => entry.owned().units(),
        };
        Some((name, entry))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.committed.is_none() && self.pendings.is_empty()
    }

    pub(super) fn commit_through(&mut self, through: Version) {
        let done = self.pendings.iter().take_while(|state| state.version <= through).count();
        if let Some(newest) = self.pendings.drain(..done).next_back() {
            self.committed = Some(newest);
        }
    }

    /// Puts another state in the place of the one with the same version.
    pub(super) fn replace(&mut self, state: Rc<ChunkState>) {
        let mut states = self.committed.iter_mut().chain(&mut self.pendings);
        if let Some(have) = states.find(|have| have.version == state.version) {
            *have = state;
        }
    }

    pub(super) fn install(&mut self, state: Rc<ChunkState>, committed: bool) {
        if self.quarantined.take().is_some() {
            // What was set aside must not be served under what replaces it.
            *self = Entry::default();
        }
        if committed {
            self.pendings.clear();
            self.committed = Some(state);
        } else {
            // The versions before stay until this one is committed: the committed one is readable,
            // and the newest pending is all there is when a crash tears the whole chunk. Whether
            // they are suspect does not count: a replay may not know it.
            self.committed.take_if(|have| have.version >= state.version);
            self.pendings.retain(|have| have.version < state.version);
            self.pendings.drain(..self.pendings.len().saturating_sub(1));
            self.pendings.push(state);
        }
    }
}

/// What some versions refer to and none of the others.
fn beyond(some: &[Rc<ChunkState>], others: &[Rc<ChunkState>]) -> ExtentSet {
    let is_other = |state: &&Rc<ChunkState>| others.iter().any(|other| Rc::ptr_eq(other, state));
    let alone: SmallVec<[_; 2]> = some.iter().filter(|state| !is_other(state)).collect();
    if alone.is_empty() {
        return ExtentSet::default();
    }
    let mut set = ExtentSet::union(lists(alone.into_iter()));
    others.iter().for_each(|other| set.remove_all(&other.owned));
    set
}

/// What versions refer to, one list after the other.
fn lists<'a>(states: impl Iterator<Item = &'a Rc<ChunkState>> + Clone) -> Vec<Extent> {
    let mut all = Vec::with_capacity(states.clone().map(|state| state.owned.len()).sum());
    states.for_each(|state| all.extend_from_slice(&state.owned));
    all
}
