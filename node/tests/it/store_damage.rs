//! Damage of the medium: torn tails are cut, everything else is reported.

use std::rc::Rc;

use futures_lite::future::block_on;
use node::io::memory::MemoryDisk;
use node::io::memory::disk::Faults;
use node::store::{FormatOptions, InstallOp, ReadMode, Store, StoreError};
use protocol::ids::{ClusterId, NodeId, TargetId, Version};

use crate::store_support::*;

const JOURNAL: u64 = 4 << 20;
const JOURNAL_SIZE: u64 = 1 << 20;

/// A target with some small chunks, one batch each, never closed; and where each batch starts.
fn with_batches(count: u32) -> (MemoryDisk, Vec<u64>) {
    let (disk, store) = fresh(11);
    with_store(&store, async {
        for counter in 1..=count {
            let put = Put::new(u64::from(counter), counter, pattern(u64::from(counter), 9000));
            store.write(put.op(&disk)).await.unwrap();
        }
    });
    let disk = disk.crash(0);
    let magic = |at: &u64| &disk.peek(*at, 8)[..] == b"lanejrnl";
    let batches = (JOURNAL..JOURNAL + JOURNAL_SIZE).step_by(4096).filter(magic).collect();
    (disk, batches)
}

fn versions(store: &Store<MemoryDisk>) -> Vec<u32> {
    store.inventory(GROUP, None, 100).0.iter().map(|entry| entry.version.counter).collect()
}

#[test]
fn a_tail_torn_at_any_sector_is_cut() {
    let (disk, batches) = with_batches(6);
    let last = *batches.last().unwrap();
    let whole = disk.peek(last, 4096);
    for sector in 0..8 {
        let mut torn = whole.clone();
        torn[sector * 512..].fill(0);
        let copy = disk.crash(sector as u64);
        copy.poke(last, &torn);
        let (store, recovered) = open(&copy);
        assert!(recovered.intact, "sector {sector}");
        let survives = torn == whole;
        assert_eq!(versions(&store), (1..=if survives { 6 } else { 5 }).collect::<Vec<_>>());
        assert!(store.space_equals_index());
        with_store(&store, async {
            let put = Put::new(50, 50, pattern(50, 9000));
            store.write(put.op(&copy)).await.unwrap();
        });
        let (store, recovered) = open(&copy.crash(0));
        assert!(recovered.intact);
        assert_eq!(versions(&store).last(), Some(&50));
    }
}

#[test]
fn a_damaged_durable_batch_is_never_cut_silently() {
    let (disk, batches) = with_batches(6);
    for (number, batch) in batches.iter().enumerate().take(5) {
        for at in [0, 9, 30, 50, 90, 100, 150] {
            let copy = disk.crash(0);
            copy.rot(batch + at, 0x10);
            let (store, recovered) = open(&copy);
            assert!(!recovered.intact, "batch {number}, byte {at}");
            // What the other batches say is kept, and none of it is trusted.
            let expected: Vec<u32> = (1..=6).filter(|have| *have != number as u32 + 1).collect();
            assert_eq!(versions(&store), expected, "batch {number}, byte {at}");
            assert!(store.inventory(GROUP, None, 9).0.iter().all(|entry| entry.suspect));
            assert!(store.space_equals_index());
            let (_, again) = open(&copy);
            assert!(!again.intact, "nobody has heard of it: the damage is behind a checkpoint");
        }
    }
}

/// A target whose newest checkpoint and last durable batch are damaged: the second is known to have
/// been durable only from the first.
fn with_a_damaged_end() -> MemoryDisk {
    let (disk, store) = fresh(21);
    with_store(&store, async {
        for round in [1..=3, 4..=6] {
            for counter in round {
                let put = Put::new(u64::from(counter), counter, pattern(u64::from(counter), 9000));
                store.write(put.op(&disk)).await.unwrap();
            }
            store.checkpoint().await.unwrap();
        }
    });
    let disk = disk.crash(0);
    let magic = |at: &u64| &disk.peek(*at, 8)[..] == b"lanejrnl";
    let last = (JOURNAL..JOURNAL + JOURNAL_SIZE).step_by(4096).filter(magic).last().unwrap();
    disk.rot(last + 100, 1);
    disk.rot(5 << 20, 1);
    disk
}

