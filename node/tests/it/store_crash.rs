//! Power is lost at every flush and at many writes; what was acknowledged is still there.
//!
//! After each crash: acknowledged is a subset of recovered, recovered of submitted, bytes equal
//! the model or the version says that it is suspect, no unit is lost or owned twice, and opening
//! again gives the same answer. `LANEFS_SEEDS` runs more seeds than the few of every test run.

use std::cell::RefCell;

use node::io::memory::MemoryDisk;
use node::io::memory::disk::Faults;
use node::store::{Store, StoreError};

use crate::store_support::*;
use crate::store_workload::{Known, workload};

/// How many seeds a test runs: a few, or as many as asked for.
fn seeds(few: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("LANEFS_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    1..1 + asked.unwrap_or(few)
}

/// Opens what survived and compares it with what is known; the store as it was recovered.
fn check(disk: &MemoryDisk, known: &Known, what: &str) -> std::rc::Rc<Store<MemoryDisk>> {
    let (store, recovered) = open(disk);
    assert!(recovered.intact, "{what}: a crash is no corruption");
    with_store(&store, async {
        for fid in known.chunks() {
            let may_be_gone = known.dropped.contains_key(&fid);
            assert!(
                store.info(GROUP, key(fid)).is_some() || may_be_gone,
                "{what}: chunk {fid} is lost"
            );
        }
        for entry in store.inventory(GROUP, None, 100).0 {
            let fid = entry.key.fid.0;
            assert_ne!(known.dropped.get(&fid), Some(&true), "{what}: dropped {fid} is back");
            check_chunk(&store, known, fid, what).await;
        }
        assert!(store.space_equals_index(), "{what}: allocator and index differ");
        store.close().await.unwrap();
    });
    let (again, recovered) = open(disk);
    assert!(recovered.intact, "{what}");
    assert_eq!(again.inventory(GROUP, None, 100), store.inventory(GROUP, None, 100), "{what}");
    assert_eq!(again.free(), store.free(), "{what}");
    again
}

/// Checks one chunk from its newest version down to the first that is not suspect.
async fn check_chunk(store: &Store<MemoryDisk>, known: &Known, fid: u64, what: &str) {
    while let Some(info) = store.info(GROUP, key(fid)) {
        let counter = info.version.counter;
        let expected = known.submitted.at(fid, counter);
        assert!(expected.is_some(), "{what}: {fid} has version {counter}, which nobody wrote");
        assert!(counter >= known.acknowledged(fid), "{what}: {fid} fell back to {counter}");
        let (_, version, len) = *info.ops.last().unwrap();
        assert_eq!((version, len), (info.version, info.chunk_len), "{what}: {fid} op table");
        if let Some((version, len)) = info.committed {
            assert!(!info.committed_suspect, "{what}: {fid} committed at {version}");
            let bytes = read_committed(store, fid, 0, len).await;
            assert_eq!(bytes.as_ref().ok(), known.submitted.at(fid, version.counter), "{what}");
        }
        if !info.suspect {
            assert_eq!(read_all(store, fid).await.as_ref().ok(), expected, "{what}: {fid}");
            assert_eq!(store.verify(GROUP, key(fid)).await.unwrap().bad_cells, []);
            return;
        }
        // What was never acknowledged may be torn, and says so; the one before is whole.
        assert_eq!(read_all(store, fid).await, Err(StoreError::Suspect), "{what}: {fid}");
        assert!(counter > known.acknowledged(fid), "{what}: {fid} is acknowledged");
        store.discard(GROUP, &[(key(fid), info.version)]).await.unwrap();
    }
    assert_eq!(known.acknowledged(fid), 0, "{what}: nothing is left of {fid}");
}

/// Runs the workload until the faults end it; true when the store fenced itself.
fn run(disk: &MemoryDisk, seed: u64, rounds: u32, faults: Faults, known: &mut Known) -> bool {
    disk.set_faults(faults);
    let opened = futures_lite::future::block_on(Store::open(disk.clone().into(), &options()));
    let Ok((store, _)) = opened else { return true };
    let shared = RefCell::new(std::mem::take(known));
    with_store(&store, workload(&store, disk, seed, rounds, &shared));
    *known = shared.into_inner();
    store.fenced()
}

fn power_off(n: u64, at_write: bool) -> Faults {
    match at_write {
        true => Faults { power_off_at_write: n, ..Faults::default() },
        false => Faults { power_off_at_flush: n, ..Faults::default() },
    }
}

fn crash_everywhere(seed: u64, rounds: u32, step: usize, at_write: bool) {
    for n in (1..).step_by(step) {
        let (disk, mut known) = (formatted(SIZE, seed), Known::default());
        run(&disk, seed, rounds, power_off(n, at_write), &mut known);
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
    for seed in seeds(2) {
        crash_everywhere(seed, 8, 1, false);
    }
}

#[test]
fn power_lost_between_writes_loses_nothing_acknowledged() {
    for seed in seeds(2) {
        crash_everywhere(100 + seed, 14, 7, true);
    }
}

#[test]
fn power_lost_while_the_journal_wraps_loses_nothing_acknowledged() {
    // Enough batches for several rounds of the smallest ring, with checkpoints on the way.
    for seed in seeds(1) {
        crash_everywhere(200 + seed, 150, 61, false);
    }
}

#[test]
fn power_lost_again_and_again_loses_nothing_acknowledged() {
    for seed in seeds(4) {
        let (mut disk, mut known) = (formatted(SIZE, seed), Known::default());
        for crash in 1..8 {
            let n = 3 + (seed * 7 + crash * 13) % 40;
            run(&disk, 300 + seed * 10 + crash, 20, power_off(n, crash % 2 == 0), &mut known);
            let what = format!("seed {seed}, crash {crash} at {n}");
            disk = disk.crash(seed * 100 + crash);
            let store = check(&disk, &known, &what);
            known.settle(&store);
        }
    }
}

#[test]
fn a_failed_flush_is_never_followed_by_an_acknowledgement() {
    for n in 3..20 {
        let (disk, mut known) = (formatted(SIZE, 7), Known::default());
        let faults = Faults { flush_error: n, ..Faults::default() };
        assert!(run(&disk, 7, 30, faults, &mut known), "flush {n} fences");
        check(&disk.crash(n), &known, &format!("flush {n} failed"));
    }
}
