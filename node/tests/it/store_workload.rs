//! A workload of every kind of change, and what a test knows of it when power goes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::task::Poll;

use node::io::memory::MemoryDisk;
use node::store::{InstallOp, Store, StoreError};
use protocol::ids::{Fid, Version};

use crate::store_support::*;

/// What the test knows when power goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Every version that may be there, ascending.
    pub(crate) submitted: Model,
    /// Acknowledged versions of each chunk.
    acknowledged: BTreeMap<u64, BTreeSet<u32>>,
    /// Versions that were asked for and not acknowledged, or are being discarded.
    in_flight: BTreeSet<u32>,
    last_counter: u32,
    /// Newest version that a commit mark covers.
    marked: u32,
    /// Newest whole chunk that replaced what was there.
    installed: BTreeMap<u64, u32>,
    /// Chunks whose deletion was asked for, and whether it was acknowledged.
    pub(crate) dropped: BTreeMap<u64, bool>,
}

impl Known {
    /// Newest acknowledged version of a chunk; 0 for none.
    pub(crate) fn acknowledged(&self, fid: u64) -> u32 {
        self.acknowledged.get(&fid).and_then(BTreeSet::last).copied().unwrap_or(0)
    }

    /// Chunks with an acknowledged version.
    pub(crate) fn chunks(&self) -> Vec<u64> {
        let held = self.acknowledged.iter().filter(|(_, versions)| !versions.is_empty());
        held.map(|(fid, _)| *fid).collect()
    }

    /// Goes on from what a recovered store holds.
    pub(crate) fn settle(&mut self, store: &Store<MemoryDisk>) {
        self.in_flight.clear();
        let held: BTreeMap<u64, u32> = store
            .inventory(GROUP, None, 1000)
            .0
            .iter()
            .map(|entry| (entry.key.fid.0, entry.version.counter))
            .collect();
        for (fid, versions) in &mut self.submitted.versions {
            let newest = held.get(fid).copied().unwrap_or(0);
            versions.retain(|(counter, _)| *counter <= newest);
            let acknowledged = self.acknowledged.entry(*fid).or_default();
            acknowledged.extend(held.get(fid));
        }
        for (fid, done) in &mut self.dropped {
            *done = !held.contains_key(fid);
        }
        self.dropped.retain(|_, done| *done);
        // What lies below a recovered version is not known well enough to fall back to.
        self.installed.extend(held.into_iter().map(|(fid, newest)| (fid, newest + 1)));
    }

    fn next_counter(&mut self) -> u32 {
        self.last_counter += 1;
        self.in_flight.insert(self.last_counter);
        self.last_counter
    }

    fn acknowledge(&mut self, fid: u64, counter: u32) {
        self.in_flight.remove(&counter);
        self.acknowledged.entry(fid).or_default().insert(counter);
    }

    /// A version that the store refused, so that it must never be seen.
    fn forget(&mut self, fid: u64, counter: u32) {
        self.in_flight.remove(&counter);
        let versions = self.submitted.versions.entry(fid).or_default();
        versions.retain(|have| have.0 != counter);
    }

    /// Everything below the oldest version that is not settled.
    fn mark(&mut self) -> Version {
        let through = self.in_flight.first().map_or(self.last_counter, |first| first - 1);
        self.marked = self.marked.max(through);
        version(self.marked)
    }

