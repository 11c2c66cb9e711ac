//! Overwrites, writes after holes and truncations: the bytes, the sums, the space, the restart.

use node::io::memory::MemoryDisk;
use node::limits::CHUNK_RUNS_MAX;
use node::store::{InstallOp, ReadMode, Store, StoreError};
use protocol::checksum::cell_sum;
use protocol::ids::Version;

use crate::store_support::*;

/// One chunk and what it should hold.
struct Chunk<'a> {
    store: &'a Store<MemoryDisk>,
    disk: &'a MemoryDisk,
    model: Model,
    last: Version,
    cell_log2: u8,
}

impl<'a> Chunk<'a> {
    fn new(store: &'a Store<MemoryDisk>, disk: &'a MemoryDisk, cell_log2: u8) -> Chunk<'a> {
        Chunk { store, disk, model: Model::default(), last: Version::ZERO, cell_log2 }
    }

    fn bytes(&self) -> Vec<u8> {
        self.model.newest(5).map_or_else(Vec::new, |newest| newest.1.clone())
    }

    /// Carries a change out, on top of the last, and compares everything.
    async fn change(&mut self, put: Put) {
        let put = Put { base: self.last, cell_log2: self.cell_log2, ..put };
        self.model.apply(&put);
        let durable = self.store.write(put.op(self.disk)).await.unwrap();
        self.last = version(put.counter);
        let expected = self.bytes();
        assert_eq!(durable.chunk_len as usize, expected.len());
        self.check().await;
        self.store.commit_through(GROUP, self.last);
        let len = expected.len() as u32;
        assert_eq!(read_committed(self.store, 5, 0, len).await.unwrap(), expected);
    }

    async fn write(&mut self, offset: usize, len: usize) {
        let counter = self.last.counter + 1;
        let bytes = pattern(u64::from(counter), len);
        let expect_len = (offset + len) as u32;
        let put = Put::new(5, counter, bytes);
        self.change(Put { offset: offset as u32, expect_len, mutation: true, ..put }).await;
    }

    async fn truncate(&mut self, len: usize) {
        let counter = self.last.counter + 1;
        self.change(Put::truncate(5, counter, len as u32)).await;
    }

    /// Bytes, sums and hash are those of a chunk that was written at once.
    async fn check(&self) {
        let expected = self.bytes();
        assert_eq!(read_all(self.store, 5).await.unwrap(), expected);
        let verified = self.store.verify(GROUP, key(5)).await.unwrap();
        let cells = expected.chunks(1 << self.cell_log2).zip(0..);
        let sums: Vec<_> = cells.map(|(cell, number)| cell_sum(key(5), number, cell)).collect();
        assert_eq!((verified.sums, verified.bad_cells), (sums, vec![]));
        assert_eq!(self.hash(), hash_of(&expected, self.cell_log2));
        assert!(self.store.space_equals_index());
    }

    fn hash(&self) -> u64 {
        self.store.inventory(GROUP, None, 9).0[0].hash
    }
}

/// The hash of a chunk that another member was sent as a whole.
fn hash_of(bytes: &[u8], cell_log2: u8) -> u64 {
    let (disk, store) = fresh(99);
    with_store(&store, async {
        let put = Put { cell_log2, ..Put::new(5, 1, bytes.to_vec()) };
        let whole = InstallOp { write: put.op(&disk), ops: vec![], mutated: true, committed: true };
        store.install(whole).await.unwrap();
        store.inventory(GROUP, None, 9).0[0].hash
    })
}