#[test]
fn the_verdict_outlives_starts_that_end_anywhere_before_they_registered() {
    let (journal, batches) = with_batches(6);
    journal.rot(batches[2] + 100, 1);
    for (what, damaged) in [("journal", journal), ("checkpoint", with_a_damaged_end())] {
        for at_write in [true, false] {
            for n in 1.. {
                let disk = damaged.crash(0);
                disk.set_faults(match at_write {
                    true => Faults { power_off_at_write: n, ..Faults::default() },
                    false => Faults { power_off_at_flush: n, ..Faults::default() },
                });
                let first = block_on(Store::open(Rc::new(disk.clone()), &options()));
                assert!(first.is_err() || n > 4, "the generation alone takes two flushes");
                for tear in 0..4 {
                    let (_, second) = open(&disk.crash(tear));
                    assert!(!second.intact, "{what}, power off at {n} ({at_write}), tear {tear}");
                }
                if first.is_ok() {
                    break;
                }
            }
        }
    }
}

#[test]
fn the_verdict_goes_when_the_coordinator_knows_it_and_the_suspicion_stays() {
    let (disk, batches) = with_batches(6);
    disk.rot(batches[2] + 100, 1);
    let (store, recovered) = open(&disk);
    assert!(!recovered.intact);
    with_store(&store, async { store.close().await.unwrap() });
    let (store, recovered) = open(&disk);
    assert!(!recovered.intact, "a clean shutdown tells nobody");
    for n in 1..=2 {
        let torn = disk.crash(0);
        let (store, _) = open(&torn);
        torn.set_faults(Faults { power_off_at_flush: n, ..Faults::default() });
        assert!(block_on(store.verdict_is_known()).is_err());
        open(&torn.crash(n));
    }
    let disk = disk.crash(0);
    drop(store);
    let (store, _) = open(&disk);
    block_on(store.verdict_is_known()).unwrap();
    let writes = disk.counts().writes;
    block_on(store.verdict_is_known()).unwrap();
    assert_eq!(disk.counts().writes, writes, "there is nothing left to forget");
    let (store, recovered) = open(&disk.crash(0));
    assert!(recovered.intact);
    assert!(store.inventory(GROUP, None, 9).0.iter().all(|entry| entry.suspect));
}

#[test]
fn data_that_was_not_written_makes_the_last_version_suspect() {
    let (disk, store) = fresh(12);
    with_store(&store, async {
        store.write(Put::new(5, 1, pattern(1, 16384)).op(&disk)).await.unwrap();
        store.commit_through(GROUP, version(1));
        let next = Put { base: version(1), mutation: true, ..Put::new(5, 2, pattern(2, 16384)) };
        store.write(next.op(&disk)).await.unwrap();
    });
    let disk = disk.crash(0);
    let wanted = pattern(2, 4096);
    let place = (6 << 20..SIZE).step_by(4096).find(|at| disk.peek(*at, 4096) == wanted).unwrap();
    disk.poke(place, &[0; 4096]);
    let (store, recovered) = open(&disk);
    assert_eq!((recovered.intact, recovered.suspects), (true, 1));
    with_store(&store, async {
        // The committed version is as good as it was; the suspect one is not even half good.
        assert_eq!(read_committed(&store, 5, 0, 16384).await.unwrap(), pattern(1, 16384));
        assert_eq!(read_all(&store, 5).await, Err(StoreError::Suspect));
        assert_eq!(store.verify(GROUP, key(5)).await.unwrap().bad_cells, [0]);
        let info = store.info(GROUP, key(5)).unwrap();
        assert_eq!((info.suspect, info.committed_suspect), (true, false));
        assert_eq!(info.committed, Some((version(1), 16384)));
        assert_eq!(store.suspects(GROUP), [(key(5), version(2))]);
        assert_eq!(store.pendings(GROUP), [], "it does not count as held");
        let more = Put { base: version(2), offset: 16384, ..Put::new(5, 3, pattern(3, 100)) };
        assert_eq!(store.write(more.op(&disk)).await, Err(StoreError::Suspect));
        store.discard(GROUP, &[(key(5), version(2))]).await.unwrap();
        assert_eq!(read_all(&store, 5).await.unwrap(), pattern(1, 16384));
        assert_eq!(store.suspects(GROUP), []);
    });
}

