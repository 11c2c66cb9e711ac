//! Rot of the medium: found by scrub and by reads, repaired without changing what a chunk is.

use std::collections::BTreeSet;
use std::rc::Rc;

use futures_lite::future::block_on;
use node::io::memory::MemoryDisk;
use node::io::memory::disk::Faults;
use node::io::{Buffer, Disk, DiskError};
use node::limits::SCRUB_BATCH_CHUNKS;
use node::store::{Damage, DamagedPart, InstallOp, RepairOp, ScrubCursor, Store, StoreError};
use protocol::ids::{GroupId, OpId};

use crate::store_support::*;

const ARENA: u64 = 7 << 20;
const CELL: usize = 16_384;

/// Where bytes lie on the medium.
fn place_of(disk: &MemoryDisk, bytes: &[u8]) -> u64 {
    let start = &bytes[..bytes.len().min(512)];
    let found = (ARENA..SIZE).step_by(4096).find(|at| disk.peek(*at, start.len()) == start);
    found.unwrap()
}

/// The place of a chunk's first descriptor page.
fn page_of(disk: &MemoryDisk, fid: u64) -> u64 {
    let head = [&b"lanedesc"[..], &fid.to_le_bytes()].concat();
    place_of(disk, &head)
}

pub(crate) fn repair_op(
    disk: &MemoryDisk,
    fid: u64,
    counter: u32,
    first: u32,
    bytes: &[u8],
) -> RepairOp<MemoryDisk> {
    let mut payload = disk.allocate(bytes.len());
    payload.bytes_mut().fill(0);
    payload.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    RepairOp {
        group: GROUP,
        key: key(fid),
        version: version(counter),
        first_cell: first,
        len: bytes.len() as u32,
        payload: Rc::new(payload),
    }
}

fn install_op(disk: &MemoryDisk, fid: u64, counter: u32, bytes: &[u8]) -> InstallOp<MemoryDisk> {
    let write = Put::new(fid, counter, bytes.to_vec()).op(disk);
    InstallOp { write, ops: Vec::new(), mutated: false, committed: true }
}

/// One whole pass in steps of at most `bytes_max`; what it found and how many bytes it read.
async fn scrub(store: &Store<MemoryDisk>, bytes_max: u64) -> (Vec<Damage>, u64) {
    let (mut damages, mut bytes, mut next) = (Vec::new(), 0, Some(ScrubCursor::default()));
    while let Some(cursor) = next {
        let step = store.scrub_step(cursor, bytes_max).await.unwrap();
        assert!(step.bytes <= bytes_max + (2 << 20) + 65_536, "{} bytes in a step", step.bytes);
        damages.extend(step.damages);
        bytes += step.bytes;
        next = step.next;
    }
    (damages, bytes)
}

fn cells(fid: u64, counter: u32, cells: &[u32]) -> Damage {
    let part = DamagedPart::Cells(cells.to_vec());
    Damage { group: GROUP, key: key(fid), version: version(counter), part }
}

fn whole(fid: u64, counter: u32) -> Damage {
    Damage { part: DamagedPart::Whole, ..cells(fid, counter, &[]) }
}

fn sorted(mut damages: Vec<Damage>) -> Vec<Damage> {
    damages.sort_by_key(|damage| (damage.key, damage.version));
    damages
}

async fn put(store: &Store<MemoryDisk>, disk: &MemoryDisk, fid: u64, counter: u32, len: usize) {
    let put = Put::new(fid, counter, pattern(u64::from(counter), len));
    store.write(put.op(disk)).await.unwrap();
}

/// Small chunks, one with a descriptor page, one with a pending version, one set aside.
async fn fill(store: &Store<MemoryDisk>, disk: &MemoryDisk) {
    for (fid, counter, len) in [(1, 1, 5000), (2, 2, 100_000), (3, 3, 1_000_000), (4, 4, 40_000)] {
        put(store, disk, fid, counter, len).await;
    }
    store.commit_through(GROUP, version(4));
    store.quarantine(GROUP, &[key(4)], 1).await.unwrap();
    let change = Put {
        base: version(2),
        offset: CELL as u32,
        mutation: true,
        ..Put::new(2, 5, pattern(5, CELL))
    };
    store.write(change.op(disk)).await.unwrap();
}