#[test]
fn any_change_leaves_the_bytes_sums_and_hash_of_a_chunk_written_at_once() {
    for cell_log2 in [12u8, 14, 16] {
        let cell = 1usize << cell_log2;
        let (disk, store) = fresh(40 + u64::from(cell_log2));
        with_store(&store, async {
            let mut chunk = Chunk::new(&store, &disk, cell_log2);
            chunk.write(3 * cell + 10, 100).await; // A hole first.
            chunk.write(10, 20).await; // Into the hole.
            chunk.write(cell - 5, cell + 10).await; // A whole cell and two pieces.
            chunk.truncate(2 * cell + 7).await; // Cuts a cell with bytes.
            chunk.truncate(3 * cell).await; // Grows: zeros where bytes were cut.
            chunk.truncate(3 * cell).await; // Changes nothing.
            chunk.write(20 * cell + 1, 2 * cell).await; // More cells than fit the index.
            chunk.truncate(21 * cell).await; // Still more.
            chunk.write(5 * cell + 3, 9 * cell).await;
            chunk.truncate(7 * cell + 1).await; // Back to few.
            chunk.truncate(7 * cell).await; // At the end of a cell.
            chunk.truncate(0).await;
            chunk.truncate(30 * cell + 9).await; // Nothing but a hole.
            chunk.write(30 * cell + 9, 100).await;
            chunk.truncate(2 * cell + 100).await; // Cuts a hole.
        });
    }
}

#[test]
fn descriptor_pages_come_and_go_with_the_length() {
    const CELL: usize = 4096;
    let (disk, store) = fresh(44);
    with_store(&store, async {
        let mut chunk = Chunk::new(&store, &disk, 12);
        chunk.write(0, 600 * CELL).await; // Three pages.
        chunk.write(300 * CELL + 9, 5).await; // The second of them.
        chunk.truncate(512 * CELL).await; // At the end of the second.
        chunk.truncate(400 * CELL + 3).await; // In its middle.
        chunk.truncate(256 * CELL + 1).await; // It describes one cell.
        chunk.truncate(256 * CELL).await; // The first is as it was.
        chunk.truncate(700 * CELL).await; // Pages of holes.
        chunk.write(699 * CELL, CELL).await;
        chunk.truncate(9 * CELL).await; // The fewest with a page.
        chunk.truncate(8 * CELL).await; // The most without.
        chunk.truncate(0).await;
        assert_eq!(store.free(), store.capacity(), "an empty chunk takes no space");
    });
}

#[test]
fn an_empty_or_sparse_chunk_survives_journal_checkpoint_and_restart() {
    let (disk, store) = fresh(41);
    with_store(&store, async {
        for (fid, counter, len) in [(1, 1, 0), (2, 2, 100_000), (3, 3, 4 << 20)] {
            let put = Put { trunc_gen: 7, ..Put::truncate(fid, counter, len) };
            store.write(put.op(&disk)).await.unwrap();
        }
        let put = Put { base: version(3), offset: 3 << 20, ..Put::new(3, 4, pattern(4, 50)) };
        store.write(Put { mutation: true, ..put }.op(&disk)).await.unwrap();
        store.commit_through(GROUP, version(3));
    });
    let before = store.inventory(GROUP, None, 9);
    let check = |store: &std::rc::Rc<Store<MemoryDisk>>| {
        assert_eq!(store.inventory(GROUP, None, 9), before);
        assert!(store.space_equals_index());
        let empty = store.info(GROUP, key(1)).unwrap();
        assert_eq!((empty.version, empty.chunk_len, empty.trunc_gen), (version(1), 0, 7));
        assert_eq!((empty.mutated, empty.ops.len()), (false, 1), "nothing was changed");
        assert!(store.info(GROUP, key(2)).unwrap().mutated, "a hole is no growth");
        with_store(store, async {
            assert_eq!(read_all(store, 1).await.unwrap(), []);
            assert_eq!(read_all(store, 2).await.unwrap(), vec![0; 100_000]);
            let mut expected = vec![0; 4 << 20];
            expected[3 << 20..][..50].copy_from_slice(&pattern(4, 50));
            assert_eq!(read_all(store, 3).await.unwrap(), expected);
            assert_eq!(store.verify(GROUP, key(3)).await.unwrap().bad_cells, []);
        });
    };
    let (again, recovered) = open(&disk.crash(0));
    assert!(recovered.intact && recovered.suspects == 0);
    check(&again);
    let disk = disk.crash(0);
    let (again, _) = open(&disk);
    with_store(&again, async { again.close().await.unwrap() });
    check(&open(&disk).0);
}

