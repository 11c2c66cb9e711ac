//! The journal damaged at every place: what was durable is reported, what was torn is cut.

use std::future::poll_fn;
use std::task::Poll;

use node::io::memory::MemoryDisk;
use node::io::memory::disk::Faults;
use node::store::{InstallOp, Store};
use protocol::ids::{Epoch, Fid};

use crate::store_support::*;

const JOURNAL: std::ops::Range<u64> = 4 << 20..5 << 20;
const SECTOR: usize = 512;

/// Where the batches start, ascending.
fn batches(disk: &MemoryDisk) -> Vec<u64> {
    let magic = |at: &u64| &disk.peek(*at, 8)[..] == b"lanejrnl";
    JOURNAL.step_by(4096).filter(magic).collect()
}

/// Bytes of the batch at `at`, header and records.
fn len_of(disk: &MemoryDisk, at: u64) -> usize {
    let header = disk.peek(at, 96);
    96 + u32::from_le_bytes(*header[72..].first_chunk().unwrap()) as usize
}

/// A target with one batch of every kind of record, never closed, and the versions it holds.
fn every_record() -> (MemoryDisk, Vec<(u64, u32)>) {
    let (disk, store) = fresh(50);
    with_store(&store, async {
        let write = async |put: Put| {
            store.write(put.op(&disk)).await.unwrap();
        };
        for fid in 1..=6 {
            write(Put::new(fid, fid as u32, pattern(fid, 9000))).await;
        }
        store.commit_through(GROUP, version(6));
        let change = Put { offset: 100, mutation: true, ..Put::new(1, 7, pattern(7, 50)) };
        write(Put { base: version(1), ..change }).await;
        write(Put { base: version(2), ..Put::truncate(2, 8, 5000) }).await;
        write(Put { base: version(3), ..Put::truncate(3, 9, 1 << 20) }).await;
        let whole = |committed| InstallOp {
            write: Put::new(4, 10, pattern(10, 200_000)).op(&disk),
            ops: vec![],
            mutated: true,
            committed,
        };
        store.install(whole(false)).await.unwrap();
        store.install(whole(true)).await.unwrap();
        write(Put { base: version(5), offset: 9000, ..Put::new(5, 11, pattern(11, 10)) }).await;
        store.discard(GROUP, &[(key(5), version(11))]).await.unwrap();
        store.adopt(GROUP, Epoch(2)).await.unwrap();
        store.mark_suspect(GROUP, key(1), version(7));
        store.drop_fids(GROUP, &[Fid(6)]).await.unwrap();
        write(Put::new(7, 12, pattern(12, 100))).await;
        write(Put::new(8, 13, pattern(13, 100))).await;
    });
    (disk.crash(0), vec![(1, 7), (2, 8), (3, 9), (4, 10), (5, 5), (7, 12), (8, 13)])
}

fn held(store: &Store<MemoryDisk>) -> Vec<(u64, u32)> {
    let entries = store.inventory(GROUP, None, 1000).0;
    entries.iter().map(|entry| (entry.key.fid.0, entry.version.counter)).collect()
}

#[test]
fn a_flipped_bit_of_any_durable_batch_is_reported_and_nothing_else_is_lost() {
    let (disk, expected) = every_record();
    let (store, recovered) = open(&disk.crash(0));
    assert!(recovered.intact);
    assert_eq!(held(&store), expected);
    let batches = batches(&disk);
    assert!(batches.len() > 15, "{} batches", batches.len());
    // A few positions of each batch in every test run, all of them when asked for.
    let step = if std::env::var_os("LANEFS_SEEDS").is_some() { 1 } else { 23 };
    for (number, &batch) in batches[..batches.len() - 1].iter().enumerate() {
        for at in (number % step..len_of(&disk, batch)).step_by(step) {
            let copy = disk.crash(0);
            copy.rot(batch + at as u64, 1 << (at % 8));
            let what = format!("batch {number}, byte {at}");
            let (store, recovered) = open(&copy);
            assert!(!recovered.intact, "{what}");
            // Nothing that another batch recorded is gone, and nothing is trusted.
            let held = held(&store);
            let missing = expected.iter().filter(|(fid, _)| held.iter().all(|have| have.0 != *fid));
            assert!(missing.count() <= 1, "{what}: {held:?}");
            assert!(store.inventory(GROUP, None, 100).0.iter().all(|entry| entry.suspect));
            assert!(store.space_equals_index(), "{what}");
            assert_eq!(store.groups()[0].0, GROUP, "{what}");
        }
    }
}

#[test]
fn a_journal_is_read_in_long_transfers_and_in_short_ones_where_those_fail() {
    let (disk, expected) = every_record();
    let copy = disk.crash(0);
    let (_, recovered) = open(&copy);
    assert!(recovered.intact);
    let reads = copy.counts().reads;
    let batches = batches(&disk).len() as u64;
    assert!(reads <= batches / 2, "{reads} reads of {batches} batches");
    for failing in 1..=reads {
        let copy = disk.crash(0);
        copy.set_faults(Faults { read_error: failing, ..Faults::default() });
        let (store, recovered) = open(&copy);
        assert!(recovered.intact && recovered.suspects == 0, "read {failing}");
        assert_eq!(held(&store), expected, "read {failing}");
    }
}

