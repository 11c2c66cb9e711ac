//! Nearly full targets: a copy needs no more than its original, and room for growth is given back.

use std::collections::BTreeMap;
use std::rc::Rc;

use node::io::memory::MemoryDisk;
use node::limits::{COPIES_STOP_PERCENT, FREES_ONLY_PERCENT, RESERVES_GIVEN_UP_AT_ONCE};
use node::store::{Fullness, InstallOp, Store, StoreError};
use protocol::ids::{Epoch, Fid, Version};
use protocol::message::chunk::InventoryEntry;

use crate::store_support::*;

/// Longest chunk and longest single write, in bytes.
const CHUNK_MAX: u64 = 500_000;
const PIECE_MAX: u64 = 60_000;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What happens to a target, so that another one can be told a part of it.
enum Change {
    Put(Put),
    Drop(u64),
}

/// Draws changes that fit what was drawn before.
struct Source {
    random: Random,
    counter: u32,
    /// Newest version and length of each file.
    files: BTreeMap<u64, (u32, u64)>,
}

impl Source {
    fn next(&mut self) -> Change {
        let fid = self.random.below(4 + self.files.len() as u64 * 5 / 4);
        if self.random.below(25) == 0
            && let Some((&fid, _)) = self.files.range(fid..).next()
        {
            self.files.remove(&fid);
            return Change::Drop(fid);
        }
        let (base, len) = self.files.get(&fid).copied().unwrap_or_default();
        self.counter += 1;
        let bytes = pattern(self.counter.into(), 1 + self.random.below(PIECE_MAX) as usize);
        // Some writes change what is there, and some leave a hole.
        let offset = match self.random.below(12) {
            0 => self.random.below(len + 1),
            1 => len + self.random.below(PIECE_MAX),
            _ => len,
        };
        let end = (offset + bytes.len() as u64).max(len);
        if end > CHUNK_MAX {
            return self.next();
        }
        self.files.insert(fid, (self.counter, end));
        let base = if base == 0 { Version::ZERO } else { version(base) };
        let cell_log2 = if fid.is_multiple_of(5) { 12 } else { 14 };
        Change::Put(Put {
            base,
            offset: offset as u32,
            expect_len: end as u32,
            mutation: offset != len,
            cell_log2,
            ..Put::new(fid, self.counter, bytes)
        })
    }
}

async fn change(store: &Store<MemoryDisk>, disk: &MemoryDisk, change: &Change) {
    match change {
        Change::Put(put) => {
            store.write(put.op(disk)).await.unwrap();
            store.commit_through(GROUP, version(put.counter));
        }
        Change::Drop(fid) => store.drop_fids(GROUP, &[Fid(*fid)]).await.unwrap(),
    }
}

fn used(store: &Store<MemoryDisk>) -> u64 {
    store.capacity() - store.free()
}

fn inventory(store: &Store<MemoryDisk>) -> Vec<InventoryEntry> {
    store.inventory(GROUP, None, usize::MAX).0
}

fn entry_of(store: &Store<MemoryDisk>, fid: u64) -> Option<InventoryEntry> {
    inventory(store).into_iter().find(|entry| entry.key == key(fid))
}