#[test]
fn a_chain_of_pendings_may_mix_every_class() {
    let (disk, store) = fresh(42);
    with_store(&store, async {
        let mut model = Model::default();
        let puts = [
            Put::new(5, 1, pattern(1, 60_000)),
            Put { offset: 100, mutation: true, ..Put::new(5, 2, pattern(2, 30_000)) },
            Put::truncate(5, 3, 20_000),
            Put { offset: 20_000, ..Put::new(5, 4, pattern(4, 9000)) },
            Put { offset: 90_000, mutation: true, ..Put::new(5, 5, pattern(5, 70)) },
            Put::truncate(5, 6, 100_000),
        ];
        let mut last = Version::ZERO;
        for put in puts {
            let put = Put { base: last, ..put };
            last = version(put.counter);
            model.apply(&put);
            store.write(put.op(&disk)).await.unwrap();
            assert_eq!(Some(&read_all(&store, 5).await.unwrap()), model.at(5, put.counter));
        }
        // Down again, one by one: every version is still whole.
        for counter in (1..=5).rev() {
            store.discard(GROUP, &[(key(5), version(counter + 1))]).await.unwrap();
            assert_eq!(Some(&read_all(&store, 5).await.unwrap()), model.at(5, counter));
            assert!(store.space_equals_index());
        }
        store.commit_through(GROUP, version(1));
        let cut = Put { base: version(1), ..Put::truncate(5, 7, 10) };
        store.write(cut.op(&disk)).await.unwrap();
        assert_eq!(read_committed(&store, 5, 0, 60_000).await.unwrap(), pattern(1, 60_000));
    });
}

#[test]
fn committed_bytes_keep_their_place_until_the_change_is_committed_and_read_by_nobody() {
    let (disk, store) = fresh(43);
    with_store(&store, async {
        store.write(Put::new(5, 1, pattern(1, 64 << 10)).op(&disk)).await.unwrap();
        store.commit_through(GROUP, version(1));
        let free = store.free_now();
        let cut = Put { base: version(1), ..Put::truncate(5, 2, 100) };
        store.write(cut.op(&disk)).await.unwrap();
        assert!(store.free_now() < free, "the cut cell has a place of its own");
        let mut read = Box::pin(store.read(GROUP, key(5), 0, 64 << 10, ReadMode::default()));
        assert!(futures_lite::future::poll_once(&mut read).await.is_none());
        store.commit_through(GROUP, version(2));
        // The mark rides with this batch; the read holds what it looked up.
        store.write(Put::new(6, 3, pattern(3, 10)).op(&disk)).await.unwrap();
        assert!(store.free_now() < free);
        assert_eq!(read.await.unwrap().payload.to_vec(), pattern(1, 64 << 10));
        store.write(Put::new(7, 4, pattern(4, 10)).op(&disk)).await.unwrap();
        assert!(store.free_now() > free, "60 KiB came back");
        assert!(store.space_equals_index());
    });
}

#[test]
fn a_cut_cell_is_checked_before_it_gets_a_new_sum() {
    let (disk, store) = fresh(45);
    with_store(&store, async {
        let bytes = pattern(1, 3 * 16384);
        store.write(Put::new(5, 1, bytes.clone()).op(&disk)).await.unwrap();
        store.commit_through(GROUP, version(1));
        let start = &bytes[16384..16384 + 100];
        let place = (6 << 20..SIZE).step_by(4096).find(|at| disk.peek(*at, 100) == start).unwrap();
        // Rot in the part that goes condemns the part that stays: nobody can tell them apart.
        disk.rot(place + 16000, 1);
        let before = (store.free(), store.info(GROUP, key(5)));
        let cut = Put { base: version(1), ..Put::truncate(5, 2, 16384 + 10) };
        assert_eq!(store.write(cut.op(&disk)).await, Err(StoreError::Corrupt { cell: 1 }));
        assert_eq!((store.free(), store.info(GROUP, key(5))), before, "nothing was changed");
        // At its start or end it need not be looked at.
        let cut = Put { base: version(1), ..Put::truncate(5, 3, 16384) };
        store.write(cut.op(&disk)).await.unwrap();
        assert_eq!(read_all(&store, 5).await.unwrap(), bytes[..16384]);
    });
}

