//! What keeps a target's bytes over time: what is set aside, totals and digests, full targets.

use node::io::Nanos;
use node::io::memory::MemoryDisk;
use node::limits::{AUDIT_WINDOW_UNITS, FREES_ONLY_PERCENT, QUARANTINE_TIME_S};
use node::store::{DeviceTimes, Fullness, QuarantineSize, Store, StoreError};
use protocol::ids::{Epoch, Fid, GroupId, Version};

use crate::store_support::*;

const NOW_S: u64 = 1_800_000_000;

async fn put(store: &Store<MemoryDisk>, disk: &MemoryDisk, fid: u64, counter: u32, len: usize) {
    let put = Put::new(fid, counter, pattern(u64::from(counter), len));
    store.write(put.op(disk)).await.unwrap();
    store.commit_through(GROUP, version(counter));
}

fn allocated(store: &Store<MemoryDisk>) -> u64 {
    store.groups().iter().map(|(group, _)| store.allocated(*group)).sum()
}

#[test]
fn what_is_set_aside_is_counted_kept_for_its_time_and_then_freed() {
    let (disk, store) = fresh(50);
    with_store(&store, async {
        for fid in 1..=4 {
            put(&store, &disk, fid, fid as u32, 16_384).await;
        }
        let free = store.free();
        store.quarantine(GROUP, &[key(1), key(2), key(9)], NOW_S).await.unwrap();
        store.quarantine(GROUP, &[key(1), key(3)], NOW_S + 100).await.unwrap();
        assert_eq!(store.quarantine_size(), QuarantineSize { chunks: 3, bytes: 3 * 16_384 });
        assert_eq!(store.free(), free);
        store.close().await.unwrap();
    });
    // The checkpoint holds it, and so does the journal.
    let (store, _) = open(&disk);
    with_store(&store, async {
        store.quarantine(GROUP, &[key(4)], NOW_S + 200).await.unwrap();
    });
    let (store, _) = open(&disk.crash(0));
    let since = |store: &Store<MemoryDisk>| {
        let (page, more) = store.quarantined(None, 10);
        assert!(!more);
        page.iter().map(|have| (have.key.fid.0, have.since_s - NOW_S)).collect::<Vec<_>>()
    };
    assert_eq!(since(&store), [(1, 0), (2, 0), (3, 100), (4, 200)]);
    let (page, more) = store.quarantined(Some((GROUP, key(1))), 2);
    assert_eq!((page.len(), page[0].bytes, more), (2, 16_384, true));
    with_store(&store, async {
        let all = [Fid(1), Fid(2), Fid(3), Fid(4)];
        let release = |now_s| store.release_quarantined(GROUP, &all, now_s);
        assert_eq!(release(0).await, Ok(0));
        assert_eq!(release(NOW_S + QUARANTINE_TIME_S - 1).await, Ok(0));
        assert_eq!(release(NOW_S + QUARANTINE_TIME_S).await, Ok(2));
        assert_eq!(since(&store), [(3, 100), (4, 200)]);
        store.drop_fids(GROUP, &[Fid(4)]).await.unwrap();
        assert_eq!(since(&store), [(3, 100)], "a file known to be dead is not waited for");
        assert!(store.space_equals_index());
        assert_eq!((allocated(&store), store.chunks()), (16_384, 1));
    });
}

#[test]
fn a_chunk_that_comes_back_leaves_quarantine_and_old_bytes_stay_behind() {
    let (disk, store) = fresh(51);
    with_store(&store, async {
        put(&store, &disk, 1, 1, 16_384).await;
        put(&store, &disk, 2, 2, 16_384).await;
        store.quarantine(GROUP, &[key(1), key(2)], NOW_S).await.unwrap();
        let begun = Put::new(1, 3, pattern(3, 5000));
        store.write(begun.op(&disk)).await.unwrap();
        // The version that was set aside must not be served under the new one.
        assert_eq!(read_committed(&store, 1, 0, 5000).await, Err(StoreError::Dirty));
        let write = Put::new(2, 4, pattern(4, 5000)).op(&disk);
        let whole =
            node::store::InstallOp { write, ops: Vec::new(), mutated: false, committed: true };
        store.install(whole).await.unwrap();
        assert_eq!(store.quarantine_size(), QuarantineSize::default());
        assert_eq!(read_all(&store, 2).await.unwrap(), pattern(4, 5000));
        assert!(store.space_equals_index());
    });
}

