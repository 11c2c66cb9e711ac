//! A container that loses what was not flushed, and fails on order. For test builds only.
//!
//! Owns an overlay between the store and the real container: writes stay in memory until a flush,
//! so `kill -9` loses them as a power cut would. A seeded part of them reaches the container early,
//! whole or torn, because a volatile cache promises no order. Knows nothing of what the bytes mean.
//! Orders come from the file that [`ORDERS_VARIABLE`] names and may change while the process runs;
//! without orders every transfer goes straight to the real container.
//! Invariant: after a flush returned `Ok`, the real container holds everything whose write had
//! completed before the flush was asked for.

mod orders;
mod overlay;

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use protocol::limits::IO_ALIGN;

use self::orders::{Orders, OrdersFile};
use self::overlay::{Overlay, torn};
use super::clock::BootClock;
use super::disk::GlommioDisk;
use crate::io::{Buffer, Clock, Disk, DiskError};

/// Environment variable that names the file with the orders.
pub const ORDERS_VARIABLE: &str = "LANEFS_FAULT_DISK";
/// Longest single delay of a slow device.
const DELAY_MAX: Duration = Duration::from_secs(2);
/// A transfer of a slow device counts as at least this long before it is stretched.
const TRANSFER_MIN: Duration = Duration::from_micros(100);
/// Pages that a flush hands to the container in one write: a mebibyte.
const RUN_PAGES_MAX: usize = 256;

/// A container behind the overlay.
pub struct FaultDisk<D: Disk> {
    inner: Rc<D>,
    orders: OrdersFile,
    overlay: RefCell<Overlay>,
    dice: Cell<u64>,
    flushes_failed: Cell<u64>,
}

/// Bytes of the container, with those of the overlay over them.
#[derive(Clone)]
pub enum FaultRead<R> {
    /// As the container returned them.
    Plain(R),
    /// Some pages came from the overlay.
    Patched(Rc<[u8]>),
}

impl<R: Deref<Target = [u8]>> Deref for FaultRead<R> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FaultRead::Plain(read) => read,
            FaultRead::Patched(bytes) => bytes,
        }
    }
}

impl FaultDisk<GlommioDisk> {
    /// Opens an existing container of `capacity` bytes, with orders from [`ORDERS_VARIABLE`].
    ///
    /// # Errors
    /// [`DiskError::Io`], also when the file system has no direct I/O.
    pub async fn open(path: &Path, capacity: u64) -> Result<Self, DiskError> {
        let inner = GlommioDisk::open(path, capacity).await?;
        let orders = std::env::var_os(ORDERS_VARIABLE).map(Into::into);
        Ok(FaultDisk::new(Rc::new(inner), OrdersFile::new(orders)))
    }

    /// Closes the container; what was not flushed is lost.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub async fn close(&self) -> Result<(), DiskError> {
        self.inner.close().await
    }
}

impl<D: Disk> FaultDisk<D> {
    fn new(inner: Rc<D>, orders: OrdersFile) -> FaultDisk<D> {
        let overlay = RefCell::new(Overlay::default());
        let dice = Cell::new(orders.now().seed);
        FaultDisk { inner, orders, overlay, dice, flushes_failed: Cell::new(0) }
    }

