//! What goes in comes out: every cell size, growth, mutation, holes, install, discard, drop.

use node::io::{Disk, Piece};
use node::limits::COPY_TRANSFER_MAX;
use node::store::{InstallOp, ReadMode, Store, StoreError, WriteOp};
use protocol::ids::{Epoch, Fid, GroupId, Version};

use crate::store_support::*;

/// A workload that must hold on every kind of container.
pub(crate) async fn basic_workload<D: Disk>(store: &Store<D>, disk: &D, cell_log2: u8) {
    let cell = 1usize << cell_log2;
    let base = u64::from(cell_log2) * 100;
    let mut model = Model::default();
    let mut counter = u32::from(cell_log2) * 1000;
    // Length and offset of each write, in turn, and whether it is a mutation.
    let growth =
        [(3 * cell, 0), (100, 3 * cell), (cell, 3 * cell + 100), (9 * cell, 4 * cell + 100)];
    let mutation = [(10, 5), (2 * cell, cell / 2), (cell, 0), (77, 20 * cell + 9), (1, 14 * cell)];
    let steps = growth.map(|(len, at)| (len, at, false)).into_iter();
    let steps = steps.chain(mutation.map(|(len, at)| (len, at, true)));
    for fid in [base, base + 1] {
        let mut last = Version::ZERO;
        for (len, at, mutation) in steps.clone() {
            counter += 1;
            let put = Put {
                base: last,
                offset: at as u32,
                expect_len: (at + len) as u32,
                cell_log2,
                mutation,
                ..Put::new(fid, counter, pattern(u64::from(counter), len))
            };
            model.apply(&put);
            let durable = store.write(put.op(disk)).await.unwrap();
            last = version(counter);
            let (_, expected) = model.newest(fid).unwrap();
            assert_eq!(durable.chunk_len as usize, expected.len());
            assert_eq!(&read_all(store, fid).await.unwrap(), expected);
            store.commit_through(GROUP, last);
        }
        let info = store.info(GROUP, key(fid)).unwrap();
        assert!(info.mutated && !info.suspect);
        assert_eq!(info.ops.len(), 1);
        let (_, expected) = model.newest(fid).unwrap();
        for (at, len) in [(0, 1), (cell - 1, 2), (3 * cell + 50, 2 * cell), (16 * cell, cell)] {
            let read = read_committed(store, fid, at as u32, len as u32).await.unwrap();
            assert_eq!(read, expected[at..at + len], "{at} {len}");
        }
        assert!(store.verify(GROUP, key(fid)).await.unwrap().bad_cells.is_empty());
    }
    assert_eq!(store.pendings(GROUP), []);
}

#[test]
fn every_cell_size_grows_changes_and_reads_back() {
    for cell_log2 in [12, 14, 16] {
        let (disk, store) = fresh(u64::from(cell_log2));
        with_store(&store, async {
            basic_workload(&store, &disk, cell_log2).await;
            store.close().await.unwrap();
        });
        let (again, recovered) = open(&disk);
        assert!(recovered.intact && recovered.generation.0 == 2);
        with_store(&again, async {
            let before = store.inventory(GROUP, None, 10);
            assert_eq!(again.inventory(GROUP, None, 10), before);
            assert_eq!(again.free(), store.free());
            for fid in [u64::from(cell_log2) * 100, u64::from(cell_log2) * 100 + 1] {
                assert_eq!(read_all(&again, fid).await, read_all(&store, fid).await);
            }
        });
    }
}

#[test]
fn equal_bytes_have_equal_hashes_whatever_their_history() {
    let (disk, store) = fresh(1);
    let (other_disk, other) = fresh(2);
    let bytes = pattern(9, 200_000);
    with_store(&store, async {
        store.write(Put::new(5, 1, bytes[..70_000].to_vec()).op(&disk)).await.unwrap();
        let rest =
            Put { base: version(1), offset: 70_000, ..Put::new(5, 2, bytes[70_000..].to_vec()) };
        store.write(rest.op(&disk)).await.unwrap();
    });
    with_store(&other, async {
        other.write(Put::new(5, 2, bytes.clone()).op(&other_disk)).await.unwrap();
    });
    assert_eq!(store.inventory(GROUP, None, 9), other.inventory(GROUP, None, 9));
}

#[test]
fn aligned_payload_is_written_from_where_it_lies() {
    let (disk, store) = fresh(3);
    with_store(&store, async {
        store.write(Put::new(5, 1, pattern(1, 1 << 20)).op(&disk)).await.unwrap();
        let more = Put {
            base: version(1),
            offset: 1 << 20,
            ..Put::new(5, 2, pattern(2, (1 << 20) + 100))
        };
        store.write(more.op(&disk)).await.unwrap();
        assert_eq!(store.bytes_copied(), 0);
        let unaligned =
            Put { base: version(2), offset: (2 << 20) + 100, ..Put::new(5, 3, pattern(3, 5000)) };
        store.write(unaligned.op(&disk)).await.unwrap();
        assert_eq!(store.bytes_copied(), 8192);
    });
}