#[test]
fn a_suspect_version_is_replaced_by_a_whole_chunk_and_stays_suspect_until_then() {
    let (disk, store) = fresh(20);
    with_store(&store, async {
        for (counter, offset) in [(1, 0), (2, 16384)] {
            let base = if counter == 1 { Version::ZERO } else { version(1) };
            let put = Put { base, offset, ..Put::new(5, counter, pattern(1, 16384)) };
            store.write(put.op(&disk)).await.unwrap();
        }
        store.commit_through(GROUP, version(1));
        store.mark_suspect(GROUP, key(5), version(1));
        store.mark_suspect(GROUP, key(5), version(9));
        let info = store.info(GROUP, key(5)).unwrap();
        assert_eq!((info.suspect, info.committed_suspect), (false, true));
        assert_eq!(read_all(&store, 5).await.unwrap().len(), 2 * 16384, "the pending is good");
        let committed = read_committed(&store, 5, 0, 16384).await;
        assert_eq!(committed, Err(StoreError::Suspect));
        store.mark_suspect(GROUP, key(5), version(2));
        store.write(Put::new(6, 3, pattern(3, 100)).op(&disk)).await.unwrap();
    });
    let disk = disk.crash(0);
    let (store, recovered) = open(&disk);
    assert!(recovered.intact);
    let both = [(key(5), version(1)), (key(5), version(2))];
    assert_eq!(store.suspects(GROUP), both, "the marks are in the journal");
    with_store(&store, async {
        let mode = ReadMode { newest: true, verify: false, suspect: true };
        let out = store.read(GROUP, key(5), 16384, 100, mode).await.unwrap();
        assert_eq!(out.payload.to_vec(), pattern(1, 16384), "cells are checked one by one");
        let write = Put::new(5, 2, pattern(4, 20_000)).op(&disk);
        let whole = InstallOp { write, ops: vec![], mutated: false, committed: false };
        store.install(whole).await.unwrap();
        assert_eq!(read_all(&store, 5).await.unwrap(), pattern(4, 20_000));
        assert_eq!(store.suspects(GROUP), [(key(5), version(1))]);
        store.commit_through(GROUP, version(2));
        assert_eq!(store.suspects(GROUP), []);
        assert_eq!(read_committed(&store, 5, 0, 20_000).await.unwrap(), pattern(4, 20_000));
        assert!(store.space_equals_index());
    });
}

#[test]
fn rot_of_cells_and_descriptors_is_detected() {
    let (disk, store) = fresh(13);
    let bytes = pattern(1, 400_000);
    with_store(&store, async {
        store.write(Put::new(5, 1, bytes.clone()).op(&disk)).await.unwrap();
        store.commit_through(GROUP, version(1));
        store.close().await.unwrap();
    });
    let find = |start: &[u8]| {
        let at = (6 << 20..SIZE).step_by(4096).find(|at| disk.peek(*at, start.len()) == start);
        at.unwrap()
    };
    let data = find(&bytes[3 * 16384..3 * 16384 + 100]);
    let page = find(b"lanedesc");
    disk.rot(data + 77, 1);
    let (store, _) = open(&disk);
    with_store(&store, async {
        assert_eq!(store.verify(GROUP, key(5)).await.unwrap().bad_cells, [3]);
        assert_eq!(read_all(&store, 5).await, Err(StoreError::Corrupt { cell: 3 }));
        assert_eq!(read_committed(&store, 5, 0, 16384).await.unwrap(), bytes[..16384]);
        // Overwriting a part of the bad cell must not give its rest a good checksum.
        let put = Put {
            base: version(1),
            offset: 3 * 16384 + 5,
            mutation: true,
            ..Put::new(5, 2, pattern(2, 10))
        };
        let refused = store.write(put.op(&disk)).await;
        assert_eq!(refused, Err(StoreError::Corrupt { cell: 3 }));
    });
    disk.rot(page + 200, 1);
    let (store, _) = open(&disk);
    with_store(&store, async {
        assert_eq!(read_all(&store, 5).await, Err(StoreError::Corrupt { cell: 0 }));
        assert_eq!(read_all(&store, 5).await, Err(StoreError::Suspect), "and is known from now on");
        assert!(store.verify(GROUP, key(5)).await.is_err());
        assert_eq!(store.suspects(GROUP), [(key(5), version(1))]);
    });
}

#[test]
fn one_damaged_checkpoint_costs_only_replay() {
    let (disk, store) = fresh(14);
    with_store(&store, async {
        store.write(Put::new(1, 1, pattern(1, 9000)).op(&disk)).await.unwrap();
        store.close().await.unwrap();
    });
    let (store, _) = open(&disk);
    with_store(&store, async {
        store.write(Put::new(2, 2, pattern(2, 9000)).op(&disk)).await.unwrap();
        store.close().await.unwrap();
    });
    // The first close wrote area B, the second area A.
    disk.rot(5 << 20, 1);
    let (store, recovered) = open(&disk);
    assert!(recovered.intact);
    assert_eq!(versions(&store), [1, 2]);
    let disk = disk.crash(0);
    disk.rot(6 << 20, 1);
    let (store, recovered) = open(&disk);
    assert_eq!((recovered.intact, versions(&store)), (true, vec![1, 2]));
    let disk = disk.crash(0);
    disk.rot(5 << 20, 2);
    disk.rot(6 << 20, 2);
    let (_, recovered) = open(&disk);
    assert!(!recovered.intact, "both are gone");
}

