//! One target's copy of the one chunk, with the promises of the real store and nothing more.

use node::group::ChunkIndex;
use node::shard::effect::{Task, WriteTask};
use node::store::{ChunkInfo, Damage, Durable, GroupDigest, GroupInfo, StoreError};
use protocol::checksum::sum64;
use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, Lsn, OpId, Version};
use protocol::message::chunk::{InventoryEntry, Pending};

/// The group of the search.
pub(super) const GROUP: GroupId = GroupId(7);
/// Its one chunk.
pub(super) const KEY: ChunkKey = ChunkKey { fid: Fid(1), index: 0 };
/// Free bytes of every target.
const FREE: u64 = 1 << 30;

/// The bytes of a payload.
pub(super) type Bytes = Vec<u8>;

/// One version of the chunk, whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Held {
    pub(super) version: Version,
    pub(super) bytes: Bytes,
    pub(super) ops: Vec<(OpId, Version, u32)>,
}

/// What a target has durably, and the mark it only remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Store {
    /// Versions, ascending.
    pub(super) held: Vec<Held>,
    /// Versions that were set aside.
    aside: Vec<Held>,
    /// Newest adopted epoch.
    pub(super) adopted: Epoch,
    /// Everything at or below is committed; lost in a crash.
    pub(super) mark: Version,
    /// The mark that the last record carried.
    durable_mark: Version,
}

impl Store {
    pub(super) fn newest(&self) -> Option<&Held> {
        self.held.last()
    }

    /// Bytes of the newest version.
    pub(super) fn bytes(&self) -> &[u8] {
        self.newest().map_or(&[], |held| &held.bytes)
    }

    /// The newest version that is known here to be committed.
    pub(super) fn committed(&self) -> Option<&Held> {
        self.held.iter().rev().find(|held| held.version <= self.mark)
    }

    /// What a shard learns of its groups when it starts.
    pub(super) fn known(&self) -> Vec<(GroupId, GroupInfo)> {
        let (epoch, committed_through) = (self.adopted, self.mark);
        vec![(GROUP, GroupInfo { epoch, committed_through })]
    }

    pub(super) fn commit_through(&mut self, through: Version) {
        self.mark = self.mark.max(through);
    }

    /// Loses what was only remembered.
    pub(super) fn crash(&mut self) {
        self.mark = self.durable_mark;
    }

    /// Carries a task out; it is durable when this returns, and so is the mark.
    pub(super) fn apply(&mut self, task: &Task<Bytes>) -> Result<Option<Durable>, StoreError> {
        let done = match task {
            Task::Write(task) => Some(self.write(task)?),
            Task::Install(task, installed) => {
                let len = task.len;
                let ops = installed.ops.iter().map(|op| (*op, task.version, len)).collect();
                let held = Held {
                    version: task.version,
                    bytes: task.payload.clone().unwrap_or_default(),
                    ops,
                };
                // What a primary takes over lies on top of what it has.
                let (on_top, mark) = (!installed.checked, self.mark);
                let stays = |below: &Held| on_top && below.version < held.version;
                self.held.retain(|below| stays(below) && held.version > mark);
                self.held.push(held);
                Some(Durable { lsn: Lsn(1), free: FREE, chunk_len: len })
            }
            Task::Adopt(_, epoch) => {
                assert!(*epoch >= self.adopted, "I3: epochs ascend");
                self.adopted = *epoch;
                None
            }
            Task::Discard(_, items) => {
                items.iter().for_each(|(_, version)| self.discard(*version));
                None
            }
            Task::Quarantine(_, keys) => {
                if keys.contains(&KEY) {
                    self.aside = std::mem::take(&mut self.held);
                }
                None
            }
            Task::Drop(_, fids) => {
                if fids.contains(&KEY.fid) {
                    self.held.clear();
                }
                None
            }
            Task::Repair(_) => None,
        };
        self.durable_mark = self.mark;
        if let Some(at) = self.held.iter().rposition(|held| held.version <= self.mark) {
            self.held.drain(..at);
        }
        Ok(done)
    }

