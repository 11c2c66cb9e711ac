//! Cells that rot in a fake store, and what scrub, rechecks and repairs make of them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use node::shard::effect::{Refusal, RepairTask, WriteTask};
use node::shard::event::Event;
use node::shard::heal::{FetchTask, HealEvent, HealOrder};
use node::store::{Damage, DamagedPart, Durable, StoreError};
use protocol::ids::{ChunkKey, GroupId, Lsn, TargetId, Version};
use protocol::message::chunk::WriteClass;
use protocol::message::heal::FetchReply;
use protocol::status::Status;

use super::cluster::Cluster;
use super::coordinator::GROUP;
use super::fake_store::{Bytes, FakeStore};

/// Size of the harness's cells, in bytes.
pub(super) const CELL: usize = 1 << 14;

type Name = (GroupId, ChunkKey, Version);
/// Cells by version.
pub(super) type Rot = BTreeMap<Name, BTreeSet<u32>>;

impl FakeStore {
    /// Damages cells of the newest version of a chunk; false when it has no such cell.
    pub(super) fn spoil(&mut self, key: ChunkKey, cell: u32) -> bool {
        let Some(held) = self.newest(GROUP, key) else { return false };
        let name = (GROUP, key, held.version);
        let inside = (cell as usize) < held.bytes.len().div_ceil(CELL);
        if inside {
            self.rot.entry(name).or_default().insert(cell);
        }
        inside
    }

    /// Notices what rots in one version; the error of who read it.
    pub(super) fn notice(&mut self, name: Name) -> Option<StoreError> {
        let cells = self.rot.get(&name)?.clone();
        let cell = cells.first().copied()?;
        self.found.insert(name, cells);
        Some(StoreError::Corrupt { cell })
    }

    pub(super) fn damages(&self, group: GroupId) -> Vec<Damage> {
        let of_group = |(of, _, _): &&Name| *of == group;
        let whole = self.suspects.iter().filter(of_group).map(|name| (*name, DamagedPart::Whole));
        let cells = self.found.iter().filter(|(name, _)| of_group(name));
        let cells = cells.filter(|(name, _)| !self.suspects.contains(name));
        let cells =
            cells.map(|(name, cells)| (*name, DamagedPart::Cells(cells.iter().copied().collect())));
        let all = whole.chain(cells);
        all.map(|((group, key, version), part)| Damage { group, key, version, part }).collect()
    }

    /// A new version shares the cells that it leaves alone; those that it changes in part it must
    /// be able to read.
    pub(super) fn inherit_rot(
        &mut self,
        (group, key): (GroupId, ChunkKey),
        base: Version,
        base_len: usize,
        task: &WriteTask<Bytes>,
    ) -> Result<(), StoreError> {
        let Some(cells) = self.rot.get(&(group, key, base)).cloned() else { return Ok(()) };
        let cut = task.class == WriteClass::Truncate;
        let start = task.offset as usize;
        let end = if cut { usize::MAX } else { start + task.len as usize };
        let mut left = BTreeSet::new();
        for cell in cells {
            let first = cell as usize * CELL;
            let last = (first + CELL).min(base_len);
            if end <= first
                || start >= first + CELL
                || (start == last && start.is_multiple_of(CELL))
            {
                left.insert(cell);
            } else if start > first || end < last {
                self.found.entry((group, key, base)).or_default().insert(cell);
                return Err(StoreError::Corrupt { cell });
            }
        }
        self.rot.insert((group, key, task.version), left);
        self.rot.retain(|_, cells| !cells.is_empty());
        Ok(())
    }

    pub(super) fn repair(&mut self, task: &RepairTask<Bytes>) -> Result<Durable, StoreError> {
        let name = (task.group, task.key, task.version);
        let mut held = self.chunks.get(&(task.group, task.key)).into_iter().flatten();
        let held = held.rfind(|held| held.version == task.version);
        let held = held.ok_or(StoreError::NotFound)?;
        let start = task.first_cell as usize * CELL;
        let end = start + task.len as usize;
        let whole = end == held.bytes.len() || end.is_multiple_of(CELL);
        if !whole || held.bytes.get(start..end) != Some(&task.payload[..]) {
            return Err(StoreError::Refused("bytes are not those of this version"));
        }
        let (all, chunk_len) = (end - start == held.bytes.len(), held.bytes.len() as u32);
        let cells = task.first_cell..end.div_ceil(CELL) as u32;
        for rot in [&mut self.rot, &mut self.found] {
            if let Some(have) = rot.get_mut(&name) {
                have.retain(|cell| !cells.contains(cell));
            }
            rot.retain(|_, cells| !cells.is_empty());
        }
        if all {
            self.suspects.remove(&name);
        }
        Ok(Durable { lsn: Lsn(1), free: 1 << 30, chunk_len })
    }

    /// A version that is written anew has no old damage.
    pub(super) fn renew(&mut self, group: GroupId, key: ChunkKey, version: Version) {
        let name = (group, key, version);
        self.rot.remove(&name);
        self.found.remove(&name);
        self.suspects.remove(&name);
    }

