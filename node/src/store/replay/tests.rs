//! How far behind a damaged batch a later one is looked for.

use futures_lite::future::block_on;
use protocol::ids::TargetId;

use super::*;
use crate::io::memory::MemoryDisk;

const RING: u64 = 64 << 20;
static NOISE: [u8; 1 << 20] = [0xA5; 1 << 20];
/// The damaged batch: the first of the ring's second lap, a few pages before the ring's end.
const END: Point = Point { lsn: Lsn(1000), position: 2 * RING - (3 << 12), chain_hash: 0 };
const LATER: u64 = 1010;

/// A journal whose second lap has come as far as [`END`]; what follows is noise.
struct Ring {
    disk: MemoryDisk,
    geometry: Geometry,
}

impl Ring {
    fn new() -> Ring {
        let geometry = Geometry::for_size(4 << 30).unwrap();
        assert_eq!(geometry.journal_size, RING);
        let disk = MemoryDisk::new(4 << 30, 1);
        for at in (0..RING).step_by(NOISE.len()) {
            disk.poke(geometry.journal_offset + at, &NOISE);
        }
        Ring { disk, geometry }
    }

    /// Where the ring holds what lies `behind` bytes after the damaged batch.
    fn place(&self, behind: u64) -> u64 {
        self.geometry.journal_offset + (END.position + behind) % RING
    }

    fn put_batch(&self, behind: u64, lsn: u64, laps_before: u64) {
        let header = BatchHeader {
            target: TargetId(1),
            generation: Generation(1),
            lsn: Lsn(lsn),
            position: END.position + behind - laps_before * RING,
            durable_lsn: Lsn(lsn - 1),
            prev_batch_hash: 0,
            body_hash: 0,
            body_len: 0,
            records: 0,
        };
        self.disk.poke(self.place(behind), &header.encode());
    }

    fn later(&self) -> Option<u64> {
        let scan = Scan {
            disk: &self.disk,
            geometry: &self.geometry,
            target: TargetId(1),
            generation: Generation(1),
            clean: Lsn(0),
        };
        block_on(scan.next_header(&END)).map(|header| header.lsn.0)
    }
}

#[test]
fn a_later_batch_is_found_behind_damage_of_any_length() {
    for behind in [4096, 1 << 20, TAIL_SCAN_LEN - 4096, TAIL_SCAN_LEN, 40 << 20, RING - 4096] {
        let ring = Ring::new();
        ring.put_batch(behind, LATER, 0);
        assert_eq!(ring.later(), Some(LATER), "{behind} bytes behind");
        ring.put_batch(behind / 8192 * 4096 + 4096, LATER - 5, 0);
        assert_eq!(ring.later(), Some(LATER - 5), "the first of two counts");
    }
}

#[test]
fn a_lost_write_does_not_end_the_search() {
    // What later batches should have overwritten is still there, or nothing ever was.
    for zeros in [true, false] {
        let ring = Ring::new();
        for behind in (0..TAIL_SCAN_LEN - (1 << 20)).step_by(4096) {
            match zeros {
                true => ring.disk.poke(ring.place(behind), &[0; 4096]),
                false => ring.put_batch(behind, 500 + (behind >> 12), 1),
            }
        }
        ring.put_batch(TAIL_SCAN_LEN - (1 << 20), LATER, 0);
        assert_eq!(ring.later(), Some(LATER), "zeros {zeros}");
    }
}

#[test]
fn what_was_not_overwritten_ends_the_search_of_a_torn_end() {
    let step = u64::from(DEVICE_TRANSFER_MAX);
    // A piece more where the ring ends, those that are read at once, and those read ahead.
    let most = TAIL_SCAN_LEN / step + 1 + 2 * SCAN_READS as u64;
    for zeros in [true, false] {
        let ring = Ring::new();
        for behind in (step..RING).step_by(4096) {
            match zeros {
                true => ring.disk.poke(ring.place(behind), &[0; 4096]),
                false if behind % step == 0 => ring.put_batch(behind, 1 + (behind >> 20), 1),
                false => {}
            }
        }
        assert_eq!(ring.later(), None);
        let reads = ring.disk.counts().reads;
        assert!(reads > TAIL_SCAN_LEN / step && reads <= most, "{reads} reads, zeros {zeros}");
    }
    // Where nothing tells, all of it is looked at.
    let ring = Ring::new();
    assert_eq!(ring.later(), None);
    assert_eq!(ring.disk.counts().reads, RING / step + 1);
}
