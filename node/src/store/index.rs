//! What the target holds: every version of every chunk, and what is known of each group.
//!
//! Pure. [`Index::apply`] is the only way to change it, both while running and at recovery, so a
//! replay of the journal arrives where the running store was. It answers which units nobody
//! refers to any more; when those may be used again is not decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};
use std::rc::Rc;

use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, Fid, GroupId, Lsn, Version};

use super::audit::Audit;
use super::entry::{Entry, Name, States};
use super::extent::Extent;
use super::record::Record;
use super::snapshot::Snapshot;
use super::state::ChunkState;
use super::tally::{Tallies, Tally};
use super::types::GroupInfo;

/// What is derived from one entry.
#[derive(Default)]
struct Traits {
    tally: Tally,
    /// Bytes in a checkpoint.
    len: u64,
    pendings: bool,
    suspects: bool,
    aside: bool,
    reserves: bool,
}

/// Everything the target holds.
#[derive(Default)]
pub(super) struct Index {
    entries: BTreeMap<Name, Entry>,
    groups: BTreeMap<GroupId, GroupInfo>,
    with_pendings: BTreeSet<Name>,
    with_suspects: BTreeSet<Name>,
    set_aside: BTreeSet<Name>,
    with_reserves: BTreeSet<Name>,
    tallies: Tallies,
    image_len: u64,
    pub(super) snapshot: Option<Snapshot>,
    pub(super) audit: Option<Audit>,
}

impl Index {
    /// Changes the index by one record; returns the units that are not referred to any more.
    pub(super) fn apply(&mut self, record: Record) -> Vec<Extent> {
        match record {
            Record::Put { group, key, state } => self.put((group, key), Rc::new(state)),
            Record::Install { group, key, committed, state } => {
                let committed = committed || state.version <= self.group(group).committed_through;
                self.change((group, key), |entry| entry.install(Rc::new(state), committed))
            }
            Record::Committed { group, through } => self.commit_through(group, through),
            Record::Adopt { group, epoch } => {
                let info = self.groups.entry(group).or_default();
                info.epoch = info.epoch.max(epoch);
                Vec::new()
            }
            Record::Discard { group, key, version } => self.change((group, key), |entry| {
                entry.pendings.retain(|state| state.version < version);
            }),
            Record::Quarantine { group, key, since_s } => self.change((group, key), |entry| {
                entry.quarantined.get_or_insert(since_s);
            }),
            Record::Repair { group, key, state } => {
                self.change((group, key), |entry| entry.replace(Rc::new(state)))
            }
            Record::Release { group, fid, until_s } => self.release(group, fid, until_s),
            Record::DropFid { group, fid } => self.drop_fid(group, fid),
            Record::Suspect { group, key, version } => {
                self.suspect((group, key), |state| state.version == version);
                Vec::new()
            }
        }
    }

    /// Puts back all entries that a checkpoint held; ascending, and the index has none.
    ///
    /// At once and not one by one: opening a target with many chunks is mostly this.
    pub(super) fn restore(&mut self, entries: Vec<(Name, Entry)>) {
        for (name, entry) in &entries {
            self.follow(*name, &Traits::default(), &Traits::of(*name, entry));
        }
        self.entries = entries.into_iter().collect();
    }

    /// Every run of units that some version refers to, ascending; a run comes twice when two
    /// chunks claim it.
    pub(super) fn runs(&self) -> Vec<Extent> {
        let mut runs = Vec::with_capacity(self.entries.len());
        for entry in self.entries.values() {
            match entry.only() {
                Some(state) => runs.extend(&state.owned),
                None => runs.extend(entry.owned().runs()),
            }
        }
        runs.sort_unstable();
        runs
    }

    /// Puts a group back that a checkpoint held.
    pub(super) fn restore_group(&mut self, group: GroupId, info: GroupInfo) {
        self.groups.insert(group, info);
    }

    /// Forgets a chunk that recovery found to be overwritten.
    pub(super) fn forget(&mut self, name: Name) {
        self.change(name, |entry| *entry = Entry::default());
    }

    /// Marks every version of a chunk for which the test holds as not trusted.
    pub(super) fn suspect(&mut self, name: Name, test: impl Fn(&ChunkState) -> bool) {
        self.change(name, |entry| {
            for state in entry.committed.iter_mut().chain(&mut entry.pendings) {
                if test(state) {
                    Rc::make_mut(state).suspect = true;
                }
            }
        });
    }

    /// True when this version is here and not suspect.
    pub(super) fn trusts(&self, name: Name, version: Version) -> bool {
        let mut states = self.entries.get(&name).into_iter().flat_map(Entry::states);
        states.any(|state| state.version == version && !state.suspect)
    }

