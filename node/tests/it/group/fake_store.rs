//! A store that keeps versions of chunks in memory, with the promises of the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use node::group::ChunkIndex;
use node::shard::effect::{Task, WriteTask};
use node::store::{ChunkInfo, Damage, Durable, GroupDigest, GroupInfo, StoreError};
use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, Lsn, OpId, Version};
use protocol::message::chunk::{InventoryEntry, Pending, WriteClass};

use super::rot::Rot;

/// The bytes of a payload.
pub(super) type Bytes = Rc<Vec<u8>>;

/// One version of a chunk, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub version: Version,
    pub bytes: Bytes,
    pub ops: Vec<(OpId, Version, u32)>,
    pub trunc_gen: u32,
    pub mutated: bool,
}

/// What one target has durably, and the marks it only remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeStore {
    pub chunks: BTreeMap<(GroupId, ChunkKey), Vec<Held>>,
    pub aside: BTreeMap<(GroupId, ChunkKey), Vec<Held>>,
    pub groups: BTreeMap<GroupId, GroupInfo>,
    marks: BTreeMap<GroupId, Version>,
    /// Cells that the device does not hold any more, and those of them that were noticed.
    pub rot: Rot,
    pub found: Rot,
    /// Versions that recovery could not verify.
    pub suspects: BTreeSet<(GroupId, ChunkKey, Version)>,
    /// Writes fail with this from now on.
    pub failing: Option<StoreError>,
    /// Writes on top of an older version fail: its cells do not verify.
    pub corrupt: bool,
    /// Versions that are here and not trusted.
    pub suspect: BTreeSet<(ChunkKey, Version)>,
    /// Bytes free, as far as anybody asks.
    pub free: u64,
}

impl FakeStore {
    fn is_suspect(&self, group: GroupId, key: ChunkKey, version: Version) -> bool {
        self.suspect.contains(&(key, version)) || self.suspects.contains(&(group, key, version))
    }

    pub(super) fn newest(&self, group: GroupId, key: ChunkKey) -> Option<&Held> {
        self.chunks.get(&(group, key)).and_then(|held| held.last())
    }

    pub(super) fn len(&self, group: GroupId, key: ChunkKey) -> usize {
        self.newest(group, key).map_or(0, |held| held.bytes.len())
    }

    pub(super) fn mark(&self, group: GroupId) -> Version {
        self.marks.get(&group).copied().unwrap_or_default()
    }

    pub(super) fn adopted(&self, group: GroupId) -> Epoch {
        self.groups.get(&group).map_or(Epoch(0), |info| info.epoch)
    }

    pub(super) fn commit_through(&mut self, group: GroupId, through: Version) {
        let mark = self.marks.entry(group).or_default();
        *mark = (*mark).max(through);
    }

    /// Loses what was only remembered.
    pub(super) fn crash(&mut self) {
        self.marks = self.groups.iter().map(|(id, info)| (*id, info.committed_through)).collect();
        self.found.clear();
    }

    /// The bytes a read returns: of the newest version, or of the newest committed one.
    pub(super) fn read(&self, group: GroupId, key: ChunkKey, newest: bool) -> Option<&Held> {
        let held = self.chunks.get(&(group, key))?;
        let mark = self.mark(group);
        held.iter().rev().find(|held| newest || held.version <= mark)
    }

    /// Carries a task out; it is durable when this returns, and so are the marks.
    pub(super) fn apply(&mut self, task: &Task<Bytes>) -> Result<Option<Durable>, StoreError> {
        let done = self.try_apply(task)?;
        for (group, mark) in self.marks.clone() {
            self.groups.entry(group).or_default().committed_through = mark;
        }
        self.trim();
        self.forget_gone();
        Ok(done)
    }