#[test]
fn the_op_table_answers_for_every_class_and_survives() {
    let (disk, store) = fresh(46);
    with_store(&store, async {
        store.write(Put::new(5, 1, pattern(1, 50_000)).op(&disk)).await.unwrap();
        let change = Put { base: version(1), mutation: true, ..Put::new(5, 2, pattern(2, 10)) };
        let mut op = change.op(&disk);
        op.op.session.0 = 77;
        store.write(op).await.unwrap();
        let mut op = Put { base: version(2), ..Put::truncate(5, 3, 100) }.op(&disk);
        op.op.session.0 = 78;
        store.write(op).await.unwrap();
    });
    let (again, _) = open(&disk.crash(0));
    let ops = again.info(GROUP, key(5)).unwrap().ops;
    let ops = ops.iter().map(|(op, version, len)| (op.session.0, version.counter, *len));
    assert_eq!(ops.collect::<Vec<_>>(), [(5, 1, 50_000), (77, 2, 50_000), (78, 3, 100)]);
}

#[test]
fn malformed_truncations_are_refused() {
    let (disk, store) = fresh(47);
    with_store(&store, async {
        let cut = Put::truncate(5, 1, 4 << 20);
        let mut beyond = cut.op(&disk);
        beyond.offset += 1;
        let mut bytes = Put { cut: true, ..Put::new(5, 1, pattern(1, 10)) }.op(&disk);
        bytes.trunc_gen = 1;
        let no_bytes = Put { mutation: true, ..Put::new(5, 1, vec![]) }.op(&disk);
        for op in [beyond, bytes, no_bytes] {
            assert!(matches!(store.write(op).await, Err(StoreError::Refused(_))));
        }
        let whole = |write| InstallOp { write, ops: vec![], mutated: true, committed: true };
        let mut sizes = Put::new(5, 1, vec![]).op(&disk);
        sizes.cell_log2 = 0;
        for write in [Put::truncate(5, 1, 0).op(&disk), sizes] {
            let refused = store.install(whole(write)).await;
            assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
        }
        store.write(cut.op(&disk)).await.unwrap();
    });
}

#[test]
fn a_bad_cell_elsewhere_does_not_refuse_a_write_that_would_put_the_chunk_together() {
    const STEP: usize = 2 * 4096;
    let (disk, store) = fresh(48);
    with_store(&store, async {
        let cells = 2 * CHUNK_RUNS_MAX;
        let whole = pattern(1, cells * 4096);
        let put = Put { cell_log2: 12, ..Put::new(5, 1, whole.clone()) };
        store.write(put.op(&disk)).await.unwrap();
        store.commit_through(GROUP, version(1));
        let bad = whole[..100].to_vec();
        let place = (6 << 20..SIZE).step_by(4096).find(|at| disk.peek(*at, 100) == bad).unwrap();
        disk.rot(place, 1);
        // Every second cell moves away, and a read keeps what they leave from being used: the
        // chunk lies in more and more runs.
        let mut read = Box::pin(store.read(GROUP, key(5), 0, 10, ReadMode::default()));
        assert!(futures_lite::future::poll_once(&mut read).await.is_none());
        let mut copied = 0;
        for step in 1..=(CHUNK_RUNS_MAX as u32 + 4) {
            let offset = step % CHUNK_RUNS_MAX as u32 * STEP as u32;
            let offset = offset.max(STEP as u32);
            let bytes = pattern(u64::from(step) + 1, 4096);
            let put = Put { base: version(step), offset, ..Put::new(5, step + 1, bytes) };
            let before = store.bytes_copied();
            let put = Put { cell_log2: 12, mutation: true, ..put };
            store.write(put.op(&disk)).await.unwrap();
            store.commit_through(GROUP, version(step + 1));
            copied = copied.max(store.bytes_copied() - before);
        }
        assert!(copied < 64 << 10, "it was never put together: {copied}");
        assert_eq!(store.verify(GROUP, key(5)).await.unwrap().bad_cells, [0]);
        assert!(store.space_equals_index());
    });
}