async fn copy(
    from: &Store<MemoryDisk>,
    to: &Store<MemoryDisk>,
    disk: &MemoryDisk,
    fid: u64,
) -> bool {
    let info = from.info(GROUP, key(fid)).unwrap();
    let bytes = read_all(from, fid).await.unwrap();
    let put = Put { cell_log2: info.cell_log2, ..Put::new(fid, info.version.counter, bytes) };
    let whole =
        InstallOp { write: put.op(disk), ops: vec![], mutated: info.mutated, committed: true };
    match to.install(whole).await {
        Ok(_) => true,
        Err(StoreError::NoSpace) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Copies everything that differs, chunk by chunk; those that found no room are tried again for as
/// long as others did.
async fn copy_all(from: &Store<MemoryDisk>, to: &Store<MemoryDisk>, disk: &MemoryDisk) -> usize {
    loop {
        let mut left: Vec<u64> = inventory(from).iter().map(|entry| entry.key.fid.0).collect();
        left.retain(|fid| entry_of(from, *fid) != entry_of(to, *fid));
        let before = left.len();
        for fid in left {
            copy(from, to, disk, fid).await;
        }
        let after = inventory(from).iter().filter(|it| !inventory(to).contains(it)).count();
        if after == 0 || after == before {
            return after;
        }
    }
}

/// Batches until nothing waits for one.
async fn settle(store: &Store<MemoryDisk>) {
    for _ in 0..4 {
        store.adopt(GROUP, Epoch(1)).await.unwrap();
    }
}

/// Fills a target to the mark of clients; everything that happened to it.
fn fill(store: &Rc<Store<MemoryDisk>>, disk: &MemoryDisk, seed: u64) -> Vec<Change> {
    let mut source = Source { random: Random(seed), counter: 0, files: BTreeMap::new() };
    let mut changes = Vec::new();
    with_store(store, async {
        while store.fullness().takes_writes() {
            let next = source.next();
            change(store, disk, &next).await;
            changes.push(next);
        }
        settle(store).await;
    });
    changes
}

#[test]
fn whoever_is_filled_by_clients_can_be_copied_to_a_target_of_the_same_size() {
    for seed in 0..6 {
        let (disk, full) = fresh(70 + seed);
        let changes = fill(&full, &disk, seed);
        // One that is new, and two that were away for a while.
        for share in [0, 40, 90] {
            let (disk, behind) = fresh(80 + seed);
            let seen = changes.len() * share / 100;
            let left = with_store(&behind, async {
                for seen in &changes[..seen] {
                    change(&behind, &disk, seen).await;
                }
                // What was deleted meanwhile goes first.
                let dead = inventory(&behind).into_iter().map(|entry| entry.key.fid);
                let dead: Vec<Fid> = dead.filter(|fid| entry_of(&full, fid.0).is_none()).collect();
                behind.drop_fids(GROUP, &dead).await.unwrap();
                let left = copy_all(&full, &behind, &disk).await;
                settle(&behind).await;
                left
            });
            assert_eq!(left, 0, "seed {seed}, {share} %: {} of {}", used(&behind), used(&full));
            assert!(used(&behind) <= used(&full), "seed {seed}, {share} %");
            assert!(behind.space_equals_index());
        }
    }
}

#[test]
fn copies_are_taken_where_nothing_new_is_and_leave_a_little() {
    let (disk, store) = fresh(90);
    with_store(&store, async {
        let mut counter = 0;
        let mut put = || {
            counter += 1;
            Put::new(u64::from(counter), counter, pattern(1, 40_000))
        };
        while store.write(put().op(&disk)).await.is_ok() {}
        let percent = |percent: u64| store.capacity() * percent / 100;
        assert!(used(&store) < percent(FREES_ONLY_PERCENT));
        assert!(used(&store) + 50_000 > percent(FREES_ONLY_PERCENT));
        loop {
            let (write, mutated, committed) = (put().op(&disk), false, true);
            let copied = store.install(InstallOp { write, ops: vec![], mutated, committed }).await;
            match copied {
                Ok(_) => continue,
                Err(error) => break assert_eq!(error, StoreError::NoSpace),
            }
        }
        assert_eq!(store.fullness(), Fullness::FreesOnly);
        assert!(used(&store) < percent(COPIES_STOP_PERCENT));
        assert!(used(&store) + 50_000 > percent(COPIES_STOP_PERCENT));
        // Cuts need a cell for a moment.
        let cut = Put { base: version(1), ..Put::truncate(1, 1_000_000, 10_000) };
        store.commit_through(GROUP, version(1));
        store.write(cut.op(&disk)).await.unwrap();
    });
}

#[test]
fn room_for_growth_is_given_back_before_anybody_lacks_it() {
    let (disk, store) = fresh(91);
    let len = 10_000;
    let mut count = 0;
    with_store(&store, async {
        loop {
            let put =
                Put { expect_len: 1 << 16, ..Put::new(count.into(), count + 1, pattern(1, len)) };
            match store.write(put.op(&disk)).await {
                Ok(_) => count += 1,
                Err(error) => break assert_eq!(error, StoreError::NoSpace),
            }
            store.commit_through(GROUP, version(count));
        }
        settle(&store).await;
    });
    assert!(count as usize > 2 * RESERVES_GIVEN_UP_AT_ONCE, "{count}");
    let kept = used(&store);
    assert!(kept <= u64::from(count) * (16 << 10), "nothing but the last step is kept");
    let disk = disk.crash(3);
    let (store, recovered) = open(&disk);
    assert!(recovered.intact && recovered.suspects == 0 && store.space_equals_index());
    assert_eq!(used(&store), kept);
    with_store(&store, async {
        for fid in 0..u64::from(count) {
            assert_eq!(read_all(&store, fid).await.unwrap(), pattern(1, len));
        }
    });
}

#[test]
fn a_chunk_that_may_be_growing_keeps_the_run_it_grows_into() {
    let (disk, store) = fresh(92);
    with_store(&store, async {
        let grow = |counter: u32| Put {
            base: version(counter - 1),
            offset: 20_000 * (counter - 1),
            expect_len: 200_000,
            ..Put::new(1, counter, pattern(counter.into(), 20_000))
        };
        let first = Put { base: Version::ZERO, ..grow(1) };
        store.write(first.op(&disk)).await.unwrap();
        store.write(grow(2).op(&disk)).await.unwrap();
        let run = used(&store);
        assert!(run > 200_000, "{run}");
        let mut others = 0;
        while store.fullness() < Fullness::NoResync {
            others += 1;
            let put = Put::new(1 + others, 100 + others as u32, pattern(others, 100_000));
            store.write(put.op(&disk)).await.unwrap();
        }
        settle(&store).await;
        assert!(used(&store) >= run + others * 100_000, "neither version is committed");
        store.write(grow(3).op(&disk)).await.unwrap();
        let bytes = [1, 2, 3].map(|counter| pattern(counter, 20_000)).concat();
        assert_eq!(read_all(&store, 1).await.unwrap(), bytes);
        assert!(store.space_equals_index());
    });
}

#[test]
fn what_is_not_expected_to_grow_any_more_gives_its_run_back() {
    let (disk, store) = fresh(93);
    with_store(&store, async {
        let first = Put { expect_len: 4 << 20, ..Put::new(1, 1, pattern(1, 20_000)) };
        store.write(first.op(&disk)).await.unwrap();
        assert_eq!(used(&store), 4 << 20);
        let last = Put {
            base: version(1),
            offset: 20_000,
            expect_len: 25_000,
            ..Put::new(1, 2, pattern(2, 5000))
        };
        store.write(last.op(&disk)).await.unwrap();
        store.commit_through(GROUP, version(2));
        settle(&store).await;
        assert!(used(&store) <= 48 << 10, "{}", used(&store));
        assert!(store.space_equals_index());
    });
}