#[test]
fn a_journal_that_cannot_be_read_is_not_taken_for_a_torn_one() {
    let (disk, expected) = every_record();
    let batches = batches(&disk);
    for (number, &page) in batches.iter().enumerate() {
        let copy = disk.crash(0);
        copy.set_faults(Faults { unreadable_page: page, ..Faults::default() });
        let (store, recovered) = open(&copy);
        assert!(!recovered.intact, "batch {number}");
        let held = held(&store);
        let missing = expected.iter().filter(|(fid, _)| held.iter().all(|have| have.0 != *fid));
        assert!(missing.count() <= 1, "batch {number}: {held:?}");
        assert!(store.inventory(GROUP, None, 100).0.iter().all(|entry| entry.suspect));
    }
}

/// A target whose last batch has many records, and where that batch lies.
fn with_long_tail(files: u32) -> (MemoryDisk, u64, usize) {
    let (disk, store) = fresh(51);
    with_store(&store, async {
        for counter in 1..=3 {
            let put = Put::new(u64::from(counter), counter, pattern(u64::from(counter), 9000));
            store.write(put.op(&disk)).await.unwrap();
        }
        // The first of them goes alone; the others meet in the batch after it.
        let writes = (10..10 + files).map(|counter| {
            let put = Put::new(u64::from(counter), counter, pattern(u64::from(counter), 100));
            Box::pin(store.write(put.op(&disk)))
        });
        let mut writes: Vec<_> = writes.collect();
        poll_fn(|context| {
            writes.retain_mut(|write| match write.as_mut().poll(context) {
                Poll::Ready(done) => done.is_err(),
                Poll::Pending => true,
            });
            if writes.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    });
    let disk = disk.crash(0);
    let last = *batches(&disk).last().unwrap();
    let len = len_of(&disk, last).next_multiple_of(4096);
    (disk, last, len)
}

#[test]
fn a_tail_of_many_pages_torn_at_any_sector_is_cut_whole() {
    let (disk, last, len) = with_long_tail(200);
    let whole = disk.peek(last, len);
    let used = len_of(&disk, last);
    assert!(len >= 3 * 4096, "the last batch has {len} bytes");
    let mut before = vec![];
    let tears: [fn(&mut [u8], usize); 3] = [
        |torn, sector| torn[sector * SECTOR..].fill(0),
        |torn, sector| torn[sector * SECTOR..(sector + 1) * SECTOR].fill(0),
        |torn, sector| torn[..sector * SECTOR].fill(0),
    ];
    for sector in 0..len / SECTOR {
        for (kind, tear) in tears.iter().enumerate() {
            let mut torn = whole.clone();
            tear(&mut torn, sector);
            let survives = torn[..used] == whole[..used];
            let copy = disk.crash(0);
            copy.poke(last, &torn);
            let what = format!("sector {sector}, tear {kind}");
            let (store, recovered) = open(&copy);
            assert!(recovered.intact && recovered.suspects == 0, "{what}");
            if before.is_empty() && !survives {
                before = held(&store);
                assert!(before.starts_with(&[(1, 1), (2, 2), (3, 3)]) && before.len() < 200);
            }
            let expected = if survives { 203 } else { before.len() };
            assert_eq!(held(&store).len(), expected, "{what}: all of it or nothing");
            assert!(store.space_equals_index(), "{what}");
            with_store(&store, async {
                let put = Put::new(300, 300, pattern(300, 9000));
                store.write(put.op(&copy)).await.unwrap();
            });
            let (store, recovered) = open(&copy.crash(0));
            assert!(recovered.intact, "{what}: what was torn does not come back");
            assert_eq!(held(&store).len(), expected + 1, "{what}");
        }
    }
}

#[test]
fn a_change_or_cut_whose_bytes_were_not_written_makes_only_itself_suspect() {
    let puts: [(Put, usize); 3] = [
        (Put { offset: 20_000, mutation: true, ..Put::new(5, 2, pattern(2, 5000)) }, 16384),
        (Put::truncate(5, 2, 20_000), 16384),
        (Put { offset: 200_000, mutation: true, ..Put::new(5, 2, pattern(2, 5000)) }, 196_608),
    ];
    for (put, cell_start) in puts {
        let (disk, store) = fresh(52);
        let mut model = Model::default();
        let first = Put::new(5, 1, pattern(1, 60_000));
        let put = Put { base: version(1), ..put };
        model.apply(&first);
        model.apply(&put);
        with_store(&store, async {
            store.write(first.op(&disk)).await.unwrap();
            store.commit_through(GROUP, version(1));
            store.write(put.op(&disk)).await.unwrap();
        });
        let disk = disk.crash(0);
        // The last place that holds the start of the changed cell is the new one.
        let newest = &model.newest(5).unwrap().1;
        let end = newest.len().min(cell_start + 4096);
        let wanted = &newest[cell_start..end];
        let old = &model.at(5, 1).unwrap();
        let old_cell = old.get(cell_start..).unwrap_or_default();
        let places: Vec<u64> = (6 << 20..SIZE)
            .step_by(4096)
            .filter(|at| disk.peek(*at, wanted.len()) == wanted)
            .collect();
        assert!(!places.is_empty());
        let place = *places.last().unwrap();
        assert!(old_cell.is_empty() || places.len() == 2 || !old_cell.starts_with(wanted));
        disk.poke(place, &[0; 4096]);
        let (store, recovered) = open(&disk);
        assert_eq!((recovered.intact, recovered.suspects), (true, 1), "{put:?}");
        assert_eq!(store.suspects(GROUP), [(key(5), version(2))]);
        with_store(&store, async {
            assert_eq!(read_committed(&store, 5, 0, 60_000).await.as_ref().ok(), model.at(5, 1));
            store.discard(GROUP, &[(key(5), version(2))]).await.unwrap();
            assert_eq!(read_all(&store, 5).await.as_ref().ok(), model.at(5, 1));
            assert!(store.space_equals_index());
        });
    }
}
