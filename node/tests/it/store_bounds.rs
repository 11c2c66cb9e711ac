//! The bounds of one store, reached: it answers busy, goes on afterwards, and forgets nothing.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_lite::future::block_on;
use node::io::memory::MemoryDisk;
use node::limits::{CHUNK_RUNS_MAX, STORE_WRITES_MAX};
use node::store::{Durable, Store, StoreError};
use protocol::checksum::sum64;
use protocol::ids::{Fid, GroupId, Version};
use protocol::limits::PENDINGS_PER_GROUP_MAX;

use crate::store_support::*;

type Write<'a> = Pin<Box<dyn Future<Output = Result<Durable, StoreError>> + 'a>>;

/// Lets a future go as far as it can by itself.
fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn writes_under_way_are_bounded_and_free_their_places() {
    let (disk, store) = fresh(30);
    let put = Put::new(5, 1, pattern(1, 100));
    // All wait for their turn at one chunk, because nothing flushes.
    let mut writes: Vec<Write<'_>> = Vec::new();
    for _ in 0..STORE_WRITES_MAX {
        let mut write: Write<'_> = Box::pin(store.write(put.op(&disk)));
        assert!(poll_once(write.as_mut()).is_pending());
        writes.push(write);
    }
    let mut more: Write<'_> = Box::pin(store.write(Put::new(6, 2, pattern(2, 100)).op(&disk)));
    assert_eq!(poll_once(more.as_mut()), Poll::Ready(Err(StoreError::Busy)));
    drop(writes);
    with_store(&store, async {
        store.write(Put::new(7, 3, pattern(3, 100)).op(&disk)).await.unwrap();
    });
}

#[test]
fn pendings_of_a_group_are_bounded_until_they_are_committed() {
    let disk = formatted(512 << 20, 31);
    let (store, _) = open(&disk);
    let put = |fid: u32| Put::new(u64::from(fid), fid, pattern(u64::from(fid), 100));
    let last = PENDINGS_PER_GROUP_MAX as u32;
    with_store(&store, async {
        for fid in 1..=last {
            store.write(put(fid).op(&disk)).await.unwrap();
        }
        assert_eq!(store.write(put(last + 1).op(&disk)).await, Err(StoreError::Busy));
        let mut elsewhere = put(last + 1).op(&disk);
        elsewhere.group = GroupId(9);
        store.write(elsewhere).await.unwrap();
        store.commit_through(GROUP, version(1));
        store.write(put(last + 2).op(&disk)).await.unwrap();
        assert_eq!(store.pendings(GROUP).len(), PENDINGS_PER_GROUP_MAX);
    });
}

/// LSN and journal position of the newer checkpoint, and the journal's length.
pub(crate) fn checkpoint(disk: &MemoryDisk) -> (u64, u64, u64) {
    const JOURNAL_SIZE_AT: usize = 96;
    const SLOTS_AT: [usize; 2] = [136, 192];
    let copies: Vec<Vec<u8>> = (0..4).map(|copy| disk.peek(copy << 20, 4096)).collect();
    let field = |copy: &[u8], at: usize| u64::from_le_bytes(*copy[at..].first_chunk().unwrap());
    let slots = copies.iter().flat_map(|copy| SLOTS_AT.map(|at| (&copy[..], at)));
    let newest = slots.map(|(copy, at)| (field(copy, at), field(copy, at + 32))).max().unwrap();
    (newest.0, newest.1, field(&copies[0], JOURNAL_SIZE_AT))
}

#[test]
fn the_journal_goes_round_and_a_checkpoint_lets_it() {
    let (disk, store) = fresh(33);
    let rounds = 1_500;
    with_store(&store, async {
        for counter in 1..=rounds {
            let base = if counter == 1 { Version::ZERO } else { version(counter - 1) };
            let bytes = pattern(u64::from(counter), 3000);
            let put = Put { base, mutation: counter > 1, ..Put::new(5, counter, bytes) };
            store.write(put.op(&disk)).await.unwrap();
            store.commit_through(GROUP, version(counter));
        }
    });
    let (lsn, position, journal) = checkpoint(&disk);
    assert!(lsn > 0, "a checkpoint was made");
    assert!(position > 2 * journal, "{position} bytes in a ring of {journal}");
    let (again, recovered) = open(&disk.crash(0));
    assert!(recovered.intact);
    with_store(&again, async {
        assert_eq!(read_all(&again, 5).await.unwrap(), pattern(u64::from(rounds), 3000));
    });
}

#[test]
fn unknown_features_are_refused_unless_they_may_be_ignored() {
    const SUM_AT: usize = 376;
    let features = [(16, true), (24, false), (32, false)];
    for (at, opens) in features {
        let disk = formatted(SIZE, 35);
        for copy in 0..4 {
            let mut bytes = disk.peek(copy << 20, 4096);
            bytes[at + 7] = 0x40;
            let sum = sum64(&bytes[..SUM_AT]);
            bytes[SUM_AT..SUM_AT + 8].copy_from_slice(&sum.to_le_bytes());
            disk.poke(copy << 20, &bytes);
        }
        match block_on(Store::open(Rc::new(disk), &options())) {
            Ok(_) => assert!(opens, "features at {at}"),
            Err(StoreError::Open(text)) => {
                assert!(!opens && text.contains("format features 0x4000000000000000"), "{text}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_chunk_in_too_many_runs_is_put_together() {
    // Two cells at a time: a single unit could go where a descriptor page was.
    const STEP: usize = 2 * 4096;
    const HOLES: u32 = CHUNK_RUNS_MAX as u32 + 8;
    let (disk, store) = fresh(38);
    let small = |file: u32| {
        let put = Put::new(u64::from(100 + file), file, pattern(u64::from(file), STEP));
        Put { cell_log2: 12, ..put }
    };
    let append = |step: u32| {
        let first = 2 * HOLES + 1;
        let base = if step == 0 { Version::ZERO } else { version(first + step - 1) };
        let put = Put::new(5, first + step, pattern(u64::from(step), STEP));
        Put { base, offset: step * STEP as u32, cell_log2: 12, expect_len: 0, ..put }
    };
    with_store(&store, async {
        // Of files that lie next to each other every second one goes.
        for file in 1..=2 * HOLES {
            store.write(small(file).op(&disk)).await.unwrap();
            store.commit_through(GROUP, version(file));
        }
        let gone: Vec<Fid> = (1..=HOLES).map(|file| Fid(u64::from(100 + 2 * file))).collect();
        store.drop_fids(GROUP, &gone).await.unwrap();
        let mut copied = Vec::new();
        for step in 0..CHUNK_RUNS_MAX as u32 {
            let (put, before) = (append(step), store.bytes_copied());
            store.write(put.op(&disk)).await.unwrap();
            store.commit_through(GROUP, version(put.counter));
            copied.push((store.bytes_copied() - before) as usize);
        }
        let rewrites: Vec<usize> = (0..copied.len()).filter(|step| copied[*step] > 0).collect();
        let [rewrite] = rewrites[..] else { panic!("one write rewrites, not {rewrites:?}") };
        assert!(rewrite > CHUNK_RUNS_MAX - 16, "step {rewrite}");
        assert_eq!(copied[rewrite], (rewrite + 1) * STEP, "the whole chunk");
        for (step, bytes) in read_all(&store, 5).await.unwrap().chunks(STEP).enumerate() {
            assert_eq!(bytes, pattern(step as u64, STEP), "step {step}");
        }
    });
}
