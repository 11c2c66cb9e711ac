//! What must hold of a cluster, whatever goes wrong in it.
//!
//! Each check is an assertion whose message begins with its own words, so that a failed run names
//! the promise that was broken.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use node::store::ReadMode;
use protocol::cluster_map::Member;
use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, NodeId, TargetId, Version};
use protocol::message::chunk::InventoryEntry;

use super::cluster::{SimCluster, Stores, target_of};
use super::coordinator::SimCoordinator;
use super::fault::atlas::Damaged;
use super::overwrite::FID_MIN;
use super::profile::Mode;
use super::workload::FID_GROWN_MIN;

/// What was written, and what of it was acknowledged.
pub struct Ledger {
    coordinator: SimCoordinator,
    stores: Stores,
    damaged: Damaged,
    mode: Mode,
    min_write: usize,
    chunks: RefCell<BTreeMap<(GroupId, ChunkKey), Chunk>>,
    /// Those of them that have acknowledged bytes, ascending.
    told: RefCell<Vec<(GroupId, ChunkKey)>>,
    /// Acknowledged writes.
    pub acknowledged: Cell<u64>,
    /// Reads whose bytes were checked.
    pub read: Cell<u64>,
    /// Acknowledged bytes that a reader was told are lost; only where that may happen.
    pub lost: Cell<u64>,
}

/// One chunk, as its only writer knows it.
#[derive(Default)]
struct Chunk {
    /// Everything that was ever sent for it, in order.
    submitted: Vec<u8>,
    /// Bytes of it that were acknowledged.
    acknowledged: usize,
}

impl Ledger {
    /// Starts with nothing written to a cluster.
    pub fn new(cluster: &SimCluster, min_write: usize, mode: Mode, damaged: Damaged) -> Rc<Ledger> {
        Rc::new(Ledger {
            coordinator: cluster.coordinator().clone(),
            stores: cluster.stores(),
            damaged,
            mode,
            min_write,
            chunks: RefCell::default(),
            told: RefCell::default(),
            acknowledged: Cell::new(0),
            read: Cell::new(0),
            lost: Cell::new(0),
        })
    }

    /// Notes bytes that are about to be written to the end of a chunk.
    pub fn on_submit(&self, group: GroupId, key: ChunkKey, bytes: &[u8]) {
        let mut chunks = self.chunks.borrow_mut();
        chunks.entry((group, key)).or_default().submitted.extend(bytes);
    }

    /// Notes that everything submitted to a chunk is acknowledged in an epoch, and checks that it
    /// may be.
    ///
    /// # Panics
    /// When the epoch had too few members, or one of them does not have the version.
    pub fn on_acknowledged(&self, group: GroupId, key: ChunkKey, version: Version, epoch: Epoch) {
        self.acknowledged.set(self.acknowledged.get() + 1);
        if let Some(chunk) = self.chunks.borrow_mut().get_mut(&(group, key)) {
            chunk.acknowledged = chunk.submitted.len();
            let mut told = self.told.borrow_mut();
            if let Err(place) = told.binary_search(&(group, key)) {
                told.insert(place, (group, key));
            }
        }
        let serving = self.coordinator.served(group, epoch);
        assert!(
            serving.len() >= self.min_write,
            "enough members acknowledge: {version} of {key} in {group}, epoch {epoch}: {serving:?}"
        );
        for member in serving.iter().filter(|member| !self.is_damaged(member)) {
            let newest = self.newest(member, group, key);
            assert!(
                newest.is_none_or(|newest| newest >= version),
                "every member has what is acknowledged: {version} of {key} in {group}, \
                 epoch {epoch}, target {} has {newest:?}",
                member.target
            );
        }
    }

    /// Takes note that a reader was told that acknowledged bytes cannot be had.
    ///
    /// # Panics
    /// When every cell of the run has a good copy.
    pub fn on_lost(&self, group: GroupId, key: ChunkKey, why: &impl std::fmt::Debug) {
        assert!(
            self.mode == Mode::Unrestricted,
            "acknowledged bytes are never missing: {why:?}: {}",
            self.describe(group, key)
        );
        self.lost.set(self.lost.get() + 1);
    }

