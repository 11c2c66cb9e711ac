//! Versions that this store does not trust: how they become so, and which there are.
//!
//! Suspicion belongs to one version. It is never served as good and never counts as held; the
//! versions beside it are what they were. Discarding it falls back to the version before,
//! installing replaces it.

use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, GroupId, Version};

use super::Store;
use super::damage::DamagedPart;
use super::entry::Name;
use super::journal::Room;
use super::record::Record;
use super::state::ChunkState;
use super::types::StoreError;
use crate::io::Disk;

impl<D: Disk> Store<D> {
    /// Marks one version as not trusted; one that is not here stays unknown.
    ///
    /// # Durability
    /// None of its own: the mark rides with the next batch. When it is lost, whoever reads the
    /// version finds the damage again.
    pub fn mark_suspect(&self, group: GroupId, key: ChunkKey, version: Version) {
        let name = (group, key);
        if !self.index.borrow().trusts(name, version) {
            return;
        }
        tracing::error!(target_id = self.identity.target.0, group = group.0, %key, %version,
            "version is suspect");
        if self.stage(Record::Suspect { group, key, version }, Room::Reserved).is_err() {
            // Fenced, full or still opening: memory knows it, and the next checkpoint.
            self.index.borrow_mut().suspect(name, |state| state.version == version);
        }
    }

    /// Versions of a group that are not trusted, ascending by key and version.
    pub fn suspects(&self, group: GroupId) -> Vec<(ChunkKey, Version)> {
        let index = self.index.borrow();
        let names = index.suspect_names(group);
        let entries = names.filter_map(|(group, key)| Some((key, index.served(group, key)?)));
        entries
            .flat_map(|(key, entry)| {
                let suspects = entry.states().filter(|state| state.suspect);
                suspects.map(move |state| (key, state.version))
            })
            .collect()
    }

    /// Marks a version whose descriptor is not the one that was written.
    pub(super) fn distrust(&self, name: Name, state: &ChunkState) {
        self.found(name, state, DamagedPart::Whole);
    }
}

/// True when the version may be served and counts as held here.
pub(super) fn counts(state: &ChunkState) -> bool {
    !state.suspect || !guard::holds(Guard::SuspectLoses)
}

/// Refuses what is built on a suspect version or read from it.
pub(super) fn check_trusted(state: &ChunkState) -> Result<(), StoreError> {
    if counts(state) { Ok(()) } else { Err(StoreError::Suspect) }
}