#[test]
fn two_superblocks_are_enough_and_one_is_not() {
    let (disk, store) = fresh(15);
    with_store(&store, async { store.close().await.unwrap() });
    for (lost, opens) in [(vec![0, 1], true), (vec![1, 2], true), (vec![0, 1, 3], false)] {
        let copy = disk.crash(0);
        lost.iter().for_each(|at| copy.rot((at << 20) + 40, 1));
        let opened = block_on(Store::open(Rc::new(copy), &options()));
        assert_eq!(opened.is_ok(), opens, "{lost:?}");
    }
}

#[test]
fn a_foreign_or_unknown_container_is_refused_in_one_line() {
    let disk = formatted(SIZE, 16);
    let refused = |disk: &MemoryDisk, options: &FormatOptions| {
        let opened = block_on(Store::open(Rc::new(disk.clone()), options));
        match opened.err() {
            Some(StoreError::Open(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    let cluster = FormatOptions { cluster: ClusterId(8), ..options() };
    let node = FormatOptions { node: NodeId(2), ..options() };
    let target = FormatOptions { target: TargetId(102), ..options() };
    for other in [cluster, node, target] {
        assert!(refused(&disk, &other).contains("correct the path"), "{other:?}");
    }
    assert!(refused(&MemoryDisk::new(1 << 20, 0), &options()).contains("too small"));
    assert!(refused(&MemoryDisk::new(SIZE, 0), &options()).contains("no two equal superblocks"));
    let formatted_twice = block_on(Store::format(&disk, &options()));
    assert!(matches!(formatted_twice, Err(StoreError::Open(_))));
    let truncated = MemoryDisk::new(SIZE - 4096, 0);
    (0..4).for_each(|copy| truncated.poke(copy << 20, &disk.peek(copy << 20, 4096)));
    assert!(refused(&truncated, &options()).contains("restore its full size"));
    for copy in 0..4 {
        disk.rot((copy << 20) + 8, 1);
    }
    assert!(refused(&disk, &options()).contains("layout version 3"));
}

#[test]
fn a_flush_error_fences_for_good_and_is_told_at_the_next_open() {
    let (disk, store) = fresh(18);
    with_store(&store, async {
        store.write(Put::new(1, 1, pattern(1, 5000)).op(&disk)).await.unwrap();
        disk.set_faults(Faults { flush_error: 1, ..Faults::default() });
        let failed = store.write(Put::new(2, 2, pattern(2, 5000)).op(&disk)).await;
        assert_eq!(failed, Err(StoreError::Fenced));
        assert!(store.fenced());
        let later = store.write(Put::new(3, 3, pattern(3, 5000)).op(&disk)).await;
        assert_eq!(later, Err(StoreError::Fenced));
        assert_eq!(read_all(&store, 1).await.unwrap(), pattern(1, 5000));
        assert_eq!(store.close().await, Err(StoreError::Fenced));
    });
    let (store, recovered) = open(&disk.crash(0));
    assert!(recovered.previous_fence.is_some_and(|reason| reason.contains("flush")));
    assert_eq!((versions(&store), store.fenced()), (vec![1], false));
}

#[test]
fn freed_cells_are_not_reused_before_the_change_is_durable() {
    let (disk, store) = fresh(19);
    let free = |store: &Store<MemoryDisk>| store.free_now();
    with_store(&store, async {
        store.write(Put::new(1, 1, pattern(1, 16384)).op(&disk)).await.unwrap();
        store.commit_through(GROUP, version(1));
        let change = Put { base: version(1), mutation: true, ..Put::new(1, 2, pattern(2, 16384)) };
        store.write(change.op(&disk)).await.unwrap();
        let before = free(&store);
        store.commit_through(GROUP, version(2));
        // The end of a read looks for space that can be given back.
        assert_eq!(read_all(&store, 1).await.unwrap(), pattern(2, 16384));
        assert_eq!(free(&store), before, "the mark is in memory only");
        let other = Put { base: Version::ZERO, ..Put::new(2, 3, pattern(3, 16384)) };
        store.write(other.op(&disk)).await.unwrap();
        assert_eq!(free(&store), before, "16 KiB came back, 16 KiB were taken");
    });
}