#[test]
fn scrub_reads_everything_and_finds_every_flipped_bit() {
    let (disk, store) = fresh(60);
    with_store(&store, async {
        fill(&store, &disk).await;
        let (damages, bytes) = scrub(&store, 1).await;
        assert_eq!(damages, []);
        let used = store.capacity() - store.free();
        assert!(bytes >= used, "{bytes} of {used}");
        assert_eq!(scrub(&store, 300_000).await.0, []);
        let rot = |counter: u64, len: usize, at: usize| {
            let cell = &pattern(counter, len)[at / CELL * CELL..];
            disk.rot(place_of(&disk, cell) + (at % CELL) as u64, 1 << (at % 8));
        };
        rot(1, 5000, 4999);
        rot(2, 100_000, 0);
        rot(2, 100_000, 99_999);
        rot(5, CELL, 77);
        for cell in [0, 7, 8, 60, 61] {
            rot(3, 1_000_000, cell * CELL + 5);
        }
        rot(4, 40_000, 20_000);
        let found = sorted(scrub(&store, 100_000).await.0);
        let expected = [
            cells(1, 1, &[0]),
            // Both versions of the second chunk share its first and last cell.
            cells(2, 2, &[0, 6]),
            cells(2, 5, &[0, 1, 6]),
            cells(3, 3, &[0, 7, 8, 60, 61]),
            cells(4, 4, &[1]),
        ];
        assert_eq!(found, expected);
        assert_eq!(store.damaged(GROUP), expected);
        assert_eq!(store.damaged(GroupId(9)), []);
        // The other cells go on being served, the bad ones are refused without reading them.
        let good = read_committed(&store, 2, CELL as u32, 50_000).await.unwrap();
        assert_eq!(good, pattern(2, 100_000)[CELL..CELL + 50_000]);
        let reads = disk.counts().reads;
        let bad = read_committed(&store, 2, 0, 50_000).await;
        assert_eq!((bad, disk.counts().reads), (Err(StoreError::Corrupt { cell: 0 }), reads));
    });
}

#[test]
fn a_repair_restores_cells_and_changes_nothing_else() {
    let (disk, store) = fresh(61);
    let bytes = pattern(3, 1_000_000);
    let change = [&pattern(2, CELL)[..], &pattern(5, CELL), &pattern(2, 100_000)[2 * CELL..]];
    with_store(&store, async {
        fill(&store, &disk).await;
        let before = (store.info(GROUP, key(3)), store.digest(GROUP), store.pendings(GROUP));
        for cell in [0, 7, 8, 61] {
            disk.rot(place_of(&disk, &bytes[cell * CELL..]) + 9, 1);
        }
        disk.rot(place_of(&disk, &pattern(5, CELL)) + 9, 1);
        disk.rot(place_of(&disk, &pattern(2, 100_000)) + 9, 1);
        assert_eq!(scrub(&store, 1 << 20).await.0.len(), 3);
        for (first, end) in [(0, 1), (7, 9), (61, 62)] {
            let part = &bytes[first * CELL..bytes.len().min(end * CELL)];
            let durable = store.repair(repair_op(&disk, 3, 3, first as u32, part)).await.unwrap();
            assert_eq!(durable.chunk_len, 1_000_000);
        }
        assert_eq!(store.bad_bytes(), 3 * CELL as u64 + 4096, "the last cell has one unit");
        // The version of a pending and the committed one are repaired each by itself.
        let pending = repair_op(&disk, 2, 5, 0, &change.concat()[..2 * CELL]);
        store.repair(pending).await.unwrap();
        assert_eq!(store.damaged(GROUP), [cells(2, 2, &[0])]);
        store.repair(repair_op(&disk, 2, 2, 0, &pattern(2, CELL))).await.unwrap();
        assert_eq!(store.damaged(GROUP), []);
        assert_eq!(scrub(&store, 1 << 20).await.0, []);
        let after = (store.info(GROUP, key(3)), store.digest(GROUP), store.pendings(GROUP));
        assert_eq!(before, after);
        assert!(store.space_equals_index());
        assert_eq!(read_committed(&store, 2, 0, 100_000).await.unwrap(), pattern(2, 100_000));
    });
    let disk = disk.crash(0);
    let (again, recovered) = open(&disk);
    assert_eq!((recovered.intact, recovered.suspects), (true, 0));
    assert_eq!(again.digest(GROUP), store.digest(GROUP));
    assert_eq!(again.bad_bytes(), 0);
    with_store(&again, async {
        assert_eq!(read_all(&again, 3).await.unwrap(), bytes);
        assert_eq!(read_all(&again, 2).await.unwrap(), change.concat());
        assert_eq!(scrub(&again, 1 << 20).await.0, []);
        assert!(again.space_equals_index());
    });
}

