//! The list of damage that a store remembers. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use protocol::ids::{GroupId, Lsn, Version};

use super::damage::{Damage, DamagedPart};
use super::entry::Name;
use super::state::ChunkState;
use crate::limits::{DAMAGED_CELLS_MAX, DAMAGED_VERSIONS_MAX};

/// Damaged versions and cells, up to a bound.
#[derive(Default)]
pub(super) struct DamageList {
    found: BTreeMap<(Name, Version), Found>,
    cells: usize,
}

#[derive(Default)]
struct Found {
    /// Batch that recorded the damaged version: the same version, recorded anew, is another one.
    lsn: Lsn,
    whole: bool,
    cells: BTreeSet<u32>,
}

impl DamageList {
    /// Remembers damage; false when there is no room, and scrub has to find it again.
    pub(super) fn add(
        &mut self,
        name: Name,
        version: Version,
        lsn: Lsn,
        part: &DamagedPart,
    ) -> bool {
        if self.found.get(&(name, version)).is_some_and(|found| found.lsn != lsn) {
            self.forget(name, version);
        }
        let known = self.found.contains_key(&(name, version));
        if !known && self.found.len() >= DAMAGED_VERSIONS_MAX {
            return false;
        }
        let room = DAMAGED_CELLS_MAX - self.cells;
        let found = self.found.entry((name, version)).or_default();
        found.lsn = lsn;
        let before = found.cells.len();
        let all = match part {
            DamagedPart::Whole => {
                found.whole = true;
                true
            }
            DamagedPart::Cells(cells) => {
                let new: Vec<u32> =
                    cells.iter().copied().filter(|cell| !found.cells.contains(cell)).collect();
                found.cells.extend(new.iter().take(room));
                new.len() <= room
            }
        };
        self.cells += found.cells.len() - before;
        if !found.whole && found.cells.is_empty() {
            self.found.remove(&(name, version));
        }
        all
    }

    /// Forgets a version that was replaced or is gone.
    pub(super) fn forget(&mut self, name: Name, version: Version) {
        if let Some(found) = self.found.remove(&(name, version)) {
            self.cells -= found.cells.len();
        }
    }

    /// Notes that cells were repaired; the version is recorded in batch `lsn` now.
    pub(super) fn repaired(&mut self, name: Name, version: Version, cells: Range<u32>, lsn: Lsn) {
        let Some(found) = self.found.get_mut(&(name, version)) else { return };
        found.lsn = lsn;
        let before = found.cells.len();
        found.cells.retain(|cell| !cells.contains(cell));
        self.cells -= before - found.cells.len();
        if !found.whole && found.cells.is_empty() {
            self.found.remove(&(name, version));
        }
    }

    /// Damaged cells of a range; a damaged descriptor does not count, because its cells may still
    /// be known.
    pub(super) fn bad(&self, name: Name, state: &ChunkState, cells: Range<u32>) -> BTreeSet<u32> {
        let found = self.found.get(&(name, state.version)).filter(|it| it.lsn == state.lsn);
        found.map_or_else(BTreeSet::new, |found| found.cells.range(cells).copied().collect())
    }

    /// The first of them.
    pub(super) fn first_bad(
        &self,
        name: Name,
        state: &ChunkState,
        cells: Range<u32>,
    ) -> Option<u32> {
        let found = self.found.get(&(name, state.version)).filter(|it| it.lsn == state.lsn)?;
        found.cells.range(cells).next().copied()
    }

    /// True when the descriptor of a version is damaged.
    pub(super) fn is_whole(&self, name: Name, state: &ChunkState) -> bool {
        let found = self.found.get(&(name, state.version));
        found.is_some_and(|found| found.whole && found.lsn == state.lsn)
    }

    /// Names of everything damaged in a group, with the batch that recorded it.
    pub(super) fn names(&self, group: GroupId) -> Vec<(Name, Version, Lsn)> {
        let of_group = self.found.iter().filter(|((name, _), _)| name.0 == group);
        of_group.map(|((name, version), found)| (*name, *version, found.lsn)).collect()
    }

    pub(super) fn list(&self, group: GroupId) -> Vec<Damage> {
        let of_group = self.found.iter().filter(|((name, _), _)| name.0 == group);
        let damage = |((name, version), found): (&(Name, Version), &Found)| {
            let cells = || DamagedPart::Cells(found.cells.iter().copied().collect());
            let part = if found.whole { DamagedPart::Whole } else { cells() };
            Damage { group: name.0, key: name.1, version: *version, part }
        };
        of_group.map(damage).collect()
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::{ChunkKey, Epoch, Fid};

    use super::*;

    const VERSION: Version = Version { epoch: Epoch(1), counter: 1 };

    fn name(fid: u64) -> Name {
        (GroupId(1), ChunkKey { fid: Fid(fid), index: 0 })
    }

    #[test]
    fn the_list_is_bounded_in_versions() {
        let mut list = DamageList::default();
        for fid in 0..DAMAGED_VERSIONS_MAX as u64 {
            assert!(list.add(name(fid), VERSION, Lsn(1), &DamagedPart::Whole));
        }
        let one = DamagedPart::Cells(vec![0]);
        assert!(!list.add(name(1 << 40), VERSION, Lsn(1), &one), "full");
        assert!(list.add(name(0), VERSION, Lsn(1), &one), "known already");
        list.forget(name(0), VERSION);
        assert!(list.add(name(1 << 40), VERSION, Lsn(1), &one));
        assert_eq!(list.list(GroupId(1)).len(), DAMAGED_VERSIONS_MAX);
    }

    #[test]
    fn the_list_is_bounded_in_cells_and_repairs_make_room() {
        let mut list = DamageList::default();
        let most = u32::try_from(DAMAGED_CELLS_MAX).unwrap();
        assert!(list.add(name(1), VERSION, Lsn(1), &DamagedPart::Cells((0..most - 1).collect())));
        let two = DamagedPart::Cells(vec![7, 8]);
        assert!(!list.add(name(2), VERSION, Lsn(1), &two), "one of them fits");
        assert!(!list.add(name(3), VERSION, Lsn(1), &two), "none of them fits");
        assert_eq!(list.list(GroupId(1)).len(), 2);
        list.repaired(name(1), VERSION, 0..10, Lsn(2));
        assert!(list.add(name(3), VERSION, Lsn(1), &two));
        list.repaired(name(1), VERSION, 0..most, Lsn(3));
        list.repaired(name(2), VERSION, 7..8, Lsn(3));
        assert_eq!(list.list(GroupId(1)).len(), 1);
        assert_eq!(list.cells, 2);
    }

    #[test]
    fn a_version_recorded_anew_has_no_old_damage() {
        let mut list = DamageList::default();
        assert!(list.add(name(1), VERSION, Lsn(1), &DamagedPart::Cells(vec![1, 2])));
        assert!(list.add(name(1), VERSION, Lsn(5), &DamagedPart::Cells(vec![9])));
        let Damage { part, .. } = list.list(GroupId(1)).remove(0);
        assert_eq!(part, DamagedPart::Cells(vec![9]));
        assert_eq!(list.cells, 1);
    }
}
