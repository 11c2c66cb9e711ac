//! A container in memory: what the node costs without a device. For measurements only.
//!
//! Writes keep the buffer they came in, and reads give parts of it, so that no byte is copied that
//! a device would not move by itself. Nothing outlives the process.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::rc::Rc;

use protocol::limits::IO_ALIGN;

use crate::io::{Buffer, Disk, DiskError};

/// A container of bytes in memory; what was never written reads as zeros.
pub struct RamDisk {
    capacity: u64,
    /// By the offset of their first byte; they do not overlap.
    runs: RefCell<BTreeMap<u64, Part>>,
}

/// Memory that is filled once and then shared.
pub struct RamBuffer(Vec<u8>);

/// Part of a buffer.
#[derive(Clone)]
pub struct Part {
    buffer: Rc<RamBuffer>,
    start: usize,
    len: usize,
}

impl RamDisk {
    /// Makes an empty container of `capacity` bytes; the file that stands for it is not touched.
    ///
    /// # Errors
    /// None: the signature is that of a container on a device.
    pub async fn open(_path: &Path, capacity: u64) -> Result<RamDisk, DiskError> {
        Ok(RamDisk { capacity, runs: RefCell::default() })
    }

    /// Forgets nothing: the bytes go with the process.
    ///
    /// # Errors
    /// None.
    pub async fn close(&self) -> Result<(), DiskError> {
        Ok(())
    }

    /// The runs that share bytes with a range, each with its offset.
    fn touched(&self, offset: u64, len: usize) -> Vec<(u64, Part)> {
        let runs = self.runs.borrow();
        let first = runs.range(..=offset).next_back().map_or(offset, |(at, _)| *at);
        let within = runs.range(first..offset + len as u64);
        let touched = within.filter(|(at, part)| *at + part.len as u64 > offset);
        touched.map(|(at, part)| (*at, part.clone())).collect()
    }
}

impl Part {
    fn cut(&self, start: usize, len: usize) -> Part {
        Part { buffer: Rc::clone(&self.buffer), start: self.start + start, len }
    }
}

impl Deref for Part {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer.0[self.start..self.start + self.len]
    }
}

impl Buffer for RamBuffer {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// The distance from one offset to a later one; ranges here are far below what memory holds.
fn between(from: u64, to: u64) -> usize {
    usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX)
}

impl Disk for RamDisk {
    type Buffer = RamBuffer;
    type Read = Part;

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn allocate(&self, len: usize) -> RamBuffer {
        RamBuffer(vec![0; len.max(1).next_multiple_of(IO_ALIGN)])
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Part, DiskError> {
        let touched = self.touched(offset, len);
        if let [(at, part)] = &touched[..]
            && *at <= offset
            && at + part.len as u64 >= offset + len as u64
        {
            return Ok(part.cut(between(*at, offset), len));
        }
        let mut whole = self.allocate(len);
        for (at, part) in touched {
            let (from, to) = (at.max(offset), (at + part.len as u64).min(offset + len as u64));
            let bytes = &part[between(at, from)..between(at, to)];
            whole.0[between(offset, from)..between(offset, to)].copy_from_slice(bytes);
        }
        Ok(Part { buffer: Rc::new(whole), start: 0, len })
    }

    async fn write(&self, offset: u64, buffer: Rc<RamBuffer>, len: usize) -> Result<(), DiskError> {
        let end = offset + len as u64;
        for (at, part) in self.touched(offset, len) {
            let mut runs = self.runs.borrow_mut();
            runs.remove(&at);
            if at < offset {
                runs.insert(at, part.cut(0, between(at, offset)));
            }
            let after = at + part.len as u64;
            if after > end {
                runs.insert(end, part.cut(between(at, end), between(end, after)));
            }
        }
        self.runs.borrow_mut().insert(offset, Part { buffer, start: 0, len });
        Ok(())
    }

    async fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn it_reads_what_was_written_last_whatever_overlaps() {
        const PAGES: u64 = 24;
        let page = IO_ALIGN as u64;
        let mut model = [0u8; 24 * IO_ALIGN];
        let mut dice = 7u64;
        let mut draw = |below: u64| {
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % below
        };
        block_on(async {
            let disk = RamDisk::open(Path::new(""), PAGES * page).await.unwrap();
            for turn in 0..3000u32 {
                let first = draw(PAGES);
                let len = usize::try_from((1 + draw(PAGES - first)) * page).unwrap();
                let at = usize::try_from(first * page).unwrap();
                if draw(2) == 0 {
                    let mut buffer = disk.allocate(len);
                    buffer.bytes_mut().fill(turn.to_le_bytes()[0]);
                    model[at..at + len].copy_from_slice(buffer.bytes());
                    disk.write(first * page, Rc::new(buffer), len).await.unwrap();
                } else {
                    let read = disk.read(first * page, len).await.unwrap();
                    assert!(read[..] == model[at..at + len], "turn {turn}");
                }
            }
        });
    }

    #[test]
    fn a_read_inside_of_one_write_is_part_of_its_buffer() {
        block_on(async {
            let disk = RamDisk::open(Path::new(""), 1 << 20).await.unwrap();
            let buffer = Rc::new(disk.allocate(4 * IO_ALIGN));
            disk.write(0, Rc::clone(&buffer), 4 * IO_ALIGN).await.unwrap();
            let read = disk.read(IO_ALIGN as u64, IO_ALIGN).await.unwrap();
            assert!(std::ptr::eq(read.as_ptr(), buffer.bytes()[IO_ALIGN..].as_ptr()));
        });
    }
}