#[test]
fn digests_are_equal_exactly_when_the_committed_chunks_are() {
    let ((disk_a, a), (disk_b, b)) = (fresh(52), fresh(53));
    with_store(&a, async {
        for (fid, counter) in [(1, 1), (2, 2), (3, 3)] {
            put(&a, &disk_a, fid, counter, 100_000).await;
        }
        let change = Put { base: version(1), mutation: true, ..Put::new(1, 4, pattern(4, 20_000)) };
        a.write(change.op(&disk_a)).await.unwrap();
    });
    with_store(&b, async {
        // Another order, and the mutated chunk as a whole.
        for (fid, counter) in [(3, 3), (2, 2), (1, 1)] {
            let put = Put::new(fid, counter, pattern(u64::from(counter), 100_000));
            b.write(put.op(&disk_b)).await.unwrap();
        }
        b.commit_through(GROUP, version(3));
    });
    let (of_a, of_b) = (a.digest(GROUP), b.digest(GROUP));
    assert_eq!((of_a.chunks, of_a.pendings, of_a.committed_through), (3, 1, version(3)));
    assert_eq!((of_a.hash, of_b.pendings), (of_b.hash, 0));
    with_store(&a, async { a.commit_through(GROUP, version(4)) });
    assert_ne!(a.digest(GROUP).hash, b.digest(GROUP).hash);
    with_store(&b, async {
        let bytes = [pattern(4, 20_000), pattern(1, 100_000)[20_000..].to_vec()].concat();
        let write = Put::new(1, 4, bytes).op(&disk_b);
        let whole =
            node::store::InstallOp { write, ops: Vec::new(), mutated: true, committed: true };
        b.install(whole).await.unwrap();
        b.commit_through(GROUP, version(4));
        assert_eq!(a.digest(GROUP), b.digest(GROUP));
        b.quarantine(GROUP, &[key(2)], NOW_S).await.unwrap();
        assert_eq!(b.digest(GROUP).chunks, 2);
        assert_ne!(a.digest(GROUP).hash, b.digest(GROUP).hash);
        b.close().await.unwrap();
    });
    let (again, _) = open(&disk_b);
    assert_eq!(again.digest(GROUP), b.digest(GROUP), "recovery finds the same");
    assert_eq!(again.digest(GroupId(77)), node::store::GroupDigest::default());
}

#[test]
fn a_full_target_refuses_writes_takes_deletes_and_opens_again() {
    let (disk, store) = fresh(54);
    let refused = with_store(&store, async {
        let mut counter = 0;
        loop {
            counter += 1;
            let put = Put::new(u64::from(counter), counter, pattern(1, 200_000));
            match store.write(put.op(&disk)).await {
                Ok(_) => store.commit_through(GROUP, version(counter)),
                Err(error) => break (error, counter),
            }
        }
    });
    assert_eq!(refused.0, StoreError::NoSpace);
    let used = store.capacity() - store.free();
    assert!((used + 212_992) * 100 >= store.capacity() * FREES_ONLY_PERCENT, "{used}");
    assert_eq!(store.fullness(), Fullness::Full);
    assert!(store.free() > 212_992, "space alone would have sufficed");
    let disk = disk.crash(0);
    let (store, recovered) = open(&disk);
    assert!(recovered.intact);
    with_store(&store, async {
        let again = Put::new(900, 900, pattern(9, 200_000));
        assert_eq!(store.write(again.op(&disk)).await, Err(StoreError::NoSpace));
        store.adopt(GROUP, Epoch(2)).await.unwrap();
        store.discard(GROUP, &[(key(1), version(1))]).await.unwrap();
        store.drop_fids(GROUP, &[Fid(1), Fid(2), Fid(3)]).await.unwrap();
        store.write(again.op(&disk)).await.unwrap();
    });
}