    fn try_apply(&mut self, task: &Task<Bytes>) -> Result<Option<Durable>, StoreError> {
        match task {
            Task::Write(task) => self.write(task).map(Some),
            Task::Install(task, installed) => {
                self.refuse()?;
                let len = task.len;
                let ops = installed.ops.iter().map(|op| (*op, task.version, len)).collect();
                let held = Held {
                    version: task.version,
                    bytes: task.payload.clone().unwrap_or_default(),
                    ops,
                    trunc_gen: task.trunc_gen,
                    mutated: installed.mutated,
                };
                self.suspect.retain(|(key, _)| *key != task.key);
                self.renew(task.group, task.key, task.version);
                match installed.checked {
                    true => drop(self.chunks.insert((task.group, task.key), vec![held])),
                    false => self.take((task.group, task.key), held),
                }
                let free = self.free_bytes();
                Ok(Some(Durable { lsn: Lsn(1), free, chunk_len: len }))
            }
            Task::Adopt(group, epoch) => {
                let info = self.groups.entry(*group).or_default();
                assert!(*epoch >= info.epoch, "epochs ascend");
                info.epoch = *epoch;
                Ok(None)
            }
            Task::Discard(group, items) => {
                for (key, version) in items {
                    self.discard(*group, *key, *version);
                }
                Ok(None)
            }
            Task::Quarantine(group, keys) => {
                for key in keys {
                    if let Some(held) = self.chunks.remove(&(*group, *key)) {
                        self.aside.insert((*group, *key), held);
                    }
                }
                Ok(None)
            }
            Task::Drop(group, fids) => {
                self.chunks.retain(|(of, key), _| of != group || !fids.contains(&key.fid));
                self.aside.retain(|(of, key), _| of != group || !fids.contains(&key.fid));
                Ok(None)
            }
            Task::Repair(task) => {
                self.refuse()?;
                self.repair(task).map(Some)
            }
        }
    }

    /// What a primary takes over lies on top of what it has.
    fn take(&mut self, name: (GroupId, ChunkKey), held: Held) {
        let mark = self.mark(name.0);
        let versions = self.chunks.entry(name).or_default();
        versions.retain(|below| below.version < held.version && held.version > mark);
        versions.push(held);
    }

    fn refuse(&self) -> Result<(), StoreError> {
        self.failing.clone().map_or(Ok(()), Err)
    }

    fn write(&mut self, task: &WriteTask<Bytes>) -> Result<Durable, StoreError> {
        self.refuse()?;
        let held = self.chunks.entry((task.group, task.key)).or_default();
        let have = held.last().map_or(Version::ZERO, |held| held.version);
        if have != task.base {
            return Err(StoreError::BaseMismatch { base: task.base, have });
        }
        if self.corrupt && !held.is_empty() {
            return Err(StoreError::Corrupt { cell: 0 });
        }
        let mut next = held.last().cloned().unwrap_or_default();
        let (key, base) = ((task.group, task.key), next.version);
        self.inherit_rot(key, base, next.bytes.len(), task)?;
        let held = self.chunks.entry(key).or_default();
        let mut bytes = next.bytes.to_vec();
        let new = task.payload.as_deref().map_or(&[][..], Vec::as_slice);
        let offset = task.offset as usize;
        match task.class {
            WriteClass::Growth => {
                assert_eq!(bytes.len(), offset, "growth starts at the length");
                bytes.extend_from_slice(new);
            }
            WriteClass::Mutation => {
                let len = bytes.len().max(offset + new.len());
                bytes.resize(len, 0);
                bytes[offset..offset + new.len()].copy_from_slice(new);
            }
            WriteClass::Truncate => bytes.resize(offset, 0),
        }
        let chunk_len = bytes.len() as u32;
        next.ops.retain(|(op, ..)| op.session != task.op.session);
        next.ops.push((task.op, task.version, chunk_len));
        next.version = task.version;
        next.bytes = Rc::new(bytes);
        next.trunc_gen = next.trunc_gen.max(task.trunc_gen);
        next.mutated |= task.class != WriteClass::Growth;
        held.push(next);
        Ok(Durable { lsn: Lsn(1), free: self.free_bytes(), chunk_len })
    }

    fn free_bytes(&self) -> u64 {
        if self.free == 0 { 1 << 30 } else { self.free }
    }

    fn discard(&mut self, group: GroupId, key: ChunkKey, version: Version) {
        self.suspect.retain(|(of, have)| *of != key || *have < version);
        let mark = self.mark(group);
        if let Some(held) = self.chunks.get_mut(&(group, key)) {
            if held.iter().any(|held| held.version == version) {
                assert!(version > mark, "{version} is committed, so nobody may drop it");
                held.retain(|held| held.version < version);
            }
            if held.is_empty() {
                self.chunks.remove(&(group, key));
            }
        }
    }

