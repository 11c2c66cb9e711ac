//! A device that refuses some writes: the store keeps what it has and goes on as far as it can.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use futures_lite::future::{block_on, yield_now};
use node::io::memory::MemoryDisk;
use node::io::memory::disk::Faults;
use node::io::{Disk, DiskError};
use node::store::{Store, StoreError};
use protocol::ids::{Epoch, Fid, Version};

use crate::store_bounds::checkpoint;
use crate::store_support::*;

const SUPERBLOCKS: Range<u64> = 0..4 << 20;

/// A container that can refuse to write to one region.
struct Refusing {
    disk: MemoryDisk,
    region: RefCell<Range<u64>>,
    refused: Cell<u32>,
    /// What goes wrong once such a write was made, instead of its refusal.
    instead: Cell<Option<Faults>>,
}

impl Refusing {
    fn new(disk: MemoryDisk) -> Rc<Refusing> {
        let (region, refused, instead) = (RefCell::new(0..0), Cell::new(0), Cell::new(None));
        Rc::new(Refusing { disk, region, refused, instead })
    }

    fn refuse(&self, region: Range<u64>) {
        *self.region.borrow_mut() = region;
    }
}

impl Disk for Refusing {
    type Buffer = <MemoryDisk as Disk>::Buffer;
    type Read = <MemoryDisk as Disk>::Read;

    fn capacity(&self) -> u64 {
        self.disk.capacity()
    }

    fn allocate(&self, len: usize) -> Self::Buffer {
        self.disk.allocate(len)
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Self::Read, DiskError> {
        self.disk.read(offset, len).await
    }

    async fn write(
        &self,
        offset: u64,
        buffer: Rc<Self::Buffer>,
        len: usize,
    ) -> Result<(), DiskError> {
        if self.region.borrow().contains(&offset) {
            self.refused.set(self.refused.get() + 1);
            if let Some(faults) = self.instead.take() {
                self.disk.set_faults(faults);
                return self.disk.write(offset, buffer, len).await;
            }
            // Not an error of the device: those are counted, and too many of them fence.
            return Err(DiskError::Closed);
        }
        self.disk.write(offset, buffer, len).await
    }

    async fn flush(&self) -> Result<(), DiskError> {
        self.disk.flush().await
    }
}

fn checkpoints(disk: &MemoryDisk) -> Range<u64> {
    let start = (4 << 20) + checkpoint(disk).2;
    start..start + (2 << 20)
}

#[test]
fn a_full_journal_refuses_writes_and_takes_deletes_until_a_checkpoint_succeeds() {
    let disk = Refusing::new(formatted(SIZE, 37));
    disk.refuse(checkpoints(&disk.disk));
    let (store, _) = block_on(Store::open(Rc::clone(&disk), &options())).unwrap();
    let put = |counter: u32| {
        let base = if counter == 1 { Version::ZERO } else { version(counter - 1) };
        let bytes = pattern(u64::from(counter), 100);
        Put { base, mutation: counter > 1, ..Put::new(5, counter, bytes) }.op(&*disk)
    };
    with_store(&store, async {
        for fid in [6, 7, 8] {
            store.write(Put::new(fid, 1, pattern(fid, 100)).op(&*disk)).await.unwrap();
        }
        let mut counter = 1;
        let refusal = loop {
            match store.write(put(counter)).await {
                Ok(_) => store.commit_through(GROUP, version(counter)),
                Err(error) => break error,
            }
            counter += 1;
        };
        assert_eq!(refusal, StoreError::Busy);
        assert!(counter > 100, "{counter} writes fill the ring");
        let cut = Put { base: version(counter - 1), ..Put::truncate(5, counter, 0) };
        assert_eq!(store.write(cut.op(&*disk)).await, Err(StoreError::Busy));
        store.drop_fids(GROUP, &[Fid(6)]).await.unwrap();
        store.adopt(GROUP, Epoch(2)).await.unwrap();
        store.discard(GROUP, &[(key(7), version(1))]).await.unwrap();
        store.quarantine(GROUP, &[key(8)], 0).await.unwrap();
        assert!((6..=8).all(|fid| fid == 7 || store.info(GROUP, key(fid)).is_none()));
        assert_eq!(store.write(put(counter)).await, Err(StoreError::Busy), "still full");
        disk.refuse(0..0);
        // Each refused write asks for a checkpoint; a client comes back as often.
        let mut refused = 0;
        while store.write(put(counter)).await == Err(StoreError::Busy) {
            refused += 1;
            assert!(refused < 1000, "a checkpoint empties the journal");
            yield_now().await;
        }
        assert_eq!(read_all(&store, 5).await.unwrap(), pattern(u64::from(counter), 100));
    });
}

#[test]
fn a_superblock_that_was_not_written_costs_no_checkpoint() {
    let memory = formatted(SIZE, 39);
    let disk = Refusing::new(memory.clone());
    let (store, _) = block_on(Store::open(Rc::clone(&disk), &options())).unwrap();
    with_store(&store, async {
        for counter in 1..=3 {
            let put = Put::new(u64::from(counter), counter, pattern(u64::from(counter), 9000));
            store.write(put.op(&*disk)).await.unwrap();
            store.checkpoint().await.unwrap();
        }
        disk.refuse(SUPERBLOCKS);
        assert!(matches!(store.checkpoint().await, Err(StoreError::Disk(_))));
        assert!(disk.refused.get() > 0 && !store.fenced());
        disk.refuse(0..0);
        store.write(Put::new(4, 4, pattern(4, 9000)).op(&*disk)).await.unwrap();
        // The next image is written, the superblock that would point to it is not.
        memory.set_faults(Faults { power_off_at_flush: 2, ..Faults::default() });
        assert!(store.checkpoint().await.is_err());
    });
    for seed in 0..16 {
        let (again, recovered) = open(&memory.crash(seed));
        assert!(recovered.intact, "seed {seed}: the image that counts was overwritten");
        assert_eq!(again.chunks(), 4, "seed {seed}");
    }
}

#[test]
fn a_flush_that_fails_in_a_checkpoint_fences_and_is_told_at_the_next_open() {
    let memory = formatted(SIZE, 36);
    let disk = Refusing::new(memory.clone());
    let fault = Faults { flush_error: 1, ..Faults::default() };
    disk.refuse(checkpoints(&memory));
    disk.instead.set(Some(fault));
    let (store, _) = block_on(Store::open(Rc::clone(&disk), &options())).unwrap();
    with_store(&store, async {
        for counter in 1.. {
            let base = if counter == 1 { Version::ZERO } else { version(counter - 1) };
            let put = Put { base, mutation: true, ..Put::new(5, counter, pattern(1, 100)) };
            store.write(put.op(&*disk)).await.unwrap();
            store.commit_through(GROUP, version(counter));
            // Nobody writes while the checkpoint that is due meets the fault.
            for _ in 0..200 {
                yield_now().await;
            }
            if store.fenced() {
                break;
            }
        }
    });
    let (_, recovered) = open(&memory.crash(1));
    assert!(recovered.previous_fence.is_some_and(|reason| reason.contains("flush")));
}
