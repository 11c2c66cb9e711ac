//! Power is lost at every flush and at many writes; what was acknowledged is still there.
//!
//! After each crash: acknowledged is a subset of recovered, recovered of submitted, bytes equal
//! the model, and opening twice gives the same answer.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use node::io::memory::MemoryDisk;
use node::io::memory::disk::Faults;
use node::store::{Store, StoreError};
use protocol::ids::{Fid, Version};

use crate::store_support::*;

/// What the test knows when power goes.
#[derive(Clone, Debug, Default)]
struct Known {
    submitted: Model,
    /// Newest acknowledged version of each chunk.
    acknowledged: Vec<(u64, u32)>,
    /// Versions that were asked for and not acknowledged.
    in_flight: BTreeSet<u32>,
    last_counter: u32,
    /// Chunks whose deletion was asked for, and whether it was acknowledged.
    dropped: Vec<(u64, bool)>,
}

impl Known {
    fn next_counter(&mut self) -> u32 {
        self.last_counter += 1;
        self.in_flight.insert(self.last_counter);
        self.last_counter
    }

    fn acknowledge(&mut self, fid: u64, counter: u32) {
        self.in_flight.remove(&counter);
        self.acknowledged.push((fid, counter));
    }

    /// Everything below the oldest write that is not acknowledged.
    fn committed_through(&self) -> u32 {
        self.in_flight.first().map_or(self.last_counter, |first| first - 1)
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

/// Four writers at a time, each on chunks of its own, until power goes or they are done.
async fn workload(
    store: &Store<MemoryDisk>,
    disk: &MemoryDisk,
    seed: u64,
    rounds: u32,
    known: &RefCell<Known>,
) {
    let writers = (0..4u64).map(|writer| write_some(store, disk, seed, writer, rounds, known));
    let mut writers: Vec<_> = writers.map(Box::pin).collect();
    poll_fn(|context| {
        writers.retain_mut(|writer| writer.as_mut().poll(context).is_pending());
        if writers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn write_some(
    store: &Store<MemoryDisk>,
    disk: &MemoryDisk,
    seed: u64,
    writer: u64,
    rounds: u32,
    known: &RefCell<Known>,
) {
    let mut random = Random(seed * 31 + writer);
    for _ in 0..rounds {
        let fid = writer * 10 + random.below(3);
        let cell_log2 = [12, 14, 16][(fid % 3) as usize];
        let newest = known.borrow().submitted.newest(fid).cloned();
        let dead = known.borrow().dropped.iter().any(|have| have.0 == fid);
        if dead {
            continue;
        }
        if random.below(12) == 0 && newest.is_some() {
            known.borrow_mut().dropped.push((fid, false));
            if store.drop_fids(GROUP, &[Fid(fid)]).await.is_err() {
                return;
            }
            known.borrow_mut().dropped.iter_mut().filter(|have| have.0 == fid).for_each(|have| {
                have.1 = true;
            });
            continue;
        }
        let len = newest.as_ref().map_or(0, |newest| newest.1.len());
        let mutation = len > 0 && random.below(3) == 0;
        let offset = if mutation { random.below(len as u64 + 5000) } else { len as u64 };
        let counter = known.borrow_mut().next_counter();
        let bytes = pattern(u64::from(counter), 1 + random.below(60_000) as usize);
        let put = Put {
            base: newest.map_or(Version::ZERO, |newest| version(newest.0)),
            offset: offset as u32,
            expect_len: 100_000,
            cell_log2,
            mutation,
            ..Put::new(fid, counter, bytes)
        };
        known.borrow_mut().submitted.apply(&put);
        match store.write(put.op(disk)).await {
            Ok(_) => known.borrow_mut().acknowledge(fid, counter),
            Err(StoreError::Disk(_) | StoreError::Fenced) => return,
            Err(error) => panic!("{error}"),
        }
        if random.below(2) == 0 {
            let through = known.borrow().committed_through();
            store.commit_through(GROUP, version(through));
        }
    }
}

fn check(disk: &MemoryDisk, known: &Known, what: &str) {
    let (store, recovered) = open(disk);
    assert!(recovered.intact, "{what}");
    let acknowledged = |fid: u64| {
        let of_fid = known.acknowledged.iter().filter(|have| have.0 == fid);
        of_fid.map(|have| have.1).max()
    };
    with_store(&store, async {
        for fid in known.submitted.versions.keys().copied() {
            let dropped = known.dropped.iter().find(|have| have.0 == fid);
            let Some(info) = store.info(GROUP, key(fid)) else {
                let gone = acknowledged(fid).is_none() || dropped.is_some();
                assert!(gone, "{what}: acknowledged chunk {fid} is lost");
                continue;
            };
            assert!(dropped.is_none_or(|have| !have.1), "{what}: dropped chunk {fid} is back");
            let counter = info.version.counter;
            assert!(counter >= acknowledged(fid).unwrap_or(0), "{what}: {fid} fell back");
            let expected = known.submitted.at(fid, counter);
            assert!(expected.is_some(), "{what}: {fid} has a version nobody wrote");
            match read_all(&store, fid).await {
                Ok(bytes) => assert_eq!(Some(&bytes), expected, "{what}: chunk {fid}"),
                // What was never acknowledged may be torn, and says so; the one before is whole.
                Err(StoreError::Suspect) => {
                    assert!(info.suspect, "{what}: {fid}");
                    assert!(Some(counter) > acknowledged(fid), "{what}: {fid} is acknowledged");
                    store.discard(GROUP, &[(key(fid), info.version)]).await.unwrap();
                    if acknowledged(fid).is_some() {
                        let counter = store.info(GROUP, key(fid)).unwrap().version.counter;
                        assert_eq!(
                            read_all(&store, fid).await.as_ref().ok(),
                            known.submitted.at(fid, counter),
                            "{what}: {fid} before the torn version"
                        );
                    }
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
        assert!(store.space_equals_index(), "{what}: allocator and index differ");
        store.close().await.unwrap();
    });
    let (again, recovered) = open(disk);
    assert!(recovered.intact, "{what}");
    assert_eq!(again.inventory(GROUP, None, 100), store.inventory(GROUP, None, 100), "{what}");
    assert_eq!(again.free(), store.free(), "{what}");
}

fn run_until_power_off(seed: u64, rounds: u32, faults: Faults) -> (MemoryDisk, Known, bool) {
    let disk = formatted(SIZE, seed);
    disk.set_faults(faults);
    let known = RefCell::new(Known::default());
    let opened = futures_lite::future::block_on(Store::open(Rc::new(disk.clone()), &options()));
    let Ok((store, _)) = opened else { return (disk, known.into_inner(), true) };
    with_store(&store, workload(&store, &disk, seed, rounds, &known));
    let fenced = store.fenced();
    (disk, known.into_inner(), fenced)
}

fn crash_everywhere(seed: u64, rounds: u32, step: u64, at_write: bool) {
    for n in (1..).step_by(step as usize) {
        let mut faults = Faults::default();
        if at_write {
            faults.power_off_at_write = n;
        } else {
            faults.power_off_at_flush = n;
        }
        let (disk, known, _) = run_until_power_off(seed, rounds, faults);
        let cut = !disk.has_power();
        for tear in 0..4 {
            let what = format!("seed {seed}, power off at {n} (writes: {at_write}), tear {tear}");
            check(&disk.crash(seed * 1000 + n * 10 + tear), &known, &what);
        }
        if !cut {
            return;
        }
    }
}

#[test]
fn power_lost_at_every_flush_loses_nothing_acknowledged() {
    for seed in 1..4 {
        crash_everywhere(seed, 10, 1, false);
    }
}

#[test]
fn power_lost_between_writes_loses_nothing_acknowledged() {
    for seed in 4..6 {
        crash_everywhere(seed, 12, 7, true);
    }
}

#[test]
fn power_lost_while_the_journal_wraps_loses_nothing_acknowledged() {
    // Enough batches for several rounds of the smallest ring, with checkpoints on the way.
    crash_everywhere(6, 150, 61, false);
}

#[test]
fn a_failed_flush_is_never_followed_by_an_acknowledgement() {
    for n in 3..20 {
        let faults = Faults { flush_error: n, ..Faults::default() };
        let (disk, known, fenced) = run_until_power_off(7, 30, faults);
        assert!(fenced, "flush {n}");
        check(&disk.crash(n), &known, &format!("flush {n} failed"));
    }
}
