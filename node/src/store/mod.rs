//! One target's bytes on its container: journal, extents, descriptors, checkpoints, recovery.
//!
//! Owns what is on the device. Knows nothing of groups' membership, peers or clients: it stores
//! versions of chunks, says which are pending, and never acknowledges before the flush returned.
//! Start reading at [`Store`].

mod types;

use std::rc::Rc;

use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, Lsn, Version};
use protocol::message::chunk::{InventoryEntry, Pending, VerifyReply};

pub use types::{
    ChunkInfo, Durable, FormatOptions, GroupInfo, InstallOp, ReadMode, ReadOut, Recovered,
    StoreError, WriteOp,
};

use crate::io::Disk;

/// One target, open.
pub struct Store<D: Disk> {
    disk: Rc<D>,
}

impl<D: Disk> Store<D> {
    /// Writes an empty target to a container.
    pub async fn format(_disk: &D, _options: &FormatOptions) -> Result<(), StoreError> {
        Err(StoreError::Fenced)
    }

    /// Recovers a target; its generation is raised, durably, before this returns.
    pub async fn open(
        _disk: Rc<D>,
        _options: &FormatOptions,
    ) -> Result<(Rc<Self>, Recovered), StoreError> {
        Err(StoreError::Fenced)
    }

    /// Runs group commit and checkpoints until [`Store::close`].
    pub async fn run(self: Rc<Self>) {}

    /// Drains, then marks the target as cleanly closed.
    pub async fn close(&self) -> Result<(), StoreError> {
        Err(StoreError::Fenced)
    }

    /// Makes one version durable; it is pending until [`Store::commit_through`].
    pub async fn write(&self, _op: WriteOp<D>) -> Result<Durable, StoreError> {
        Err(StoreError::Fenced)
    }

    /// Makes a whole chunk durable at a fixed version, replacing whatever is here.
    pub async fn install(&self, _op: InstallOp<D>) -> Result<Durable, StoreError> {
        Err(StoreError::Fenced)
    }

    /// Marks everything of the group at or below `through` as committed.
    pub fn commit_through(&self, _group: GroupId, _through: Version) {}

    /// Adopts an epoch, durably.
    pub async fn adopt(&self, _group: GroupId, _epoch: Epoch) -> Result<Lsn, StoreError> {
        Err(StoreError::Fenced)
    }

    /// Drops pending versions and those that build on them, durably.
    pub async fn discard(
        &self,
        _group: GroupId,
        _items: &[(ChunkKey, Version)],
    ) -> Result<(), StoreError> {
        Err(StoreError::Fenced)
    }

    /// Sets chunks aside, durably: kept, not served, not listed.
    pub async fn quarantine(&self, _group: GroupId, _keys: &[ChunkKey]) -> Result<(), StoreError> {
        Err(StoreError::Fenced)
    }

    /// Deletes every chunk of these files in the group, durably.
    pub async fn drop_fids(&self, _group: GroupId, _fids: &[Fid]) -> Result<(), StoreError> {
        Err(StoreError::Fenced)
    }

    /// Reads the whole cells that cover a range.
    pub async fn read(
        &self,
        _group: GroupId,
        _key: ChunkKey,
        _offset: u32,
        _len: u32,
        _mode: ReadMode,
    ) -> Result<ReadOut<D>, StoreError> {
        Err(StoreError::NotFound)
    }

    /// Reads a whole chunk from the device and checks every cell.
    pub async fn verify(&self, _group: GroupId, _key: ChunkKey) -> Result<VerifyReply, StoreError> {
        Err(StoreError::NotFound)
    }

    /// What the index knows of one chunk.
    pub fn info(&self, _group: GroupId, _key: ChunkKey) -> Option<ChunkInfo> {
        None
    }

    /// One page of a group's chunks after a key, ascending; true when another page follows.
    pub fn inventory(
        &self,
        _group: GroupId,
        _after: Option<ChunkKey>,
        _limit: usize,
    ) -> (Vec<InventoryEntry>, bool) {
        (Vec::new(), false)
    }

    /// Durable versions of a group that are not known to be committed.
    pub fn pendings(&self, _group: GroupId) -> Vec<Pending> {
        Vec::new()
    }

    /// Every group this target has heard of.
    pub fn groups(&self) -> Vec<(GroupId, GroupInfo)> {
        Vec::new()
    }

    /// Bytes the arena holds.
    pub fn capacity(&self) -> u64 {
        self.disk.capacity()
    }

    /// Bytes of the arena that are free.
    pub fn free(&self) -> u64 {
        0
    }

    /// Chunks in the index.
    pub fn chunks(&self) -> u64 {
        0
    }

    /// Last journal position that is durable.
    pub fn durable_lsn(&self) -> Lsn {
        Lsn(0)
    }

    /// True after a device error that ended all writing.
    pub fn fenced(&self) -> bool {
        false
    }

    /// Flushes issued so far.
    pub fn flushes(&self) -> u64 {
        0
    }

    /// Payload bytes copied so far.
    pub fn bytes_copied(&self) -> u64 {
        0
    }
}