    #[expect(clippy::cast_possible_truncation, reason = "a search writes a few bytes")]
    fn write(&mut self, task: &WriteTask<Bytes>) -> Result<Durable, StoreError> {
        let have = self.newest().map_or(Version::ZERO, |held| held.version);
        if have != task.base {
            return Err(StoreError::BaseMismatch { base: task.base, have });
        }
        let mut bytes = self.bytes().to_vec();
        assert_eq!(bytes.len(), task.offset as usize, "growth starts at the length");
        bytes.extend(task.payload.iter().flatten());
        let chunk_len = bytes.len() as u32;
        let mut ops = self.newest().map_or_else(Vec::new, |held| held.ops.clone());
        ops.retain(|(op, ..)| op.session != task.op.session);
        ops.push((task.op, task.version, chunk_len));
        self.held.push(Held { version: task.version, bytes, ops });
        Ok(Durable { lsn: Lsn(1), free: FREE, chunk_len })
    }

    fn discard(&mut self, version: Version) {
        if self.held.iter().any(|held| held.version == version) {
            assert!(version > self.mark, "I7: {version} is committed, so nobody may drop it");
            self.held.retain(|held| held.version < version);
        }
    }
}

impl ChunkIndex for Store {
    #[expect(clippy::cast_possible_truncation, reason = "a search writes a few bytes")]
    fn info(&self, _: GroupId, key: ChunkKey) -> Option<ChunkInfo> {
        let newest = self.newest().filter(|_| key == KEY)?;
        let committed = self.committed();
        Some(ChunkInfo {
            version: newest.version,
            chunk_len: newest.bytes.len() as u32,
            committed: committed.map(|held| (held.version, held.bytes.len() as u32)),
            mutated: false,
            suspect: false,
            committed_suspect: false,
            trunc_gen: 0,
            cell_log2: 14,
            chunk_log2: 22,
            ops: newest.ops.clone(),
        })
    }

    #[expect(clippy::cast_possible_truncation, reason = "a search writes a few bytes")]
    fn pendings(&self, _: GroupId) -> Vec<Pending> {
        let newest = self.newest().filter(|held| held.version > self.mark);
        let pending = |held: &Held| Pending {
            key: KEY,
            version: held.version,
            chunk_len: held.bytes.len() as u32,
            op: held.ops.last().map_or_else(OpId::default, |(op, ..)| *op),
            hash: sum64(&held.bytes),
        };
        newest.map(pending).into_iter().collect()
    }

    #[expect(clippy::cast_possible_truncation, reason = "a search writes a few bytes")]
    fn inventory(
        &self,
        _: GroupId,
        after: Option<ChunkKey>,
        _: usize,
    ) -> (Vec<InventoryEntry>, bool) {
        let newest = self.newest().filter(|_| after.is_none_or(|after| after < KEY));
        let entry = |held: &Held| InventoryEntry {
            key: KEY,
            version: held.version,
            chunk_len: held.bytes.len() as u32,
            hash: sum64(&held.bytes),
            suspect: false,
        };
        (newest.map(entry).into_iter().collect(), false)
    }

    fn digest(&self, _: GroupId) -> GroupDigest {
        let newest = self.newest().map_or(0, |held| sum64(&held.bytes));
        let pendings = self.held.iter().filter(|held| held.version > self.mark).count();
        GroupDigest {
            chunks: u64::from(!self.held.is_empty()),
            bytes: self.bytes().len() as u64,
            hash: u128::from(newest),
            committed_through: self.mark,
            pendings: pendings as u64,
        }
    }

    fn files(&self, group: GroupId, limit: usize) -> Vec<Fid> {
        let here = group == GROUP && !self.held.is_empty() && self.aside.is_empty();
        Vec::from_iter((here && limit > 0).then_some(KEY.fid))
    }

    fn free(&self) -> u64 {
        FREE
    }

    fn capacity(&self) -> u64 {
        FREE
    }

    fn damaged(&self, _: GroupId) -> Vec<Damage> {
        Vec::new()
    }
}