#[test]
fn a_repair_with_other_bytes_is_refused_and_changes_nothing() {
    let (disk, store) = fresh(62);
    with_store(&store, async {
        fill(&store, &disk).await;
        let refused = async |op| match store.repair(op).await {
            Err(StoreError::Refused(_)) => true,
            other => panic!("{other:?}"),
        };
        let bytes = pattern(3, 1_000_000);
        let mut wrong = bytes[..CELL].to_vec();
        wrong[CELL - 1] ^= 1;
        assert!(refused(repair_op(&disk, 3, 3, 0, &wrong)).await);
        assert!(refused(repair_op(&disk, 3, 3, 1, &bytes[..CELL])).await, "another cell's bytes");
        assert!(refused(repair_op(&disk, 3, 3, 0, &bytes[..CELL + 1])).await, "not a whole cell");
        assert!(refused(repair_op(&disk, 3, 3, 61, &bytes[..2 * CELL])).await, "beyond the end");
        assert!(refused(repair_op(&disk, 3, 3, 0, &[])).await);
        // The older version's bytes are not the newer one's.
        assert!(refused(repair_op(&disk, 2, 5, 1, &pattern(2, 100_000)[CELL..2 * CELL])).await);
        let gone = store.repair(repair_op(&disk, 3, 9, 0, &bytes[..CELL])).await;
        assert_eq!(gone, Err(StoreError::NotFound));
        assert_eq!(store.bad_bytes(), 0);
        assert_eq!(read_all(&store, 3).await.unwrap(), bytes);
        assert!(store.space_equals_index());
    });
}

#[test]
fn a_version_in_doubt_gives_its_sound_places_back() {
    let (disk, store) = fresh(64);
    let bytes = pattern(3, 1_000_000);
    with_store(&store, async {
        fill(&store, &disk).await;
        let free = store.free();
        store.mark_suspect(GROUP, key(3), version(3));
        disk.rot(place_of(&disk, &bytes[7 * CELL..]) + 9, 1);
        assert_eq!(scrub(&store, 1 << 20).await.0, [cells(3, 3, &[7])]);
        store.repair(repair_op(&disk, 3, 3, 0, &bytes)).await.unwrap();
        assert_eq!((store.damaged(GROUP), store.suspects(GROUP)), (vec![], vec![]));
        assert_eq!(store.bad_bytes(), CELL as u64, "only what the medium lost");
        assert_eq!(store.free(), free - CELL as u64);
        assert_eq!(read_all(&store, 3).await.unwrap(), bytes);
        assert!(store.space_equals_index());
    });
}

#[test]
fn a_lost_descriptor_is_replaced_by_the_whole_chunk_only() {
    for by_install in [false, true] {
        let (disk, store) = fresh(63);
        let bytes = pattern(3, 1_000_000);
        with_store(&store, async {
            fill(&store, &disk).await;
            store.close().await.unwrap();
        });
        disk.rot(page_of(&disk, 3) + 100, 4);
        let (store, _) = open(&disk);
        with_store(&store, async {
            let digest = store.digest(GROUP);
            assert_eq!(scrub(&store, 1 << 20).await.0, [whole(3, 3)]);
            assert_eq!(store.suspects(GROUP), [(key(3), version(3))]);
            let cell = store.repair(repair_op(&disk, 3, 3, 0, &bytes[..CELL])).await;
            assert!(matches!(cell, Err(StoreError::Corrupt { .. })), "{cell:?}");
            let mut wrong = bytes.clone();
            wrong[500_000] ^= 1;
            let refused = store.repair(repair_op(&disk, 3, 3, 0, &wrong)).await;
            assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
            if by_install {
                store.install(install_op(&disk, 3, 3, &bytes)).await.unwrap();
            } else {
                store.repair(repair_op(&disk, 3, 3, 0, &bytes)).await.unwrap();
                assert_eq!(store.info(GROUP, key(3)).unwrap().ops.len(), 1);
            }
            assert_eq!((store.damaged(GROUP), store.suspects(GROUP)), (vec![], vec![]));
            assert_eq!(read_all(&store, 3).await.unwrap(), bytes);
            assert_eq!(scrub(&store, 1 << 20).await.0, []);
            assert_eq!(store.digest(GROUP), digest);
            assert!(store.space_equals_index());
        });
    }
}

