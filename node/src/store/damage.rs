//! What is known to be damaged, until it is repaired, replaced or forgotten.
//!
//! In memory only: scrub finds it again after a restart. Damage is noted only after a second read
//! of the device; other cells of the same version go on being read.

use std::collections::BTreeSet;
use std::ops::Range;

use protocol::ids::{ChunkKey, GroupId, Version};

use super::Store;
use super::entry::Name;
use super::state::ChunkState;
use super::types::StoreError;
use crate::io::{Disk, DiskError};

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

impl<D: Disk> Store<D> {
    /// Everything of a group that is known to be damaged now, ascending by key and version.
    ///
    /// # Shape
    /// Bounded by [`DAMAGED_VERSIONS_MAX`](crate::limits::DAMAGED_VERSIONS_MAX) and
    /// [`DAMAGED_CELLS_MAX`](crate::limits::DAMAGED_CELLS_MAX). What was repaired, replaced or
    /// dropped meanwhile is left out.
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