    pub(super) fn entry(&self, group: GroupId, key: ChunkKey) -> Option<&Entry> {
        self.entries.get(&(group, key))
    }

    /// The entry, unless it is quarantined.
    pub(super) fn served(&self, group: GroupId, key: ChunkKey) -> Option<&Entry> {
        self.entry(group, key).filter(|entry| entry.quarantined.is_none())
    }

    /// One version of a chunk, set aside or not.
    pub(super) fn state_at(&self, name: Name, version: Version) -> Option<Rc<ChunkState>> {
        let entry = self.entries.get(&name)?;
        entry.states().find(|state| state.version == version).cloned()
    }

    /// Batch that recorded a version.
    pub(super) fn lsn_of(&self, name: Name, version: Version) -> Option<Lsn> {
        self.state_at(name, version).map(|state| state.lsn)
    }

    /// The version that a repair is about to replace, as it was.
    pub(super) fn before_repair(&self, record: &Record) -> Option<(Name, Rc<ChunkState>)> {
        let Record::Repair { group, key, state } = record else { return None };
        let name = (*group, *key);
        Some((name, self.state_at(name, state.version)?))
    }

    /// Puts a state back in the place of the one with the same version.
    pub(super) fn put_back(&mut self, name: Name, state: Rc<ChunkState>) {
        self.change(name, |entry| entry.replace(state));
    }

    /// Notes that a version recorded in batch `from` was recorded again, durably, up to `to`.
    pub(super) fn renumber(&mut self, name: Name, version: Version, from: Lsn, to: Lsn) {
        self.change(name, |entry| {
            let mut states = entry.committed.iter_mut().chain(&mut entry.pendings);
            if let Some(state) = states.find(|state| state.version == version && state.lsn == from)
            {
                Rc::make_mut(state).lsn = to;
            }
        });
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&Name, &Entry)> {
        self.entries.iter()
    }

    /// Entries of one group after a key, ascending.
    pub(super) fn group_entries(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
    ) -> impl Iterator<Item = (ChunkKey, &Entry)> {
        let from = match after {
            Some(key) => Bound::Excluded((group, key)),
            None => Bound::Included((group, ChunkKey::default())),
        };
        self.entries
            .range((from, Bound::Unbounded))
            .take_while(move |(name, _)| name.0 == group)
            .map(|(name, entry)| (name.1, entry))
    }