#[test]
fn a_target_without_one_free_unit_takes_deletes_checkpoints_and_opens_again() {
    const LEN: usize = 8 * 4096;
    let (disk, store) = fresh(55);
    with_store(&store, async {
        let mut last = 0;
        loop {
            let put = Put { cell_log2: 12, ..Put::new(last + 1, last as u32 + 1, pattern(1, LEN)) };
            match store.write(put.op(&disk)).await {
                Ok(_) => last += 1,
                Err(error) => break assert_eq!(error, StoreError::NoSpace),
            }
            store.commit_through(GROUP, version(last as u32));
        }
        // The last percent is for cuts, each of which takes a cell until it is committed.
        for fid in (1..=last).rev() {
            let cut = Put::truncate(fid, 10_000 + fid as u32, LEN as u32 - 1);
            let cut = Put { base: version(fid as u32), cell_log2: 12, ..cut };
            if store.write(cut.op(&disk)).await.is_err() {
                break;
            }
        }
        assert_eq!(store.free(), 0);
        store.close().await.unwrap();
    });
    let (store, recovered) = open(&disk);
    assert_eq!((recovered.intact, store.free()), (true, 0));
    with_store(&store, async {
        store.adopt(GROUP, Epoch(2)).await.unwrap();
        assert_eq!(read_all(&store, 1).await.unwrap(), pattern(1, LEN));
        store.quarantine(GROUP, &[key(1)], NOW_S).await.unwrap();
        store.drop_fids(GROUP, &[Fid(1)]).await.unwrap();
        assert!(store.free() >= LEN as u64 && store.space_equals_index());
        assert_eq!(allocated(&store) + store.free(), store.capacity());
        store.close().await.unwrap();
    });
    assert_eq!(open(&disk).0.free(), store.free());
    assert_eq!(store.info(GROUP, key(1)), None);
    assert_ne!(store.info(GROUP, key(2)).unwrap().version, Version::ZERO);
}

#[test]
fn the_check_of_space_is_exact_while_the_store_works() {
    // Two windows: the first holds the data, the other the descriptor pages.
    let disk = formatted((AUDIT_WINDOW_UNITS + 50_000) * 4096, 56);
    let (store, _) = open(&disk);
    with_store(&store, async {
        let mut windows = Vec::new();
        let mut passes = 0;
        for counter in 1..400u32 {
            let fid = u64::from(counter % 37);
            let base = if counter > 37 { version(counter - 37) } else { Version::ZERO };
            let bytes = pattern(u64::from(counter), 150_000);
            let put = Put { base, mutation: counter > 37, ..Put::new(fid, counter, bytes) };
            store.write(put.op(&disk)).await.unwrap();
            store.commit_through(GROUP, version(counter));
            if let Some(check) = store.check_space(5) {
                assert_eq!((check.leaked, check.doubly_used), (0, 0), "after {counter}");
                windows.push(check.last);
                passes += u32::from(check.last);
            }
        }
        assert!(passes >= 10, "{passes}");
        assert_eq!(windows[..4], [false, true, false, true]);
        assert!(store.space_equals_index());
    });
}

#[test]
fn files_of_a_group_are_told_a_few_at_a_time_without_those_set_aside() {
    let (disk, store) = fresh(51);
    with_store(&store, async {
        for fid in 1..=5 {
            put(&store, &disk, fid, fid as u32, 16_384).await;
        }
        store.quarantine(GROUP, &[key(3)], NOW_S).await.unwrap();
        assert_eq!(store.files(GROUP, 2), [Fid(1), Fid(2)]);
        assert_eq!(store.files(GROUP, 10), [Fid(1), Fid(2), Fid(4), Fid(5)]);
        assert_eq!(store.files(GroupId(77), 10), []);
        store.drop_fids(GROUP, &store.files(GROUP, 10)).await.unwrap();
        assert_eq!((store.files(GROUP, 10), allocated(&store)), (vec![], 16_384));
    });
}

#[test]
fn device_times_are_taken_with_the_clock_that_the_store_was_given() {
    let (disk, store) = fresh(52);
    with_store(&store, async {
        put(&store, &disk, 1, 1, 16_384).await;
        assert_eq!(store.device_times(), DeviceTimes::default(), "nobody gave it a clock");
        let ms = std::rc::Rc::new(std::cell::Cell::new(0));
        store.measure(move || {
            ms.set(ms.get() + 2); // Each look at the clock takes two milliseconds.
            Nanos::from_ms(ms.get())
        });
        put(&store, &disk, 2, 2, 16_384).await;
        let times = store.device_times();
        assert!(times.transfers >= 2, "data and journal: {times:?}");
        assert!(times.transfer_p99_us >= 2000 && times.flush_p99_us >= 2000, "{times:?}");
    });
}
