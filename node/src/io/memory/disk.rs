//! A container in memory that can lose power, tear writes and fail on request.
//!
//! It keeps what the machine would read back (live) and what has survived (durable), and every
//! page written since the last flush in between. Which of those survive a crash, and how they are
//! torn, follows from a seed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Deref;
use std::rc::Rc;
use std::task::Poll;

use crate::io::{Buffer, Disk, DiskError};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

type PageBytes = Rc<[u8]>;

/// A shared handle on one simulated container.
#[derive(Clone)]
pub struct MemoryDisk {
    device: Rc<RefCell<Device>>,
}

/// Memory of a [`MemoryDisk`].
pub struct MemoryBuffer(Vec<u8>);

/// Bytes that a read of a [`MemoryDisk`] returned; clones share them.
#[derive(Clone, Debug)]
pub struct MemoryRead(Rc<Vec<u8>>);

/// What the simulated container will do wrong, each counted down from the next operation: 1 is
/// the next one, 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// This read fails.
    pub read_error: u64,
    /// Reads of this page fail, always; 0 is none.
    pub unreadable_page: u64,
    /// This write fails; nothing of it is written.
    pub write_error: u64,
    /// This flush fails, and what it should have made durable never will be, as on systems that
    /// drop pages they could not write.
    pub flush_error: u64,
    /// Power is lost when this write is asked for.
    pub power_off_at_write: u64,
    /// Power is lost when this flush is asked for.
    pub power_off_at_flush: u64,
    /// This write ends early with an error: its first half is written.
    pub short_write: u64,
    /// This write succeeds and nothing of it is written.
    pub lost_write: u64,
    /// This write succeeds and lands on pages that hold something else.
    pub misdirected_write: u64,
    /// This read succeeds and returns pages of another place.
    pub misdirected_read: u64,
    /// Misdirected transfers only meet pages from here on.
    pub misdirected_from: u64,
}

struct Device {
    capacity: u64,
    live: BTreeMap<u64, PageBytes>,
    durable: BTreeMap<u64, PageBytes>,
    unflushed: Vec<Unit>,
    next_write: u64,
    seed: u64,
    powered: bool,
    faults: Faults,
    counts: Counts,
}

/// A page on its way to the medium.
#[derive(Clone)]
struct Unit {
    write: u64,
    page: u64,
    bytes: PageBytes,
    complete: bool,
}

/// Operations a [`MemoryDisk`] was asked for since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
}

impl MemoryDisk {
    /// An empty container; it reads as zeros and costs memory only for what is written.
    pub fn new(capacity: u64, seed: u64) -> MemoryDisk {
        MemoryDisk::with(capacity, seed, BTreeMap::new())
    }

    /// Loses power and comes back with what survived; the old handle only returns errors, and may
    /// be asked again how it would have come back with another seed.
    ///
    /// # Shape
    /// Every page that was not flushed is kept, lost or torn at sectors of 512 bytes, in any
    /// order. One seed in eight keeps all of them, one loses all.
    pub fn crash(&self, seed: u64) -> MemoryDisk {
        let mut device = self.device.borrow_mut();
        device.powered = false;
        let mut random = Random(seed);
        let mut units = device.unflushed.clone();
        let mut durable = device.durable.clone();
        let fate = random.next() % 8;
        while !units.is_empty() && fate != 0 {
            let at = if fate == 1 { 0 } else { random.below(units.len()) };
            let unit = units.remove(at);
            let old = durable.get(&unit.page).cloned().unwrap_or_else(zero_page);
            let page = if fate == 1 { unit.bytes } else { tear(&old, &unit.bytes, &mut random) };
            durable.insert(unit.page, page);
        }
        MemoryDisk::with(device.capacity, random.next(), durable)
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.device.borrow_mut().faults = faults;
    }

    /// False after power was lost.
    pub fn has_power(&self) -> bool {
        self.device.borrow().powered
    }

    /// Operations so far.
    pub fn counts(&self) -> Counts {
        self.device.borrow().counts
    }

    /// Changes bits of the medium behind everybody's back.
    pub fn rot(&self, offset: u64, mask: u8) {
        let mut device = self.device.borrow_mut();
        let Device { live, durable, .. } = &mut *device;
        for pages in [live, durable] {
            let page = pages.entry(offset / PAGE as u64).or_insert_with(zero_page);
            let mut bytes = page.to_vec();
            bytes[within(offset)] ^= mask;
            *page = bytes.into();
        }
    }