#[test]
fn a_group_of_which_only_chunks_are_left_is_known() {
    let (disk, store) = fresh(3);
    with_store(&store, async {
        for group in [9, 3] {
            let op = Put::new(5, 1, pattern(1, 5000)).op(&disk);
            store.write(WriteOp { group: GroupId(group), ..op }).await.unwrap();
        }
        store.adopt(GroupId(4), Epoch(7)).await.unwrap();
    });
    let groups = store.groups().into_iter().map(|(group, info)| (group.0, info.epoch.0));
    assert_eq!(groups.collect::<Vec<_>>(), [(3, 0), (4, 7), (9, 0)]);
}

#[test]
fn a_copy_is_read_and_written_in_short_transfers() {
    let (disk, store) = fresh(3);
    let (other_disk, other) = fresh(4);
    let bytes = pattern(1, 1 << 20);
    let steps = u64::from(1_u32 << 20) / u64::from(COPY_TRANSFER_MAX);
    assert!(steps > 1);
    with_store(&store, async {
        store.write(Put::new(5, 1, bytes.clone()).op(&disk)).await.unwrap();
        let before = disk.counts().reads;
        let read = store.read_for_copy(GROUP, key(5), 1 << 20).await.unwrap();
        assert_eq!(disk.counts().reads - before, steps);
        let pieces = read.payload.pieces().iter().flat_map(Piece::chunks);
        assert_eq!(pieces.collect::<Vec<_>>().concat(), bytes);
    });
    with_store(&other, async {
        let write = Put::new(5, 1, bytes.clone()).op(&other_disk);
        let op = InstallOp { write, ops: Vec::new(), mutated: false, committed: true };
        let before = other_disk.counts().writes;
        other.install(op).await.unwrap();
        assert_eq!(other_disk.counts().writes - before, steps + 2, "page and record");
        assert_eq!(other.bytes_copied(), 1 << 20);
    });
    assert_eq!(store.inventory(GROUP, None, 9), other.inventory(GROUP, None, 9));
}

#[test]
fn the_committed_version_stays_readable_while_others_are_pending() {
    let (disk, store) = fresh(4);
    with_store(&store, async {
        let put = |counter: u32, offset: u32| Put {
            base: if counter == 1 { Version::ZERO } else { version(counter - 1) },
            offset,
            ..Put::new(5, counter, pattern(u64::from(counter), 1000))
        };
        store.write(put(1, 0).op(&disk)).await.unwrap();
        let mode = ReadMode::default();
        let dirty = store.read(GROUP, key(5), 0, 10, mode).await;
        assert_eq!(dirty.err(), Some(StoreError::Dirty));
        store.commit_through(GROUP, version(1));
        store.write(put(2, 1000).op(&disk)).await.unwrap();
        store.write(put(3, 2000).op(&disk)).await.unwrap();
        assert_eq!(read_committed(&store, 5, 0, 1000).await.unwrap(), pattern(1, 1000));
        assert_eq!(read_committed(&store, 5, 0, 1001).await, Err(StoreError::Dirty));
        let short = read_committed(&store, 5, 0, 3001).await;
        assert_eq!(short, Err(StoreError::Short { len: 1000 }));
        let versions: Vec<_> = store.pendings(GROUP).iter().map(|have| have.version).collect();
        assert_eq!(versions, [version(2), version(3)]);

        store.discard(GROUP, &[(key(5), version(3))]).await.unwrap();
        assert_eq!(read_all(&store, 5).await.unwrap().len(), 2000);
        store.discard(GROUP, &[(key(5), version(2))]).await.unwrap();
        assert_eq!(read_all(&store, 5).await.unwrap(), pattern(1, 1000));
        let stale = store.write(put(3, 2000).op(&disk)).await;
        let mismatch = StoreError::BaseMismatch { base: version(2), have: version(1) };
        assert_eq!(stale, Err(mismatch));
        for counter in 4..12 {
            let mut put = put(counter, (counter - 3) * 1000);
            if counter == 4 {
                put.base = version(1);
            }
            store.write(put.op(&disk)).await.unwrap();
        }
        assert_eq!(store.write(put(12, 9000).op(&disk)).await, Err(StoreError::Busy));
    });
}