    /// A number below `bound`, from the seed.
    fn draw(&self, bound: u64) -> u64 {
        let next = self.dice.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.dice.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)) >> 16) % bound.max(1)
    }

    fn happens(&self, per_mille: u32) -> bool {
        per_mille != 0 && self.draw(1000) < u64::from(per_mille)
    }

    /// Writes the pages that the seed lets through before their flush, whole or torn.
    async fn leak(
        &self,
        orders: &Orders,
        offset: u64,
        buffer: &D::Buffer,
        len: usize,
    ) -> Result<(), DiskError> {
        for (number, page) in buffer.bytes()[..len].chunks(IO_ALIGN).enumerate() {
            if !self.happens(orders.early_per_mille) {
                continue;
            }
            let at = offset + (number * IO_ALIGN) as u64;
            let mut early = self.inner.allocate(IO_ALIGN);
            let old = self.inner.read(at, IO_ALIGN).await?;
            torn(early.bytes_mut(), &old, page, orders.tear_bytes, || self.draw(2) == 0);
            self.inner.write(at, Rc::new(early), IO_ALIGN).await?;
        }
        Ok(())
    }

    /// Hands everything that was complete to the container and makes it durable.
    async fn flush_overlay(&self) -> Result<(), DiskError> {
        let pages = self.overlay.borrow().snapshot();
        for run in pages.chunk_by(|one, next| one.number + 1 == next.number) {
            for part in run.chunks(RUN_PAGES_MAX) {
                let mut buffer = self.inner.allocate(part.len() * IO_ALIGN);
                for (page, into) in part.iter().zip(buffer.bytes_mut().chunks_mut(IO_ALIGN)) {
                    into.copy_from_slice(&page.bytes);
                }
                let offset = part[0].number * IO_ALIGN as u64;
                self.inner.write(offset, Rc::new(buffer), part.len() * IO_ALIGN).await?;
            }
        }
        self.inner.flush().await?;
        self.overlay.borrow_mut().forget(&pages);
        Ok(())
    }

    /// A flush that fails: what it should have made durable is partly gone for good, as on systems
    /// that drop pages they could not write.
    fn fail_flush(&self) -> DiskError {
        let mut pages = self.overlay.borrow().snapshot();
        pages.retain(|_| self.draw(2) == 0);
        self.overlay.borrow_mut().forget(&pages);
        tracing::warn!(lost_pages = pages.len(), "flush fails on order");
        failed("flush", 0, 0)
    }

    /// Makes a transfer take as long as on a device that is slower by the ordered factor.
    async fn stretch(&self, orders: &Orders, begun: protocol::time::Nanos) {
        if orders.slow_factor > 1 {
            let took = BootClock.now().since(begun).max(TRANSFER_MIN);
            BootClock.sleep((took * (orders.slow_factor - 1)).min(DELAY_MAX)).await;
        }
    }
}

impl<D: Disk> Disk for FaultDisk<D> {
    type Buffer = D::Buffer;
    type Read = FaultRead<D::Read>;

    fn capacity(&self) -> u64 {
        self.inner.capacity()
    }

    fn allocate(&self, len: usize) -> D::Buffer {
        self.inner.allocate(len)
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Self::Read, DiskError> {
        let (orders, begun) = (self.orders.now(), BootClock.now());
        if self.happens(orders.read_errors_per_mille) {
            return Err(failed("read", offset, len));
        }
        // Taken before the container is read: a flush in between moves pages there.
        let over = self.overlay.borrow().pages(offset, len);
        let read = self.inner.read(offset, len).await?;
        self.stretch(&orders, begun).await;
        if over.is_empty() {
            return Ok(FaultRead::Plain(read));
        }
        let mut bytes = read.to_vec();
        for page in over {
            let at = usize::try_from(page.number * IO_ALIGN as u64 - offset).unwrap_or(usize::MAX);
            bytes[at..at + IO_ALIGN].copy_from_slice(&page.bytes);
        }
        Ok(FaultRead::Patched(bytes.into()))
    }

    async fn write(&self, offset: u64, buffer: Rc<D::Buffer>, len: usize) -> Result<(), DiskError> {
        let (orders, begun) = (self.orders.now(), BootClock.now());
        if self.happens(orders.write_errors_per_mille) {
            return Err(failed("write", offset, len));
        }
        let short = self.happens(orders.short_writes_per_mille);
        let done = if short { len / 2 / IO_ALIGN * IO_ALIGN } else { len };
        if done > 0 && !orders.unflushed && self.overlay.borrow().is_empty() {
            self.inner.write(offset, Rc::clone(&buffer), done).await?;
        } else if done > 0 {
            self.leak(&orders, offset, &buffer, done).await?;
            self.overlay.borrow_mut().put(offset, &buffer.bytes()[..done]);
        }
        self.stretch(&orders, begun).await;
        if short { Err(failed("write", offset, len)) } else { Ok(()) }
    }

    async fn flush(&self) -> Result<(), DiskError> {
        let (orders, begun) = (self.orders.now(), BootClock.now());
        if self.flushes_failed.get() < orders.flush_errors {
            self.flushes_failed.set(self.flushes_failed.get() + 1);
            return Err(self.fail_flush());
        }
        self.flush_overlay().await?;
        self.stretch(&orders, begun).await;
        Ok(())
    }
}

fn failed(operation: &'static str, offset: u64, len: usize) -> DiskError {
    DiskError::Io { operation, offset, len, reason: "failed on order".to_owned() }
}

#[cfg(test)]
mod tests;