    /// The newest version of a chunk, when nothing says that it is committed and the one before is
    /// still kept.
    fn discardable(&self, fid: u64) -> Option<u32> {
        let newest = self.submitted.newest(fid)?.0;
        let installed = self.installed.get(&fid).copied().unwrap_or(0);
        (newest > self.marked && newest >= installed).then_some(newest)
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// One of several writers, each on chunks of its own.
struct Writer<'a> {
    store: &'a Store<MemoryDisk>,
    disk: &'a MemoryDisk,
    known: &'a RefCell<Known>,
    random: Random,
    number: u64,
}

/// Four writers at a time until power goes or they are done.
pub(crate) async fn workload(
    store: &Store<MemoryDisk>,
    disk: &MemoryDisk,
    seed: u64,
    rounds: u32,
    known: &RefCell<Known>,
) {
    let writers = (0..4u64).map(|number| {
        let random = Random(seed * 31 + number);
        Writer { store, disk, known, random, number }.run(rounds)
    });
    let mut writers: Vec<_> = writers.map(Box::pin).collect();
    poll_fn(|context| {
        writers.retain_mut(|writer| writer.as_mut().poll(context).is_pending());
        if writers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Writer<'_> {
    async fn run(mut self, rounds: u32) {
        for _ in 0..rounds {
            let fid = self.number * 10 + self.random.below(3);
            if self.known.borrow().dropped.contains_key(&fid) {
                continue;
            }
            let going = match self.random.below(20) {
                0 => self.drop_chunk(fid).await,
                1 => self.store.checkpoint().await.is_ok(),
                2 | 3 => self.discard(fid).await,
                4 | 5 => self.install(fid).await,
                _ => self.write(fid).await,
            };
            if !going {
                return;
            }
            if self.random.below(2) == 0 {
                let through = self.known.borrow_mut().mark();
                self.store.commit_through(GROUP, through);
            }
        }
    }

    async fn drop_chunk(&mut self, fid: u64) -> bool {
        if self.known.borrow().submitted.newest(fid).is_none() {
            return true;
        }
        self.known.borrow_mut().dropped.insert(fid, false);
        let done = self.store.drop_fids(GROUP, &[Fid(fid)]).await.is_ok();
        self.known.borrow_mut().dropped.insert(fid, done);
        done
    }

    async fn discard(&mut self, fid: u64) -> bool {
        let Some(counter) = self.known.borrow().discardable(fid) else { return true };
        {
            let mut known = self.known.borrow_mut();
            known.in_flight.insert(counter);
            known.acknowledged.entry(fid).or_default().remove(&counter);
        }
        let done = self.store.discard(GROUP, &[(key(fid), version(counter))]).await.is_ok();
        if done {
            self.known.borrow_mut().forget(fid, counter);
        }
        done
    }

    async fn install(&mut self, fid: u64) -> bool {
        let len = self.random.below(90_000) as usize;
        let counter = self.known.borrow_mut().next_counter();
        let bytes = pattern(u64::from(counter), len);
        let put = Put { cell_log2: cell_log2_of(fid), ..Put::new(fid, counter, bytes) };
        {
            let mut known = self.known.borrow_mut();
            let versions = known.submitted.versions.entry(fid).or_default();
            versions.push((counter, put.bytes.clone()));
            known.installed.insert(fid, counter);
        }
        let write = put.op(self.disk);
        let whole = InstallOp { write, ops: vec![], mutated: true, committed: false };
        let result = self.store.install(whole).await.map(|_| ());
        self.settled(fid, counter, result)
    }

    /// Growth, a change, a write after a hole, or a truncation.
    async fn write(&mut self, fid: u64) -> bool {
        let newest = self.known.borrow().submitted.newest(fid).cloned();
        let len = newest.as_ref().map_or(0, |newest| newest.1.len() as u64);
        let counter = self.known.borrow_mut().next_counter();
        let base = newest.map_or(Version::ZERO, |newest| version(newest.0));
        let put = match self.random.below(6) {
            0 => Put::truncate(fid, counter, self.random.below(len + 60_000) as u32),
            1 => Put::truncate(fid, counter, self.random.below(len + 1) as u32),
            2 | 3 => {
                let offset = self.random.below(len + 50_000) as u32;
                let bytes = pattern(u64::from(counter), 1 + self.random.below(60_000) as usize);
                Put { offset, mutation: true, ..Put::new(fid, counter, bytes) }
            }
            _ => {
                let bytes = pattern(u64::from(counter), 1 + self.random.below(60_000) as usize);
                Put { offset: len as u32, ..Put::new(fid, counter, bytes) }
            }
        };
        let put = Put { base, expect_len: 100_000, cell_log2: cell_log2_of(fid), ..put };
        self.known.borrow_mut().submitted.apply(&put);
        let result = self.store.write(put.op(self.disk)).await.map(|_| ());
        self.settled(fid, counter, result)
    }

    /// Notes how a version fared; false when power went.
    fn settled(&mut self, fid: u64, counter: u32, result: Result<(), StoreError>) -> bool {
        let mut known = self.known.borrow_mut();
        match result {
            Ok(()) => known.acknowledge(fid, counter),
            Err(StoreError::Busy) => known.forget(fid, counter),
            Err(StoreError::Disk(_) | StoreError::Fenced) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }
}

fn cell_log2_of(fid: u64) -> u8 {
    [12, 14, 16][(fid % 3) as usize]
}