#[test]
fn one_read_that_went_wrong_is_not_damage() {
    let (disk, store) = fresh(64);
    with_store(&store, async {
        fill(&store, &disk).await;
        for read in 1..30 {
            disk.set_faults(Faults { read_error: read, ..Faults::default() });
            assert_eq!(scrub(&store, 1 << 20).await.0, [], "read {read}");
            disk.set_faults(Faults { read_error: 1, ..Faults::default() });
            assert_eq!(read_all(&store, 1).await.unwrap(), pattern(1, 5000));
        }
        assert_eq!(store.damaged(GROUP), []);
    });
}

#[test]
fn a_claim_is_believed_only_when_the_device_agrees() {
    let (disk, store) = fresh(65);
    with_store(&store, async {
        fill(&store, &disk).await;
        assert_eq!(store.recheck(GROUP, key(3), &[0, 5, 61, 99]).await, Ok(vec![]));
        assert_eq!(store.recheck(GROUP, key(77), &[0]).await, Err(StoreError::NotFound));
        let bytes = pattern(3, 1_000_000);
        disk.rot(place_of(&disk, &bytes[5 * CELL..]) + 1, 1);
        // An unverified read does not see it; the reader reports it.
        assert_eq!(store.recheck(GROUP, key(3), &[5]).await, Ok(vec![cells(3, 3, &[5])]));
        assert_eq!(store.damaged(GROUP), [cells(3, 3, &[5])]);
        // A verified read notes what it sees.
        disk.rot(place_of(&disk, &bytes[6 * CELL..]) + 1, 1);
        assert_eq!(read_all(&store, 3).await, Err(StoreError::Corrupt { cell: 5 }));
        let other = read_committed(&store, 3, 6 * CELL as u32, 10).await;
        assert_eq!(other, Err(StoreError::Corrupt { cell: 6 }));
        assert_eq!(store.damaged(GROUP), [cells(3, 3, &[5, 6])]);
        // So does whoever asks for a check of everything.
        disk.rot(place_of(&disk, &bytes[40 * CELL..]) + 1, 1);
        assert_eq!(store.verify(GROUP, key(3)).await.unwrap().bad_cells, [5, 6, 40]);
        assert_eq!(store.damaged(GROUP), [cells(3, 3, &[5, 6, 40])]);
        // Damage ends with the version that had it.
        store.drop_fids(GROUP, &[protocol::ids::Fid(3)]).await.unwrap();
        assert_eq!(store.damaged(GROUP), []);
    });
}

#[test]
fn a_pass_visits_every_chunk_whatever_moves_meanwhile() {
    const FILES: u64 = 40;
    let (disk, store) = fresh(66);
    with_store(&store, async {
        let mut counter = 0;
        let mut write = async |fid: u64, base: u32| {
            counter += 1;
            let put = Put {
                base: if base == 0 { protocol::ids::Version::ZERO } else { version(base) },
                mutation: base != 0,
                ..Put::new(fid, counter, pattern(u64::from(counter), 30_000))
            };
            store.write(put.op(&disk)).await.unwrap();
            store.commit_through(GROUP, version(counter));
            counter
        };
        let mut newest = Vec::new();
        for fid in 0..FILES {
            newest.push(write(fid, 0).await);
        }
        // Room at the low end, so that what is written during the pass moves behind the cursor.
        let low: Vec<_> = (0..6).map(protocol::ids::Fid).collect();
        store.drop_fids(GROUP, &low).await.unwrap();
        let mut cursor = ScrubCursor::default();
        let mut found = BTreeSet::new();
        let mut expected = BTreeSet::new();
        for round in 0.. {
            let step = store.scrub_step(cursor, 60_000).await.unwrap();
            found.extend(step.damages.iter().map(|damage| damage.key.fid.0));
            let Some(next) = step.next else { break };
            cursor = next;
            let fid = FILES - 1 - round;
            if round < 12 {
                newest[fid as usize] = write(fid, newest[fid as usize]).await;
                let bytes = pattern(u64::from(newest[fid as usize]), 30_000);
                disk.rot(place_of(&disk, &bytes[CELL..]) + 3, 1);
                expected.insert(fid);
            }
        }
        assert_eq!(expected.len(), 12);
        assert_eq!(found, expected);
    });
}

#[test]
fn a_pass_longer_than_one_batch_visits_every_chunk() {
    const FILES: u64 = SCRUB_BATCH_CHUNKS as u64 + 100;
    let disk = formatted(256 << 20, 70);
    let (store, _) = open(&disk);
    with_store(&store, async {
        for fid in 0..FILES {
            let put = Put { cell_log2: 12, ..Put::new(fid, fid as u32 + 1, vec![7; 100]) };
            store.write(put.op(&disk)).await.unwrap();
            store.commit_through(GROUP, version(fid as u32 + 1));
        }
        let (mut chunks, mut next) = (0, Some(ScrubCursor::default()));
        while let Some(cursor) = next {
            let step = store.scrub_step(cursor, 1 << 20).await.unwrap();
            assert_eq!(step.damages, []);
            chunks += step.chunks;
            next = step.next;
        }
        assert_eq!(chunks, FILES);
    });
}