    /// The medium as it is now, without what was not flushed: a copy to go back to.
    pub fn snapshot(&self) -> MemoryDisk {
        let mut device = self.device.borrow_mut();
        let seed = device.random();
        MemoryDisk::with(device.capacity, seed, device.durable.clone())
    }

    /// Offsets of the pages of a range that were ever made durable, ascending.
    pub fn durable_pages(&self, from: u64) -> Vec<u64> {
        let device = self.device.borrow();
        device.durable.range(from / PAGE as u64..).map(|(page, _)| page * PAGE as u64).collect()
    }

    /// Bytes as a read would return them now.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        self.device.borrow().copy_out(offset, len)
    }

    /// Replaces bytes of the medium behind everybody's back; whole pages.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        let mut device = self.device.borrow_mut();
        for (page, bytes) in pages_of(offset, bytes) {
            device.live.insert(page, Rc::clone(&bytes));
            device.durable.insert(page, bytes);
        }
    }

    fn with(capacity: u64, seed: u64, durable: BTreeMap<u64, PageBytes>) -> MemoryDisk {
        let device = Device {
            capacity,
            live: durable.clone(),
            durable,
            unflushed: Vec::new(),
            next_write: 0,
            seed,
            powered: true,
            faults: Faults::default(),
            counts: Counts::default(),
        };
        MemoryDisk { device: Rc::new(RefCell::new(device)) }
    }

    /// Lets other tasks run, once or twice.
    async fn pause(&self) {
        let mut turns = 1 + self.device.borrow_mut().random() % 2;
        poll_fn(|context| {
            if turns == 0 {
                return Poll::Ready(());
            }
            turns -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

impl Disk for MemoryDisk {
    type Buffer = MemoryBuffer;
    type Read = MemoryRead;

    fn capacity(&self) -> u64 {
        self.device.borrow().capacity
    }

    fn allocate(&self, len: usize) -> MemoryBuffer {
        // As on the real device, fresh memory holds anything.
        MemoryBuffer(vec![0xa5; len.next_multiple_of(PAGE)])
    }

    async fn read(&self, offset: u64, len: usize) -> Result<MemoryRead, DiskError> {
        self.device.borrow_mut().begin("read", offset, len)?;
        self.pause().await;
        let mut device = self.device.borrow_mut();
        device.check_power()?;
        let place =
            if strikes(&mut device.faults.misdirected_read) { device.astray(len) } else { offset };
        Ok(MemoryRead(Rc::new(device.copy_out(place, len))))
    }

    async fn write(
        &self,
        offset: u64,
        buffer: Rc<MemoryBuffer>,
        len: usize,
    ) -> Result<(), DiskError> {
        let write = {
            let mut device = self.device.borrow_mut();
            device.begin("write", offset, len)?;
            if buffer.0.len() < len {
                return Err(error("write", offset, len, "buffer is too short"));
            }
            device.begin_write(offset, &buffer.0[..len])?
        };
        // A transfer that nobody waits for any more still happens.
        let transfer = Transfer { disk: self, write };
        self.pause().await;
        drop(transfer);
        self.device.borrow().check_power()
    }

    async fn flush(&self) -> Result<(), DiskError> {
        let started = {
            let mut device = self.device.borrow_mut();
            device.begin("flush", 0, 0)?;
            let complete = device.unflushed.iter().filter(|unit| unit.complete);
            complete.map(|unit| unit.write).collect::<Vec<_>>()
        };
        self.pause().await;
        let mut device = self.device.borrow_mut();
        device.check_power()?;
        device.settle(&started);
        Ok(())
    }
}

impl Deref for MemoryRead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Buffer for MemoryBuffer {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Device {
    fn begin(&mut self, operation: &'static str, offset: u64, len: usize) -> Result<(), DiskError> {
        self.check_power()?;
        let aligned = offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE);
        if !aligned || offset + len as u64 > self.capacity {
            return Err(error(operation, offset, len, "not aligned or not within the container"));
        }
        let unreadable = self.faults.unreadable_page;
        let unreadable = unreadable != 0 && (offset..offset + len as u64).contains(&unreadable);
        let Faults { read_error, write_error, flush_error, .. } = &mut self.faults;
        let (count, fault) = match operation {
            "read" => (&mut self.counts.reads, read_error),
            "write" => (&mut self.counts.writes, write_error),
            _ => (&mut self.counts.flushes, flush_error),
        };
        *count += 1;
        let fails = strikes(fault) || (operation == "read" && unreadable);
        let power = match operation {
            "write" => strikes(&mut self.faults.power_off_at_write),
            "flush" => strikes(&mut self.faults.power_off_at_flush),
            _ => false,
        };
        if power {
            self.powered = false;
            return Err(DiskError::Closed);
        }
        if fails && operation == "flush" {
            self.unflushed.retain(|unit| !unit.complete);
        }
        if fails { Err(error(operation, offset, len, "injected fault")) } else { Ok(()) }
    }

    fn begin_write(&mut self, offset: u64, bytes: &[u8]) -> Result<u64, DiskError> {
        self.next_write += 1;
        let (write, len) = (self.next_write, bytes.len());
        if strikes(&mut self.faults.short_write) {
            self.add_units(offset, &bytes[..len / 2 / PAGE * PAGE]);
            self.complete(write);
            return Err(error("write", offset, len, "injected short write"));
        }
        if strikes(&mut self.faults.lost_write) {
            return Ok(write);
        }
        let stray = strikes(&mut self.faults.misdirected_write);
        let offset = if stray { self.astray(len) } else { offset };
        self.add_units(offset, bytes);
        Ok(write)
    }

    fn add_units(&mut self, offset: u64, bytes: &[u8]) {
        let write = self.next_write;
        let units = pages_of(offset, bytes);
        self.unflushed.extend(units.map(|(page, bytes)| Unit {
            write,
            page,
            bytes,
            complete: false,
        }));
    }

    /// A place for a transfer that goes astray: where something else lies.
    fn astray(&mut self, len: usize) -> u64 {
        let turn = self.random();
        let (first, end) = (self.faults.misdirected_from, self.capacity - len as u64);
        let pages = self.live.range(first / PAGE as u64..=end / PAGE as u64);
        let pages: Vec<u64> = pages.map(|(page, _)| *page).collect();
        let at = usize::try_from(turn % (pages.len().max(1) as u64)).unwrap_or(0);
        pages.get(at).map_or(first, |page| page * PAGE as u64)
    }

    fn complete(&mut self, write: u64) {
        for unit in self.unflushed.iter_mut().filter(|unit| unit.write == write) {
            unit.complete = true;
            self.live.insert(unit.page, Rc::clone(&unit.bytes));
        }
    }

    fn settle(&mut self, writes: &[u64]) {
        let (done, rest) = std::mem::take(&mut self.unflushed)
            .into_iter()
            .partition(|unit| writes.binary_search(&unit.write).is_ok());
        self.unflushed = rest;
        let done: Vec<Unit> = done;
        self.durable.extend(done.into_iter().map(|unit| (unit.page, unit.bytes)));
    }

    fn copy_out(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        let first = offset / PAGE as u64;
        for (page, content) in self.live.range(first..first + len.div_ceil(PAGE) as u64) {
            let at = usize::try_from(page - first).unwrap_or(0) * PAGE;
            bytes.resize(at, 0);
            bytes.extend_from_slice(content);
        }
        bytes.resize(len, 0);
        bytes
    }

    fn check_power(&self) -> Result<(), DiskError> {
        if self.powered { Ok(()) } else { Err(DiskError::Closed) }
    }

    fn random(&mut self) -> u64 {
        let mut random = Random(self.seed);
        let value = random.next();
        self.seed = random.0;
        value
    }
}

/// A write that the device is carrying out.
struct Transfer<'a> {
    disk: &'a MemoryDisk,
    write: u64,
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.disk.device.borrow_mut().complete(self.write);
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }
}

/// Counts a fault down; true when it is its turn.
fn strikes(fault: &mut u64) -> bool {
    let now = *fault == 1;
    *fault = fault.saturating_sub(1);
    now
}

/// What a page holds when power goes while it is being written.
fn tear(old: &[u8], new: &[u8], random: &mut Random) -> PageBytes {
    match random.next() % 4 {
        0 => old.into(),
        1 | 2 => new.into(),
        _ => {
            let sectors = old.chunks(SECTOR).zip(new.chunks(SECTOR));
            let torn =
                sectors.flat_map(|(old, new)| if random.next() & 1 == 0 { old } else { new });
            torn.copied().collect::<Vec<u8>>().into()
        }
    }
}

fn pages_of(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, PageBytes)> {
    (offset / PAGE as u64..).zip(bytes.chunks(PAGE).map(Rc::from))
}

fn zero_page() -> PageBytes {
    Rc::from([0; PAGE])
}

fn within(offset: u64) -> usize {
    usize::try_from(offset % PAGE as u64).unwrap_or(0)
}

fn error(operation: &'static str, offset: u64, len: usize, reason: &str) -> DiskError {
    DiskError::Io { operation, offset, len, reason: reason.to_owned() }
}
