//! Chunks that are set aside: kept for a while, not served, then freed.
//!
//! A chunk that only this target holds may be a leftover, or the one good copy that the others
//! lost. It is kept long enough for a person to notice, and freed when its file is known dead.

use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, Fid, GroupId};

use super::Store;
use super::extent::UNIT;
use super::record::Record;
use super::types::StoreError;
use crate::io::Disk;
use crate::limits::QUARANTINE_TIME_S;

/// A chunk that is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Its group.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// When it was set aside, in seconds since 1970.
    pub since_s: u64,
    /// Bytes of the arena it keeps.
    pub bytes: u64,
}

/// How much is set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuarantineSize {
    /// Chunks.
    pub chunks: u64,
    /// Bytes of the arena they keep.
    pub bytes: u64,
}

impl<D: Disk> Store<D> {
    /// Sets chunks aside: kept, not served, not listed. `now_s` is seconds since 1970.
    ///
    /// A chunk that is aside already keeps its first time. One that is written or installed again
    /// is not aside any more.
    ///
    /// # Durability
    /// On return they stay set aside.
    ///
    /// # Cancel safety
    /// As many as were queued go.
    pub async fn quarantine(
        &self,
        group: GroupId,
        keys: &[ChunkKey],
        now_s: u64,
    ) -> Result<(), StoreError> {
        let here: Vec<ChunkKey> = {
            let index = self.index.borrow();
            keys.iter().copied().filter(|key| index.served(group, *key).is_some()).collect()
        };
        let aside = |key| Record::Quarantine { group, key, since_s: now_s };
        self.commit_each(here.into_iter().map(aside)).await
    }

    /// Frees the chunks of these files that were set aside at least [`QUARANTINE_TIME_S`] ago;
    /// returns how many those were. `now_s` is seconds since 1970.
    ///
    /// For files that the coordinator does not know to be alive. [`Store::drop_fids`] frees
    /// everything of a file that is known to be dead, at once.
    ///
    /// # Durability
    /// On return they are gone; their space is free.
    ///
    /// # Cancel safety
    /// As many as were queued go.
    pub async fn release_quarantined(
        &self,
        group: GroupId,
        fids: &[Fid],
        now_s: u64,
    ) -> Result<u64, StoreError> {
        let age = if guard::holds(Guard::QuarantineAge) { QUARANTINE_TIME_S } else { 0 };
        let Some(until_s) = now_s.checked_sub(age) else { return Ok(0) };
        let mut released = 0;
        let mut old = Vec::new();
        for &fid in fids {
            let count = self.index.borrow().quarantined_of(group, fid, until_s);
            if count > 0 {
                old.push(fid);
                released += count;
            }
        }
        let release = |fid| Record::Release { group, fid, until_s };
        self.commit_each(old.into_iter().map(release)).await?;
        Ok(released)
    }

    /// One page of the chunks that are set aside, after a name, ascending; true when another page
    /// follows.
    pub fn quarantined(
        &self,
        after: Option<(GroupId, ChunkKey)>,
        limit: usize,
    ) -> (Vec<Quarantined>, bool) {
        let index = self.index.borrow();
        let mut aside = index.quarantined_after(after).map(|((group, key), entry)| Quarantined {
            group,
            key,
            since_s: entry.quarantined.unwrap_or_default(),
            bytes: entry.units * u64::from(UNIT),
        });
        let page = aside.by_ref().take(limit).collect();
        (page, aside.next().is_some())
    }

    /// How much is set aside, in all groups together.
    pub fn quarantine_size(&self) -> QuarantineSize {
        let total = self.index.borrow().tally_of_all();
        QuarantineSize {
            chunks: total.quarantined,
            bytes: total.quarantined_units * u64::from(UNIT),
        }
    }
}