#[test]
fn a_failed_write_is_tried_once_more_elsewhere() {
    let (disk, store) = fresh(67);
    with_store(&store, async {
        for (fid, counter, len) in [(1, 1, 16_384), (2, 2, 400_000)] {
            disk.set_faults(Faults { write_error: 1, ..Faults::default() });
            put(&store, &disk, fid, counter, len).await;
        }
        // The descriptor page goes after the data.
        disk.set_faults(Faults { write_error: 2, ..Faults::default() });
        put(&store, &disk, 3, 3, 400_000).await;
        assert_eq!((store.write_errors(), store.fenced()), (3, false));
        assert!(store.bad_bytes() >= 16_384 + 400_000);
        assert!(store.space_equals_index());
        store.note_time(node::io::Nanos::from_ms(3_600_000));
        disk.set_faults(Faults { write_error: 1, ..Faults::default() });
        put(&store, &disk, 4, 4, 100).await;
        assert_eq!((store.write_errors(), store.fenced()), (4, false), "an hour is over");
        for (fid, len) in [(1, 16_384), (2, 400_000), (3, 400_000)] {
            assert_eq!(read_all(&store, fid).await.unwrap(), pattern(fid, len));
        }
    });
}

#[test]
fn a_device_that_fails_too_often_is_fenced() {
    let (disk, store) = fresh(68);
    with_store(&store, async {
        for counter in 1..=3 {
            disk.set_faults(Faults { write_error: 1, ..Faults::default() });
            put(&store, &disk, u64::from(counter), counter, 5000).await;
        }
        disk.set_faults(Faults { write_error: 1, ..Faults::default() });
        let failed = store.write(Put::new(9, 9, pattern(9, 5000)).op(&disk)).await;
        assert!(matches!(failed, Err(StoreError::Disk(DiskError::Io { .. }))), "{failed:?}");
        assert!(store.fenced());
        assert_eq!(read_all(&store, 1).await.unwrap(), pattern(1, 5000));
    });
    let (store, recovered) = open(&disk.crash(0));
    assert!(recovered.previous_fence.is_some_and(|reason| reason.contains("too many device")));
    assert!(!store.fenced());
}

#[test]
fn power_lost_during_a_repair_leaves_the_version_as_it_was_or_repaired() {
    let bytes = pattern(3, 1_000_000);
    for at_write in 1..40 {
        let (disk, store) = fresh(69);
        with_store(&store, async {
            fill(&store, &disk).await;
            store.close().await.unwrap();
        });
        let damaged = place_of(&disk, &bytes[5 * CELL..]);
        disk.rot(damaged + 9, 1);
        disk.set_faults(Faults { power_off_at_write: at_write, ..Faults::default() });
        let opened = block_on(Store::open(Rc::new(disk.clone()), &options()));
        let mut acknowledged = false;
        if let Ok((store, _)) = opened {
            with_store(&store, async {
                let part = &bytes[5 * CELL..6 * CELL];
                let op = repair_op(&disk, 3, 3, 5, part);
                acknowledged = store.repair(op).await.is_ok();
            });
        }
        let powered = disk.has_power();
        for tear in 0..4 {
            let disk = disk.crash(at_write * 10 + tear);
            let (store, recovered) = open(&disk);
            assert!(recovered.intact, "write {at_write}, tear {tear}");
            assert_eq!(store.digest(GROUP).chunks, 3);
            assert!(store.space_equals_index(), "write {at_write}, tear {tear}");
            with_store(&store, async {
                let info = store.info(GROUP, key(3)).unwrap();
                assert_eq!((info.version, info.chunk_len), (version(3), 1_000_000));
                let ops: Vec<OpId> = info.ops.iter().map(|have| have.0).collect();
                assert_eq!(ops.len(), 1);
                if acknowledged {
                    assert_eq!(read_all(&store, 3).await.unwrap(), bytes);
                }
                let rest = read_committed(&store, 3, 0, 5 * CELL as u32).await.unwrap();
                assert_eq!(rest, bytes[..5 * CELL]);
            });
        }
        if powered {
            assert!(acknowledged);
            return;
        }
    }
    panic!("the repair never ended");
}
