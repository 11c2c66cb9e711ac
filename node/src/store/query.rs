//! What the store knows without touching the device.

use std::collections::BTreeMap;

use protocol::ids::{ChunkKey, Fid, GroupId, Lsn, OpId, Version};
use protocol::message::chunk::{InventoryEntry, Pending};

use super::Store;
use super::extent::UNIT;
use super::suspect::counts;
use super::types::{ChunkInfo, GroupInfo};
use crate::io::Disk;

impl<D: Disk> Store<D> {
    /// What the index knows of one chunk; `None` when it is not here or quarantined.
    pub fn info(&self, group: GroupId, key: ChunkKey) -> Option<ChunkInfo> {
        let index = self.index.borrow();
        let entry = index.served(group, key)?;
        let newest = entry.newest()?;
        let ops: Vec<(OpId, Version, u32)> =
            newest.ops.iter().map(|entry| (entry.op, entry.version, entry.len)).collect();
        Some(ChunkInfo {
            version: newest.version,
            chunk_len: newest.len,
            committed: entry.committed.as_ref().map(|state| (state.version, state.len)),
            mutated: newest.mutated,
            suspect: newest.suspect,
            committed_suspect: entry.committed.as_ref().is_some_and(|state| state.suspect),
            trunc_gen: newest.trunc_gen,
            cell_log2: newest.cell_log2,
            chunk_log2: newest.chunk_log2,
            ops,
        })
    }

    /// One page of a group's chunks after a key, ascending; true when another page follows.
    ///
    /// # Shape
    /// Newest durable version of each; quarantined chunks are left out.
    pub fn inventory(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
        limit: usize,
    ) -> (Vec<InventoryEntry>, bool) {
        let index = self.index.borrow();
        let mut served = index.group_entries(group, after).filter_map(|(key, entry)| {
            let state = self.newest_durable(entry).filter(|_| entry.quarantined.is_none())?;
            Some(InventoryEntry {
                key,
                version: state.version,
                chunk_len: state.len,
                hash: state.content,
                suspect: state.suspect,
            })
        });
        let entries = served.by_ref().take(limit).collect();
        (entries, served.next().is_some())
    }

    /// Files of a group with chunks here, ascending, up to a number of them; those with chunks that
    /// are set aside are left out.
    pub fn files(&self, group: GroupId, limit: usize) -> Vec<Fid> {
        let index = self.index.borrow();
        let (mut files, mut after) = (Vec::new(), None);
        while files.len() < limit {
            let Some((ChunkKey { fid, .. }, _)) = index.group_entries(group, after).next() else {
                break;
            };
            if index.quarantined_of(group, fid, u64::MAX) == 0 {
                files.push(fid);
            }
            after = Some(ChunkKey { fid, index: u32::MAX });
        }
        files
    }

    /// Durable versions of a group that are not known to be committed, ascending by key and
    /// version. A suspect one is left out: it does not count as held.
    pub fn pendings(&self, group: GroupId) -> Vec<Pending> {
        let (index, durable) = (self.index.borrow(), self.durable_lsn());
        let mut pendings = Vec::new();
        for (group, key) in index.pending_names(group) {
            let Some(entry) = index.served(group, key) else { continue };
            pendings.extend(
                entry.pendings.iter().filter(|state| state.lsn <= durable && counts(state)).map(
                    |state| Pending {
                        key,
                        version: state.version,
                        chunk_len: state.len,
                        op: state.op,
                        hash: state.content,
                    },
                ),
            );
        }
        pendings
    }

    /// Every group this target has heard of, ascending; of one whose records rotted while chunks of
    /// it are here it knows nothing else.
    pub fn groups(&self) -> Vec<(GroupId, GroupInfo)> {
        let index = self.index.borrow();
        let held = index.groups_held().map(|group| (group, GroupInfo::default()));
        let mut groups: BTreeMap<GroupId, GroupInfo> = held.collect();
        groups.extend(index.groups().iter().map(|(group, info)| (*group, info.clone())));
        groups.into_iter().collect()
    }

    /// Bytes the arena holds.
    pub fn capacity(&self) -> u64 {
        self.geometry.container - self.geometry.arena_offset
    }

    /// Bytes of the arena that are free, or will be after the next batch.
    pub fn free(&self) -> u64 {
        let space = self.space.borrow();
        (space.free_units() + space.waiting_units()) * u64::from(UNIT)
    }

    /// Bytes of the arena that may be used at once: [`Store::free`] without what waits for the
    /// next batch or for a read.
    pub fn free_now(&self) -> u64 {
        self.space.borrow().free_units() * u64::from(UNIT)
    }

    /// Chunks in the index.
    pub fn chunks(&self) -> u64 {
        self.index.borrow().len() as u64
    }

    /// Last journal position that is durable.
    pub fn durable_lsn(&self) -> Lsn {
        self.journal.borrow().durable().lsn
    }

    /// True after a device error that ended all writing in this generation.
    pub fn fenced(&self) -> bool {
        self.fence_reason.borrow().is_some()
    }

    /// Flushes issued since it was opened.
    pub fn flushes(&self) -> u64 {
        self.flushes.get()
    }

    /// Payload bytes copied in memory since it was opened.
    pub fn bytes_copied(&self) -> u64 {
        self.bytes_copied.get()
    }
}