    /// Takes note that a reader was told, while things are broken, that nobody within reach has good
    /// bytes: the only members left may be those whose devices are bad.
    ///
    /// # Panics
    /// When every cell of the run has a good copy, and a member whose device is sound is said to
    /// have a bad one.
    pub fn on_unreadable(&self, group: GroupId, key: ChunkKey, detail: &str) {
        let is_excused = |said: &str| {
            let target = said.strip_prefix("target ").and_then(|it| it.split(':').next());
            let target = target.and_then(|number| number.parse().ok()).map(TargetId);
            let damaged = target.is_some_and(|it| self.damaged.borrow().contains(&node_at(it)));
            damaged || said.contains("device error") || said.contains("suspect")
        };
        if !detail.split("; ").all(is_excused) {
            self.on_lost(group, key, &detail);
        }
    }

    /// What faults may do in this run.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// One of the chunks that have acknowledged bytes, and how many it has; `choose` gets the
    /// number of chunks. `None` when there are none.
    pub fn any_chunk(
        &self,
        choose: impl FnOnce(usize) -> usize,
    ) -> Option<(GroupId, ChunkKey, usize)> {
        let told = self.told.borrow();
        let (group, key) = *told.get(if told.is_empty() { 0 } else { choose(told.len()) })?;
        let acknowledged = self.chunks.borrow().get(&(group, key))?.acknowledged;
        Some((group, key, acknowledged))
    }

    /// Chunks that have acknowledged bytes, and how many.
    pub fn chunks(&self) -> Vec<(GroupId, ChunkKey, usize)> {
        let chunks = self.chunks.borrow();
        let told = chunks.iter().filter(|(_, chunk)| chunk.acknowledged > 0);
        told.map(|((group, key), chunk)| (*group, *key, chunk.acknowledged)).collect()
    }

    /// Checks bytes that a read of acknowledged bytes returned.
    ///
    /// # Panics
    /// When they are not what was written there.
    pub fn on_read(&self, group: GroupId, key: ChunkKey, offset: usize, bytes: &[u8]) {
        let chunks = self.chunks.borrow();
        let Some(chunk) = chunks.get(&(group, key)) else { return };
        let wanted = &chunk.submitted[offset..offset + bytes.len()];
        assert!(
            wanted == bytes,
            "a read returns what was written: {key} in {group} from {offset}, {} bytes",
            bytes.len()
        );
        self.read.set(self.read.get() + 1);
    }

    /// Checks that the members of every group hold the same, and neither less than was
    /// acknowledged nor more than was submitted; for a healthy cluster at rest.
    ///
    /// # Panics
    /// When they do not.
    pub fn check_inventories(&self, cluster: &SimCluster) {
        for group in self.coordinator.map().groups.values() {
            let all = cluster.inventories(group.id);
            let of = |member: &Member| node_of(member).and_then(|node| all.get(&node));
            let lists: Vec<_> = group.serving().map(of).collect();
            for pair in lists.windows(2) {
                let (Some(one), Some(other)) = (pair[0], pair[1]) else {
                    panic!("every member runs: {group:?}")
                };
                let differs =
                    |entry: &&InventoryEntry| !one.contains(entry) || !other.contains(entry);
                let different: Vec<_> = one.iter().chain(other).filter(differs).take(4).collect();
                assert!(different.is_empty(), "replicas are equal: {group:?} {different:?}");
            }
            let Some(Some(list)) = lists.first() else { continue };
            self.check_list(group.id, list);
        }
    }

    /// Checks that every unit of every arena is either owned by a version or free.
    ///
    /// # Panics
    /// When one leaked or is used twice.
    pub fn check_space(&self) {
        for (node, store) in self.stores.borrow().iter() {
            assert!(
                store.space_equals_index(),
                "no space leaks and none is used twice: node {node}"
            );
        }
    }

    fn check_list(&self, group: GroupId, list: &[InventoryEntry]) {
        let chunks = self.chunks.borrow();
        let of_group = || chunks.iter().filter(|((of, _), _)| *of == group);
        let grown = |entry: &&InventoryEntry| (FID_GROWN_MIN..FID_MIN).contains(&entry.key.fid.0);
        for entry in list.iter().filter(grown) {
            let submitted = chunks.get(&(group, entry.key)).map_or(0, |it| it.submitted.len());
            assert!(
                entry.chunk_len as usize <= submitted,
                "nothing is stored that was not sent: {entry:?} of {submitted} bytes"
            );
        }
        for ((_, key), chunk) in of_group() {
            let entry = list.iter().find(|entry| entry.key == *key);
            let len = entry.map_or(0, |entry| entry.chunk_len as usize);
            assert!(
                len >= chunk.acknowledged,
                "what is acknowledged is kept: {key} in {group} has {len} of {} bytes",
                chunk.acknowledged
            );
        }
    }

