//! The overlay over a container in memory, whose content is what a killed process leaves behind.

use std::rc::Rc;

use futures_lite::future::block_on;
use protocol::limits::IO_ALIGN;

use super::FaultDisk;
use super::orders::OrdersFile;
use crate::io::memory::disk::MemoryDisk;
use crate::io::{Buffer, Disk, DiskError};

const SIZE: u64 = 1 << 20;
const PAGE: u64 = IO_ALIGN as u64;

struct Rig {
    container: MemoryDisk,
    disk: FaultDisk<MemoryDisk>,
    _folder: tempfile::TempDir,
}

fn rig(orders: &str) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders");
    std::fs::write(&path, orders).unwrap();
    let container = MemoryDisk::new(SIZE, 1);
    let disk = FaultDisk::new(Rc::new(container.clone()), OrdersFile::new(Some(path)));
    Rig { container, disk, _folder: folder }
}

impl Rig {
    fn write(&self, page: u64, pages: usize, byte: u8) -> Result<(), DiskError> {
        let mut buffer = self.disk.allocate(pages * IO_ALIGN);
        buffer.bytes_mut().fill(byte);
        block_on(self.disk.write(page * PAGE, Rc::new(buffer), pages * IO_ALIGN))
    }

    fn seen(&self, page: u64) -> u8 {
        block_on(self.disk.read(page * PAGE, IO_ALIGN)).unwrap()[0]
    }

    fn left_behind(&self, page: u64) -> Vec<u8> {
        self.container.peek(page * PAGE, IO_ALIGN)
    }
}

#[test]
fn without_orders_a_write_goes_to_the_container() {
    let rig = rig("");
    rig.write(3, 2, 7).unwrap();
    assert_eq!((rig.seen(3), rig.left_behind(4)[0]), (7, 7));
}

#[test]
fn an_unflushed_write_is_read_back_and_lost_with_the_process() {
    let rig = rig("unflushed = 1");
    rig.write(3, 2, 7).unwrap();
    assert_eq!((rig.seen(4), rig.left_behind(4)[0]), (7, 0));
    block_on(rig.disk.flush()).unwrap();
    assert_eq!((rig.seen(4), rig.left_behind(4)[0]), (7, 7));
    rig.write(4, 1, 8).unwrap();
    assert_eq!((rig.seen(4), rig.left_behind(4)[0]), (8, 7));
}

#[test]
fn a_seeded_part_of_unflushed_writes_survives_torn() {
    let rig = rig("unflushed = 1\nearly_per_mille = 500\ntear_bytes = 512\nseed = 5");
    rig.write(0, 64, 9).unwrap();
    let pages: Vec<Vec<u8>> = (0..64).map(|page| rig.left_behind(page)).collect();
    let kept = |page: &&Vec<u8>| page.contains(&9);
    let is_torn = |page: &&Vec<u8>| page.contains(&9) && page.contains(&0);
    let (kept, torn) = (pages.iter().filter(kept).count(), pages.iter().filter(is_torn).count());
    assert!((16..48).contains(&kept), "{kept} of 64 pages survived");
    assert!(torn > kept / 2, "{torn} of {kept} are torn");
    assert!((0..64).all(|page| rig.seen(page) == 9), "the process itself sees what it wrote");
}

#[test]
fn a_failed_flush_fails_once_and_loses_some_of_what_it_covered() {
    let rig = rig("unflushed = 1\nflush_errors = 1\nseed = 3");
    rig.write(0, 64, 9).unwrap();
    assert!(block_on(rig.disk.flush()).is_err());
    block_on(rig.disk.flush()).unwrap();
    let kept = (0..64).filter(|&page| rig.left_behind(page)[0] == 9).count();
    assert!((16..48).contains(&kept), "{kept} of 64 pages survived");
}

#[test]
fn a_short_write_reports_an_error_and_leaves_its_first_half() {
    let rig = rig("short_writes_per_mille = 1000");
    assert!(rig.write(0, 4, 9).is_err());
    assert_eq!((rig.seen(0), rig.seen(1), rig.seen(2)), (9, 9, 0));
}

#[test]
fn ordered_errors_touch_nothing() {
    let rig = rig("write_errors_per_mille = 1000\nread_errors_per_mille = 1000");
    assert!(rig.write(0, 1, 9).is_err());
    assert!(block_on(rig.disk.read(0, IO_ALIGN)).is_err());
    assert_eq!(rig.left_behind(0)[0], 0);
}
