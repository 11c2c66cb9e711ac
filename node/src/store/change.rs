//! Changes that carry no payload: commit marks, epochs, and what goes away.

use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, Lsn, Version};

use super::Store;
use super::journal::{Done, Room};
use super::record::Record;
use super::types::StoreError;
use crate::io::Disk;

impl<D: Disk> Store<D> {
    /// Marks everything of the group at or below `through` as committed or superseded.
    ///
    /// # Durability
    /// None of its own: the mark rides with the next batch. Losing it is harmless, because every
    /// member holds those versions.
    pub fn commit_through(&self, group: GroupId, through: Version) {
        let known = self.index.borrow().group(group).committed_through;
        if through <= known || self.check_writable().is_err() {
            return;
        }
        let lsn = self.journal.borrow_mut().mark(group, through);
        self.apply(Record::Committed { group, through }, lsn);
    }

    /// Adopts an epoch, or confirms one that was adopted.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for an epoch older than the adopted one.
    ///
    /// # Durability
    /// On return the epoch, and every version recorded before, is on the medium.
    ///
    /// # Cancel safety
    /// The epoch may or may not become durable.
    pub async fn adopt(&self, group: GroupId, epoch: Epoch) -> Result<Lsn, StoreError> {
        if epoch < self.index.borrow().group(group).epoch {
            return Err(StoreError::Refused("epoch is older than the adopted one"));
        }
        self.commit(Record::Adopt { group, epoch }).await
    }

    /// Drops pending versions and those that build on them; committed ones stay.
    ///
    /// # Durability
    /// On return they will not come back.
    ///
    /// # Cancel safety
    /// As many as were queued go.
    pub async fn discard(
        &self,
        group: GroupId,
        items: &[(ChunkKey, Version)],
    ) -> Result<(), StoreError> {
        self.commit_each(items.iter().map(|&(key, version)| Record::Discard {
            group,
            key,
            version,
        }))
        .await
    }

    /// Deletes every chunk of these files in the group, also those that are set aside.
    ///
    /// # Durability
    /// On return they are gone; their space is free.
    ///
    /// # Cancel safety
    /// As many as were queued go.
    pub async fn drop_fids(&self, group: GroupId, fids: &[Fid]) -> Result<(), StoreError> {
        self.commit_each(fids.iter().map(|&fid| Record::DropFid { group, fid })).await
    }

    /// Stages records and waits for the last, which waits for all.
    pub(super) async fn commit_each(
        &self,
        records: impl Iterator<Item = Record>,
    ) -> Result<(), StoreError> {
        self.check_writable()?;
        let mut last: Option<Done> = None;
        for record in records {
            match self.stage(record, Room::Reserved) {
                Ok((_, done)) => last = Some(done),
                Err(error) => {
                    if let Some(done) = last {
                        done.wait().await?;
                    }
                    return Err(error);
                }
            }
        }
        match last {
            Some(done) => done.wait().await,
            None => Ok(()),
        }
    }
}