    /// Reads every replica of a chunk on its own device, those outside its group included, and
    /// checks its bytes: a replica may be short, never different.
    ///
    /// # Panics
    /// When one does not verify, or one holds something else, or a member has less than was
    /// acknowledged. A device that was damaged may hold bad bytes where nothing had to heal, and
    /// outside the groups of its node.
    pub async fn check_replicas(&self, group: GroupId, key: ChunkKey, acknowledged: usize) {
        let stores: Vec<_> = {
            let stores = self.stores.borrow();
            stores.iter().map(|(node, store)| (*node, Rc::clone(store))).collect()
        };
        let members: Vec<_> = self.members(group).iter().filter_map(node_of).collect();
        for (node, store) in stores {
            let is_member = members.contains(&node);
            let must_be_good = is_member && self.mode == Mode::Liveness;
            let damaged = self.damaged.borrow().contains(&node) && !must_be_good;
            let held = store.info(group, key).map_or(0, |info| info.chunk_len);
            let short = (held as usize) < acknowledged && is_member;
            assert!(
                !short || damaged || self.mode == Mode::Unrestricted,
                "every member has what is acknowledged: node {node} {held} of {acknowledged}: {}",
                self.describe(group, key)
            );
            if held == 0 {
                continue;
            }
            let mode = ReadMode { newest: true, verify: true, suspect: false };
            match store.read(group, key, 0, held, mode).await {
                Ok(out) => self.on_replica(group, key, &out.payload.to_vec()),
                Err(_) if damaged => {}
                // What nobody acknowledged may be unreadable, and says so.
                Err(_) if store.info(group, key).is_some_and(|info| info.suspect) => {}
                Err(error) => panic!("every replica is readable: {key} on node {node}: {error}"),
            }
        }
    }

    /// Checks what a replica holds from the start of a chunk.
    fn on_replica(&self, group: GroupId, key: ChunkKey, bytes: &[u8]) {
        let chunks = self.chunks.borrow();
        let Some(chunk) = chunks.get(&(group, key)) else { return };
        assert!(
            chunk.submitted.starts_with(bytes),
            "all replicas agree on what they have: {key} in {group}, {} bytes",
            bytes.len()
        );
        self.read.set(self.read.get() + 1);
    }

    /// What the cluster knows of a chunk, for the message of a failure.
    pub fn describe(&self, group: GroupId, key: ChunkKey) -> String {
        let stores = self.stores.borrow();
        let held: Vec<_> =
            stores.iter().map(|(node, store)| (node.0, store.info(group, key))).collect();
        let map = self.coordinator.map();
        format!("{key} in {:?}\nheld by {held:#?}", map.groups.get(&group))
    }

    fn members(&self, group: GroupId) -> Vec<Member> {
        let map = self.coordinator.map();
        map.groups.get(&group).map_or(Vec::new(), |group| group.serving().copied().collect())
    }

    fn is_damaged(&self, member: &Member) -> bool {
        node_of(member).is_some_and(|node| self.damaged.borrow().contains(&node))
    }

    /// Newest durable version a member has of a chunk; `None` when its node does not run.
    fn newest(&self, member: &Member, group: GroupId, key: ChunkKey) -> Option<Version> {
        let stores = self.stores.borrow();
        let store = stores.get(&node_of(member)?)?;
        let before = ChunkKey { fid: Fid(key.fid.0 - 1), index: u32::MAX };
        let (page, _) = store.inventory(group, Some(before), 1);
        let entry = page.first().filter(|entry| entry.key == key);
        Some(entry.map_or(Version::ZERO, |entry| entry.version))
    }
}

fn node_at(target: TargetId) -> NodeId {
    NodeId(target.0 / 100)
}

fn node_of(member: &Member) -> Option<NodeId> {
    let node = node_at(member.target);
    (target_of(node) == member.target).then_some(node)
}