    /// Damage goes with the version it was of.
    pub(super) fn forget_gone(&mut self) {
        let chunks = &self.chunks;
        let is_here = |(group, key, version): &Name| {
            let held = chunks.get(&(*group, *key));
            held.is_some_and(|held| held.iter().any(|held| held.version == *version))
        };
        self.rot.retain(|name, _| is_here(name));
        self.found.retain(|name, _| is_here(name));
        self.suspects.retain(is_here);
    }

    fn serve(&self, fetch: &FetchTask) -> Result<(FetchReply, Bytes), Status> {
        let mut held = self.chunks.get(&(fetch.group, fetch.key)).into_iter().flatten();
        let held = held.rfind(|held| held.version == fetch.version);
        let held = held.ok_or(Status::ChunkNotFound)?;
        let (start, end) = (fetch.offset as usize, (fetch.offset + fetch.len) as usize);
        let first = fetch.offset / CELL as u32;
        let cells = first..end.div_ceil(CELL) as u32;
        let mut bytes = held.bytes[start..end].to_vec();
        let rot = self.rot.get(&(fetch.group, fetch.key, fetch.version));
        if rot.is_some_and(|rot| rot.iter().any(|cell| cells.contains(cell))) {
            if fetch.verify {
                return Err(Status::Corrupt);
            }
            bytes[0] ^= 1;
        }
        let reply = FetchReply {
            version: held.version,
            committed: fetch.committed,
            chunk_len: held.bytes.len() as u32,
            trunc_gen: held.trunc_gen,
            cell_log2: 14,
            chunk_log2: 22,
            mutated: held.mutated,
            first_cell: first,
            sums: vec![Default::default(); cells.len()],
            aux: Vec::new(),
            ops: held.ops.iter().map(|(op, ..)| *op).collect(),
        };
        Ok((reply, Rc::new(bytes)))
    }
}

impl Cluster {
    pub(super) fn heal_order(&mut self, target: TargetId, order: HealOrder) {
        let Some(store) = self.stores.get_mut(&target) else { return };
        let event = match order {
            HealOrder::ServeFetch(to, epoch, fetch) => {
                self.fetches += 1;
                let served = store.serve(&fetch);
                let peer = TargetId(to.conn.0 as u32);
                match served {
                    Ok((reply, bytes)) => {
                        let fetched =
                            HealEvent::Fetched(target, to.request, Box::new(reply), bytes);
                        self.transmit(target, peer, Event::Heal(fetched));
                    }
                    Err(status) => {
                        let refusal: Refusal = status.into();
                        self.deliver_reply(target, to, epoch, Err(refusal));
                    }
                }
                HealEvent::FetchServed(fetch.len)
            }
            HealOrder::Recheck(to, report) => {
                let version = store.newest(GROUP, report.key).map(|held| held.version);
                let name = (report.group, report.key, version.unwrap_or_default());
                let confirmed = store.notice(name).is_some();
                if to.is_some() {
                    self.rechecked.push(confirmed);
                }
                HealEvent::Rechecked
            }
            HealOrder::Scrub { .. } => {
                store.found = store.rot.clone();
                HealEvent::Scrubbed { bytes: 1, last: true }
            }
            HealOrder::Census | HealOrder::Release(_) => return,
        };
        self.tell(target, 1, Event::Heal(event));
    }

    /// Cells that rot somewhere.
    pub(super) fn rotten(&self) -> usize {
        let rot = self.stores.values().flat_map(|store| store.rot.values());
        rot.map(BTreeSet::len).sum()
    }

    /// Damages a cell unless no other serving member could give it back.
    pub(super) fn flip(&mut self) -> bool {
        let targets: Vec<TargetId> = self.stores.keys().copied().collect();
        let target = targets[self.dice(targets.len() as u64) as usize];
        let keys: Vec<ChunkKey> = self.stores[&target].chunks.keys().map(|(_, key)| *key).collect();
        let Some(key) = keys.get(self.dice(keys.len() as u64) as usize).copied() else {
            return false;
        };
        let Some(version) = self.stores[&target].newest(GROUP, key).map(|held| held.version) else {
            return false;
        };
        let name = (GROUP, key, version);
        let cell = self.dice(3) as u32;
        let is_good = |store: &FakeStore| {
            let here = store.chunks.get(&(GROUP, key)).into_iter().flatten();
            let has = here.into_iter().any(|held| held.version == version);
            has && !store.rot.get(&name).is_some_and(|cells| cells.contains(&cell))
        };
        let serving = self.coordinator.record().serving().map(|member| member.target);
        let others = serving.filter(|other| *other != target && self.procs[other].up);
        let safe = others.into_iter().any(|other| is_good(&self.stores[&other]));
        safe && self.stores.get_mut(&target).is_some_and(|store| store.spoil(key, cell))
    }
}