    /// Forgets versions that a durable mark says are superseded.
    fn trim(&mut self) {
        for ((group, _), held) in &mut self.chunks {
            let mark = self.groups.get(group).map_or(Version::ZERO, |info| info.committed_through);
            if let Some(at) = held.iter().rposition(|held| held.version <= mark) {
                held.drain(..at);
            }
        }
    }
}

impl ChunkIndex for FakeStore {
    fn info(&self, group: GroupId, key: ChunkKey) -> Option<ChunkInfo> {
        let newest = self.newest(group, key)?;
        let committed = self.read(group, key, false);
        Some(ChunkInfo {
            version: newest.version,
            chunk_len: newest.bytes.len() as u32,
            committed: committed.map(|held| (held.version, held.bytes.len() as u32)),
            mutated: newest.mutated,
            suspect: self.is_suspect(group, key, newest.version),
            committed_suspect: committed
                .is_some_and(|held| self.is_suspect(group, key, held.version)),
            trunc_gen: newest.trunc_gen,
            cell_log2: 14,
            chunk_log2: 22,
            ops: newest.ops.clone(),
        })
    }

    fn pendings(&self, group: GroupId) -> Vec<Pending> {
        let mark = self.mark(group);
        let mut pendings = Vec::new();
        for ((_, key), chunk) in self.chunks.iter().filter(|((of, _), _)| *of == group) {
            let trusted = |held: &&Held| !self.is_suspect(group, *key, held.version);
            for held in chunk.iter().filter(|held| held.version > mark).filter(trusted) {
                let caused = held.ops.iter().find(|(_, version, _)| *version == held.version);
                pendings.push(Pending {
                    key: *key,
                    version: held.version,
                    chunk_len: held.bytes.len() as u32,
                    op: caused.map_or_else(OpId::default, |(op, ..)| *op),
                    hash: hash(&held.bytes),
                });
            }
        }
        pendings
    }

    fn suspects(&self, group: GroupId) -> Vec<(ChunkKey, Version)> {
        let known = self.suspects.iter().filter(|(of, ..)| *of == group);
        let known = known.map(|(_, key, version)| (*key, *version));
        self.suspect.iter().copied().chain(known).collect()
    }

    fn inventory(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
        limit: usize,
    ) -> (Vec<InventoryEntry>, bool) {
        // Pages of two entries, so that every run turns pages.
        let limit = limit.min(2);
        let later = self
            .chunks
            .iter()
            .filter(|((of, key), _)| *of == group && after.is_none_or(|after| *key > after));
        let entries: Vec<InventoryEntry> = later
            .filter_map(|((_, key), held)| {
                held.last().map(|held| InventoryEntry {
                    key: *key,
                    version: held.version,
                    chunk_len: held.bytes.len() as u32,
                    hash: hash(&held.bytes),
                    suspect: self.suspects.contains(&(group, *key, held.version)),
                })
            })
            .collect();
        let more = entries.len() > limit;
        (entries.into_iter().take(limit).collect(), more)
    }

    fn digest(&self, group: GroupId) -> GroupDigest {
        let mark = self.mark(group);
        let mut digest = GroupDigest { committed_through: mark, ..GroupDigest::default() };
        for ((_, key), held) in self.chunks.iter().filter(|((of, _), _)| *of == group) {
            digest.pendings += held.iter().filter(|held| held.version > mark).count() as u64;
            let Some(held) = held.iter().rev().find(|held| held.version <= mark) else { continue };
            digest.chunks += 1;
            digest.bytes += held.bytes.len() as u64;
            let facts = format!("{key} {} {}", held.version, hash(&held.bytes));
            digest.hash = digest.hash.wrapping_add(u128::from(hash(facts.as_bytes())));
        }
        digest
    }

    fn files(&self, group: GroupId, limit: usize) -> Vec<Fid> {
        let of_group = |(of, key): &(GroupId, ChunkKey)| (*of == group).then_some(key.fid);
        let aside: BTreeSet<Fid> = self.aside.keys().filter_map(of_group).collect();
        let served: BTreeSet<Fid> = self.chunks.keys().filter_map(of_group).collect();
        served.difference(&aside).copied().take(limit).collect()
    }

    fn free(&self) -> u64 {
        self.free_bytes()
    }

    fn capacity(&self) -> u64 {
        1 << 30
    }

    fn damaged(&self, group: GroupId) -> Vec<Damage> {
        self.damages(group)
    }
}

pub(super) fn hash(bytes: &[u8]) -> u64 {
    protocol::checksum::sum64(bytes)
}
