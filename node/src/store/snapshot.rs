//! The index as it was at one instant, read in slices while the index goes on changing.
//!
//! Entries that change before they were read are kept here as they were.

use std::collections::BTreeMap;

use super::entry::{Entry, Name};
use super::index::Index;

/// Progress of reading, and what had to be kept.
#[derive(Default)]
pub(super) struct Snapshot {
    /// Everything up to here was read.
    cursor: Option<Name>,
    /// Entries that changed since, as they were; `None` for those that were not there.
    kept: BTreeMap<Name, Option<Entry>>,
}

impl Snapshot {
    /// Keeps an entry that is about to change.
    pub(super) fn keep(&mut self, name: Name, entry: Option<&Entry>) {
        if self.cursor.is_none_or(|cursor| name > cursor) {
            self.kept.entry(name).or_insert_with(|| entry.cloned());
        }
    }
}

impl Index {
    /// Starts a snapshot of this instant.
    pub(super) fn begin_snapshot(&mut self) {
        self.snapshot = Some(Snapshot::default());
    }

    /// The next entries of the snapshot, ascending; empty at its end, which also ends it.
    pub(super) fn snapshot_slice(&mut self, limit: usize) -> Vec<(Name, Entry)> {
        let Some(snapshot) = self.snapshot.take() else { return Vec::new() };
        let Snapshot { cursor, mut kept } = snapshot;
        let mut slice: BTreeMap<Name, Entry> = self
            .entries_after(cursor)
            .take(limit)
            .map(|(name, entry)| (*name, entry.clone()))
            .collect();
        // Kept entries up to the last one of the slice belong to it; all of them at the end.
        let whole = slice.len() < limit;
        let last = slice.last_key_value().map(|(name, _)| *name);
        let later = match (whole, last) {
            (false, Some(last)) => {
                let later = kept.split_off(&last);
                let (same, later) = split_first(later, last);
                kept.extend(same);
                later
            }
            _ => BTreeMap::new(),
        };
        for (name, entry) in kept {
            match entry {
                Some(entry) => slice.insert(name, entry),
                None => slice.remove(&name),
            };
        }
        if !whole {
            self.snapshot = Some(Snapshot { cursor: last, kept: later });
        }
        slice.into_iter().collect()
    }
}

type Kept = BTreeMap<Name, Option<Entry>>;

fn split_first(mut kept: Kept, name: Name) -> (Kept, Kept) {
    let same = kept.remove(&name).map(|entry| (name, entry));
    (same.into_iter().collect(), kept)
}
