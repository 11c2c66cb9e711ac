//! Power is lost while chunks are set aside, released, repaired and dropped: what was answered
//! holds, and the accounts of space are exact.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures_lite::future::block_on;
use node::io::memory::MemoryDisk;
use node::io::memory::disk::Faults;
use node::io::{Buffer, Disk};
use node::limits::QUARANTINE_TIME_S;
use node::store::{RepairOp, Store};
use protocol::ids::Fid;

use crate::store_support::*;

const NOW_S: u64 = 1_800_000_000;

/// What happened to a file, as far as it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Served,
    Aside,
    Gone,
}

/// For each file what was answered last, and what was asked since.
type Known = BTreeMap<u64, (Fate, Fate)>;

fn counter(fid: u64) -> u32 {
    fid as u32
}

fn bytes(fid: u64) -> Vec<u8> {
    pattern(fid, 3000 + 20_000 * (fid as usize % 9))
}

async fn repair(store: &Store<MemoryDisk>, disk: &MemoryDisk, fid: u64) -> bool {
    let bytes = bytes(fid);
    let len = bytes.len().min(16_384);
    let mut payload = disk.allocate(len);
    payload.bytes_mut().fill(0);
    payload.bytes_mut()[..len].copy_from_slice(&bytes[..len]);
    let op = RepairOp {
        group: GROUP,
        key: key(fid),
        version: version(counter(fid)),
        first_cell: 0,
        len: len as u32,
        payload: Rc::new(payload),
    };
    store.repair(op).await.is_ok()
}

/// Thirty files, of which every third is set aside, some of those released, others dropped.
async fn workload(store: &Store<MemoryDisk>, disk: &MemoryDisk, known: &mut Known) -> Option<()> {
    let ask = |known: &mut Known, fid: u64, fate: Fate| {
        let answered = known.get(&fid).map_or(Fate::Gone, |have| have.0);
        known.insert(fid, (answered, fate));
    };
    let answer = |known: &mut Known, fid: u64, fate: Fate| known.insert(fid, (fate, fate));
    for fid in 1..=30 {
        ask(known, fid, Fate::Served);
        store.write(Put::new(fid, counter(fid), bytes(fid)).op(disk)).await.ok()?;
        store.commit_through(GROUP, version(counter(fid)));
        answer(known, fid, Fate::Served);
        repair(store, disk, fid).await.then_some(())?;
        if fid % 3 == 0 {
            ask(known, fid, Fate::Aside);
            store.quarantine(GROUP, &[key(fid)], NOW_S).await.ok()?;
            answer(known, fid, Fate::Aside);
            // A chunk that is set aside can be repaired too.
            repair(store, disk, fid).await.then_some(())?;
        }
        if fid % 9 == 0 {
            ask(known, fid, Fate::Gone);
            let now_s = NOW_S + QUARANTINE_TIME_S;
            store.release_quarantined(GROUP, &[Fid(fid)], now_s).await.ok()?;
            answer(known, fid, Fate::Gone);
        }
        if fid % 7 == 0 {
            ask(known, fid - 1, Fate::Gone);
            store.drop_fids(GROUP, &[Fid(fid - 1)]).await.ok()?;
            answer(known, fid - 1, Fate::Gone);
        }
    }
    Some(())
}

fn check(disk: &MemoryDisk, known: &Known, what: &str) {
    let (store, recovered) = open(disk);
    assert!(recovered.intact, "{what}");
    let (aside, _) = store.quarantined(None, 100);
    for (&fid, (answered, asked)) in known {
        let is_aside = aside.iter().find(|have| have.key.fid.0 == fid);
        let fate = match (store.info(GROUP, key(fid)), is_aside) {
            (Some(_), None) => Fate::Served,
            (None, Some(have)) => {
                assert_eq!(have.since_s, NOW_S, "{what}: {fid}");
                Fate::Aside
            }
            (None, None) => Fate::Gone,
            both => panic!("{what}: {fid} is {both:?}"),
        };
        assert!(fate == *answered || fate == *asked, "{what}: {fid} is {fate:?}");
    }
    let bytes: u64 = aside.iter().map(|have| have.bytes).sum();
    let size = store.quarantine_size();
    assert_eq!((size.chunks, size.bytes), (aside.len() as u64, bytes), "{what}");
    assert_eq!(store.allocated(GROUP) + store.free(), store.capacity(), "{what}");
    assert!(store.space_equals_index(), "{what}");
    with_store(&store, async {
        let served = known.iter().filter(|(_, fates)| **fates == (Fate::Served, Fate::Served));
        for fid in served.map(|(fid, _)| *fid) {
            assert_eq!(read_all(&store, fid).await.unwrap(), self::bytes(fid), "{what}: {fid}");
        }
        let digest = store.digest(GROUP);
        store.close().await.unwrap();
        let (again, _) = open(disk);
        assert_eq!(again.digest(GROUP), digest, "{what}: a checkpoint keeps what the journal said");
        assert_eq!(again.quarantined(None, 100).0, aside, "{what}");
    });
}

fn crash_everywhere(step: usize, faults: impl Fn(u64) -> Faults) {
    for n in (1..).step_by(step) {
        let disk = formatted(SIZE, n);
        disk.set_faults(faults(n));
        let mut known = Known::new();
        if let Ok((store, _)) = block_on(Store::open(Rc::new(disk.clone()), &options())) {
            with_store(&store, workload(&store, &disk, &mut known));
        }
        let cut = !disk.has_power();
        for tear in 0..3 {
            check(&disk.crash(n * 10 + tear), &known, &format!("power off at {n}, tear {tear}"));
        }
        if !cut {
            return;
        }
    }
}

#[test]
fn upkeep_survives_power_lost_at_every_flush() {
    crash_everywhere(1, |n| Faults { power_off_at_flush: n, ..Faults::default() });
}

#[test]
fn upkeep_survives_power_lost_between_writes() {
    crash_everywhere(3, |n| Faults { power_off_at_write: n, ..Faults::default() });
}