#[test]
fn concurrent_writes_of_one_chunk_build_on_each_other_and_share_flushes() {
    let (disk, store) = fresh(5);
    with_store(&store, async {
        let put = |counter: u32| Put {
            base: if counter == 1 { Version::ZERO } else { version(counter - 1) },
            offset: (counter - 1) * 16384,
            expect_len: 8 * 16384,
            ..Put::new(5, counter, pattern(u64::from(counter), 16384))
        };
        let before = store.flushes();
        let writes = (1..9).map(|counter| store.write(put(counter).op(&disk)));
        let mut writes: Vec<_> = writes.map(Box::pin).collect();
        let mut left = writes.len();
        std::future::poll_fn(|context| {
            writes.retain_mut(|write| match write.as_mut().poll(context) {
                std::task::Poll::Ready(done) => {
                    done.unwrap();
                    left -= 1;
                    false
                }
                std::task::Poll::Pending => true,
            });
            if left == 0 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        assert!(store.flushes() - before < 8, "flushes are shared");
        assert_eq!(read_all(&store, 5).await.unwrap().len(), 8 * 16384);
    });
}

#[test]
fn install_quarantine_and_drop_survive_a_restart() {
    let (disk, store) = fresh(6);
    with_store(&store, async {
        for fid in 1..5 {
            store.write(Put::new(fid, fid as u32, pattern(fid, 50_000)).op(&disk)).await.unwrap();
        }
        store.commit_through(GROUP, version(4));
        let install = |committed| InstallOp {
            write: Put::new(1, 40, pattern(40, 70_000)).op(&disk),
            ops: vec![],
            mutated: true,
            committed,
        };
        store.install(install(false)).await.unwrap();
        assert_eq!(read_committed(&store, 1, 0, 50_000).await.unwrap(), pattern(1, 50_000));
        store.install(install(true)).await.unwrap();
        assert_eq!(read_committed(&store, 1, 0, 70_000).await.unwrap(), pattern(40, 70_000));
        let mut empty = install(true);
        empty.write = Put::new(9, 41, vec![]).op(&disk);
        store.install(empty).await.unwrap();
        store.quarantine(GROUP, &[key(2)], 5).await.unwrap();
        store.drop_fids(GROUP, &[Fid(3)]).await.unwrap();
        store.adopt(GROUP, Epoch(6)).await.unwrap();
        assert!(store.adopt(GROUP, Epoch(5)).await.is_err());
    });
    let (again, recovered) = open(&disk.crash(0));
    assert!(recovered.intact);
    assert_eq!(again.inventory(GROUP, None, 9), store.inventory(GROUP, None, 9));
    assert_eq!(again.free(), store.free());
    assert_eq!(again.groups()[0].1.epoch, Epoch(6));
    let keys: Vec<u64> = again.inventory(GROUP, None, 9).0.iter().map(|e| e.key.fid.0).collect();
    assert_eq!(keys, [1, 4, 9]);
    with_store(&again, async {
        assert_eq!(read_all(&again, 2).await, Err(StoreError::NotFound));
        assert_eq!(read_all(&again, 1).await.unwrap(), pattern(40, 70_000));
    });
}

#[test]
fn a_full_target_refuses_and_can_still_drop() {
    let (disk, store) = fresh(7);
    with_store(&store, async {
        let mut fid = 0;
        let refused = loop {
            fid += 1;
            let put = Put::new(fid, fid as u32, pattern(fid, 1 << 20));
            if let Err(error) = store.write(put.op(&disk)).await {
                break error;
            }
            store.commit_through(GROUP, version(fid as u32));
        };
        assert_eq!(refused, StoreError::NoSpace);
        assert!(store.free() < 2 << 20);
        store.drop_fids(GROUP, &[Fid(1), Fid(2), Fid(3)]).await.unwrap();
        let put = Put::new(900, 900, pattern(900, 2 << 20));
        store.write(put.op(&disk)).await.unwrap();
        assert_eq!(read_all(&store, 900).await.unwrap(), pattern(900, 2 << 20));
        assert_eq!(read_all(&store, 5).await.unwrap(), pattern(5, 1 << 20));
    });
}

#[test]
fn malformed_writes_are_refused() {
    let (disk, store) = fresh(8);
    with_store(&store, async {
        let good = Put::new(5, 1, pattern(1, 40_000));
        type Change = fn(&mut node::store::WriteOp<node::io::memory::MemoryDisk>);
        let changes: [Change; 5] = [
            |op| op.cell_log2 = 13,
            |op| op.chunk_log2 = 40,
            |op| op.len = 0,
            |op| op.len = 5 << 20,
            |op| op.sums = [].into(),
        ];
        for change in changes {
            let mut op = good.op(&disk);
            change(&mut op);
            assert!(matches!(store.write(op).await, Err(StoreError::Refused(_))));
        }
        let hole = Put { offset: 10, ..good.clone() };
        assert!(matches!(store.write(hole.op(&disk)).await, Err(StoreError::Refused(_))));
        assert_eq!(store.chunks(), 0);
    });
}