    /// Entries after a name, for a checkpoint.
    pub(super) fn entries_after(
        &self,
        after: Option<Name>,
    ) -> impl Iterator<Item = (&Name, &Entry)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((from, Bound::Unbounded))
    }

    /// Chunks of a group that have pending versions, ascending.
    pub(super) fn pending_names(&self, group: GroupId) -> impl Iterator<Item = Name> {
        self.with_pendings.range(all_of(group)).copied()
    }

    /// Chunks of a group that have suspect versions, ascending.
    pub(super) fn suspect_names(&self, group: GroupId) -> impl Iterator<Item = Name> {
        self.with_suspects.range(all_of(group)).copied()
    }

    /// Chunks that keep room for growth and have one version, ascending.
    pub(super) fn reserves(&self) -> impl Iterator<Item = (Name, &Rc<ChunkState>)> {
        let state = |name: &Name| self.entries.get(name)?.committed.as_ref();
        self.with_reserves.iter().filter_map(move |name| Some((*name, state(name)?)))
    }

    /// Chunks that are set aside after a name, ascending.
    pub(super) fn quarantined_after(
        &self,
        after: Option<Name>,
    ) -> impl Iterator<Item = (Name, &Entry)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.set_aside.range((from, Bound::Unbounded));
        names.filter_map(|name| Some((*name, self.entries.get(name)?)))
    }

    /// Chunks of a file that were set aside at or before a time.
    pub(super) fn quarantined_of(&self, group: GroupId, fid: Fid, until_s: u64) -> u64 {
        let names = self.set_aside.range(of_fid(group, fid));
        let since = names.filter_map(|name| self.entries.get(name)?.quarantined);
        since.filter(|since_s| *since_s <= until_s).count() as u64
    }

    /// Totals of one group.
    pub(super) fn tally(&self, group: GroupId) -> Tally {
        self.tallies.group(group)
    }

    /// Totals of all groups.
    pub(super) fn tally_of_all(&self) -> Tally {
        self.tallies.total()
    }

    pub(super) fn group(&self, group: GroupId) -> GroupInfo {
        self.groups.get(&group).cloned().unwrap_or_default()
    }

    pub(super) fn groups(&self) -> &BTreeMap<GroupId, GroupInfo> {
        &self.groups
    }

    /// Groups with entries, ascending, also those of which nothing else is recorded any more.
    pub(super) fn groups_held(&self) -> impl Iterator<Item = GroupId> {
        let mut from = Bound::Unbounded;
        std::iter::from_fn(move || {
            let ((group, _), _) = self.entries.range((from, Bound::Unbounded)).next()?;
            let last = ChunkKey { fid: Fid(u64::MAX), index: u32::MAX };
            from = Bound::Excluded((*group, last));
            Some(*group)
        })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes a checkpoint of all entries takes.
    pub(super) fn image_len(&self) -> u64 {
        self.image_len
    }

    fn put(&mut self, name: Name, state: Rc<ChunkState>) -> Vec<Extent> {
        let through = self.group(name.0).committed_through;
        self.change(name, |entry| {
            if entry.quarantined.take().is_some() {
                // The primary began the chunk anew: what was set aside must not be served under it.
                *entry = Entry::default();
            }
            entry.pendings.push(state);
            if guard::holds(Guard::FreeAfterCommit) {
                entry.commit_through(through);
            } else {
                entry.committed = entry.pendings.pop();
            }
        })
    }

    fn commit_through(&mut self, group: GroupId, through: Version) -> Vec<Extent> {
        let info = self.groups.entry(group).or_default();
        info.committed_through = info.committed_through.max(through);
        let names: Vec<Name> = self.pending_names(group).collect();
        names
            .into_iter()
            .flat_map(|name| self.change(name, |entry| entry.commit_through(through)))
            .collect()
    }

    fn drop_fid(&mut self, group: GroupId, fid: Fid) -> Vec<Extent> {
        let names: Vec<Name> = self.entries.range(of_fid(group, fid)).map(|have| *have.0).collect();
        names
            .into_iter()
            .flat_map(|name| self.change(name, |entry| *entry = Entry::default()))
            .collect()
    }

    fn release(&mut self, group: GroupId, fid: Fid, until_s: u64) -> Vec<Extent> {
        let names: Vec<Name> = self.set_aside.range(of_fid(group, fid)).copied().collect();
        let old = |entry: &Entry| entry.quarantined.is_some_and(|since_s| since_s <= until_s);
        names
            .into_iter()
            .flat_map(|name| {
                self.change(name, |entry| {
                    if old(entry) {
                        *entry = Entry::default();
                    }
                })
            })
            .collect()
    }

    /// Changes one entry and keeps everything that follows from it.
    fn change(&mut self, name: Name, change: impl FnOnce(&mut Entry)) -> Vec<Extent> {
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.keep(name, self.entries.get(&name));
        }
        let entry = self.entries.entry(name).or_default();
        let before = Traits::of(name, entry);
        let states: States = entry.states().cloned().collect();
        let audited = self.audit.is_some().then(|| entry.owned());
        change(entry);
        if entry.is_empty() {
            entry.quarantined = None;
        }
        if let (Some(audit), Some(before)) = (&mut self.audit, audited) {
            audit.change(name, before.runs(), entry.owned().runs());
        }
        let freed = entry.settle(&states, before.tally.units);
        let after = Traits::of(name, entry);
        if entry.is_empty() {
            self.entries.remove(&name);
        }
        self.follow(name, &before, &after);
        freed
    }

    /// Keeps what is derived from the entries, when one changes.
    fn follow(&mut self, name: Name, before: &Traits, after: &Traits) {
        self.tallies.change(name.0, &before.tally, &after.tally);
        self.image_len = self.image_len + after.len - before.len;
        note(&mut self.with_pendings, name, before.pendings, after.pendings);
        note(&mut self.with_suspects, name, before.suspects, after.suspects);
        note(&mut self.set_aside, name, before.aside, after.aside);
        note(&mut self.with_reserves, name, before.reserves, after.reserves);
    }
}

impl Traits {
    fn of(name: Name, entry: &Entry) -> Traits {
        Traits {
            tally: Tally::of(name, entry),
            len: if entry.is_empty() { 0 } else { entry.encoded_len() as u64 },
            pendings: !entry.pendings.is_empty(),
            suspects: entry.states().any(|state| state.suspect),
            aside: entry.quarantined.is_some(),
            reserves: entry.reserves(),
        }
    }
}

/// Every name of a group.
fn all_of(group: GroupId) -> RangeInclusive<Name> {
    let last = ChunkKey { fid: Fid(u64::MAX), index: u32::MAX };
    (group, ChunkKey::default())..=(group, last)
}

/// Keeps a name in a set while something holds for it.
fn note(set: &mut BTreeSet<Name>, name: Name, held: bool, holds: bool) {
    match (held, holds) {
        (false, true) => set.insert(name),
        (true, false) => set.remove(&name),
        _ => return,
    };
}

/// Every chunk of one file in one group.
fn of_fid(group: GroupId, fid: Fid) -> RangeInclusive<Name> {
    (group, ChunkKey { fid, index: 0 })..=(group, ChunkKey { fid, index: u32::MAX })
}
