//! What is known to be damaged, until it is repaired, replaced or forgotten.
//!
//! In memory only: scrub finds it again after a restart. Damage is noted only after a second read
//! of the device; other cells of the same version go on being read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use protocol::ids::{ChunkKey, GroupId, Lsn, Version};

use super::Store;
use super::index::Name;
use super::state::ChunkState;
use super::types::StoreError;
use crate::io::{Disk, DiskError};
use crate::limits::{DAMAGED_CELLS_MAX, DAMAGED_VERSIONS_MAX};

/// Damage of one version of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// The damaged version.
    pub version: Version,
    /// What of it.
    pub part: DamagedPart,
}

/// What of a version is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DamagedPart {
    /// These cells, ascending; each can be repaired by itself.
    Cells(Vec<u32>),
    /// Its descriptor: where the cells lie is not known any more, so only all of its bytes
    /// together, as a repair or as an install, can replace it.
    Whole,
}

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

    /// The first damaged cell of a range; a damaged descriptor does not count, because its cells
    /// may still be known.
    pub(super) fn first_bad(
        &self,
        name: Name,
        state: &ChunkState,
        cells: Range<u32>,
    ) -> Option<u32> {
        let found = self.found.get(&(name, state.version))?;
        let mut bad = found.cells.range(cells);
        bad.next().copied().filter(|_| found.lsn == state.lsn)
    }

    /// True when the descriptor of a version is damaged.
    pub(super) fn is_whole(&self, name: Name, state: &ChunkState) -> bool {
        let found = self.found.get(&(name, state.version));
        found.is_some_and(|found| found.whole && found.lsn == state.lsn)
    }

    /// Names of everything damaged in a group, with the batch that recorded it.
    fn names(&self, group: GroupId) -> Vec<(Name, Version, Lsn)> {
        let of_group = self.found.iter().filter(|((name, _), _)| name.0 == group);
        of_group.map(|((name, version), found)| (*name, *version, found.lsn)).collect()
    }

    fn list(&self, group: GroupId) -> Vec<Damage> {
        let of_group = self.found.iter().filter(|((name, _), _)| name.0 == group);
        let damage = |((name, version), found): (&(Name, Version), &Found)| {
            let cells = || DamagedPart::Cells(found.cells.iter().copied().collect());
            let part = if found.whole { DamagedPart::Whole } else { cells() };
            Damage { group: name.0, key: name.1, version: *version, part }
        };
        of_group.map(damage).collect()
    }
}

impl<D: Disk> Store<D> {
    /// Everything of a group that is known to be damaged now, ascending by key and version.
    ///
    /// # Shape
    /// Bounded by [`DAMAGED_VERSIONS_MAX`] and [`DAMAGED_CELLS_MAX`]. What was repaired, replaced
    /// or dropped meanwhile is left out.
    pub fn damaged(&self, group: GroupId) -> Vec<Damage> {
        let mut damages = self.upkeep.damages.borrow_mut();
        for (name, version, lsn) in damages.names(group) {
            if self.index.borrow().lsn_of(name, version) != Some(lsn) {
                damages.forget(name, version);
            }
        }
        damages.list(group)
    }

    /// Remembers damage that was seen on the device; damage of a version that is not here is not.
    ///
    /// For a claim of somebody else call [`Store::recheck`], which believes only the device.
    pub fn note_damage(&self, damage: &Damage) {
        let name = (damage.group, damage.key);
        let Some(lsn) = self.index.borrow().lsn_of(name, damage.version) else { return };
        let mut damages = self.upkeep.damages.borrow_mut();
        if !damages.add(name, damage.version, lsn, &damage.part) {
            tracing::warn!(
                target_id = self.identity.target.0,
                "more damage than is remembered at a time; scrub will find the rest again"
            );
        }
    }

    /// Reads cells of every version of a chunk from the device, past all caches, and notes what is
    /// damaged; returns exactly that.
    ///
    /// # Errors
    /// - [`StoreError::NotFound`]: no such chunk.
    /// - [`StoreError::Disk`]: the container is closed.
    ///
    /// # Cancel safety
    /// Nothing is noted.
    ///
    /// # Cost
    /// Reads each cell, and its descriptor page, once; twice where the first read is bad.
    pub async fn recheck(
        &self,
        group: GroupId,
        key: ChunkKey,
        cells: &[u32],
    ) -> Result<Vec<Damage>, StoreError> {
        let states = {
            let index = self.index.borrow();
            let entry = index.entry(group, key).ok_or(StoreError::NotFound)?;
            entry.states().cloned().collect::<Vec<_>>()
        };
        let mut damages = Vec::new();
        for state in states {
            damages.extend(self.recheck_state((group, key), &state, cells).await?);
        }
        Ok(damages)
    }

    /// [`Store::recheck`] of one version.
    pub(super) async fn recheck_state(
        &self,
        name: Name,
        state: &ChunkState,
        cells: &[u32],
    ) -> Result<Option<Damage>, StoreError> {
        let wanted: BTreeSet<u32> =
            cells.iter().copied().filter(|cell| *cell < state.cell_count()).collect();
        let mut bad = Vec::new();
        for cell in wanted {
            let examined = self.examine(name.1, state, cell..cell + 1).await?;
            if examined.whole {
                return Ok(Some(self.found(name, state, DamagedPart::Whole)));
            }
            bad.extend(examined.bad);
        }
        if bad.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.found(name, state, DamagedPart::Cells(bad))))
    }

    /// Refuses cells that are known to be damaged.
    pub(super) fn check_undamaged(
        &self,
        name: Name,
        state: &ChunkState,
        cells: Range<u32>,
    ) -> Result<(), StoreError> {
        match self.upkeep.damages.borrow().first_bad(name, state, cells) {
            Some(cell) => Err(StoreError::Corrupt { cell }),
            None => Ok(()),
        }
    }

    /// Looks again at cells that could not be read; fine when it was nothing.
    pub(super) async fn confirm(
        &self,
        name: Name,
        state: &ChunkState,
        cells: Range<u32>,
        error: StoreError,
    ) -> Result<(), StoreError> {
        let cells: Vec<u32> = cells.collect();
        match self.recheck_state(name, state, &cells).await? {
            None => Ok(()),
            Some(Damage { part: DamagedPart::Cells(bad), .. }) => {
                Err(StoreError::Corrupt { cell: bad.first().copied().unwrap_or_default() })
            }
            Some(_) => Err(error),
        }
    }

    /// Notes damage of a version and says what it is.
    pub(super) fn found(&self, name: Name, state: &ChunkState, part: DamagedPart) -> Damage {
        let damage = Damage { group: name.0, key: name.1, version: state.version, part };
        tracing::warn!(
            target_id = self.identity.target.0,
            group = name.0.0,
            key = %name.1,
            version = %state.version,
            part = ?damage.part,
            "damage found"
        );
        self.note_damage(&damage);
        if damage.part == DamagedPart::Whole {
            // Its bytes cannot be found any more, whatever they are.
            self.mark_suspect(name.0, name.1, state.version);
        }
        damage
    }
}

/// True when an error may mean that the medium lost something.
pub(super) fn is_damage(error: &StoreError) -> bool {
    let unreadable = |error: &DiskError| matches!(error, DiskError::Io { operation: "read", .. });
    match error {
        StoreError::Corrupt { .. } => true,
        StoreError::Disk(error) => unreadable(error),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::{Epoch, Fid};

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
        let most = DAMAGED_CELLS_MAX as u32;
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
