//! A device in memory that takes virtual time, so that power can go while an operation runs.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use node::io::memory::MemoryDisk;
use node::io::memory::disk::{Faults, MemoryBuffer};
use node::io::{Disk, DiskError};

use super::executor::Executor;
use super::rng::SimRng;

/// Shortest and longest time of one transfer or flush, in microseconds.
const OPERATION_US: (u64, u64) = (10, 600);

/// The device of one node.
pub struct SimDisk {
    executor: Executor,
    rng: SimRng,
    device: MemoryDisk,
    /// Added to every operation.
    lag: Cell<Duration>,
}

impl SimDisk {
    /// An empty device.
    pub fn new(executor: &Executor, rng: SimRng, capacity: u64) -> Rc<SimDisk> {
        let device = MemoryDisk::new(capacity, rng.draw());
        Rc::new(SimDisk { executor: executor.clone(), rng, device, lag: Cell::new(Duration::ZERO) })
    }

    /// Loses power and comes back with what survived; the old handle only returns errors.
    pub fn crash(&self) -> Rc<SimDisk> {
        Rc::new(SimDisk {
            executor: self.executor.clone(),
            rng: self.rng.clone(),
            device: self.device.crash(self.rng.draw()),
            lag: Cell::new(Duration::ZERO),
        })
    }

    /// Adds `lag` to every operation from now on.
    pub fn slow_down(&self, lag: Duration) {
        self.lag.set(lag);
    }

    /// Fails the next flush; what it should have made durable is lost.
    pub fn fail_next_flush(&self) {
        self.device.set_faults(Faults { flush_error: 1, ..Faults::default() });
    }

    /// Works as it should from now on; a target that has fenced itself stays fenced.
    pub fn mend(&self) {
        self.lag.set(Duration::ZERO);
        self.device.set_faults(Faults::default());
    }

    /// Waits a part of an operation's time: before the device does it, or after.
    async fn take_time(&self) {
        let (low, high) = OPERATION_US;
        let own = Duration::from_micros(self.rng.between(low, high));
        self.executor.sleep((own + self.lag.get()) / 2).await;
    }
}

impl Disk for SimDisk {
    type Buffer = MemoryBuffer;
    type Read = Rc<[u8]>;

    fn capacity(&self) -> u64 {
        self.device.capacity()
    }

    fn allocate(&self, len: usize) -> MemoryBuffer {
        self.device.allocate(len)
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Rc<[u8]>, DiskError> {
        self.take_time().await;
        let bytes = self.device.read(offset, len).await;
        self.take_time().await;
        bytes
    }

    async fn write(
        &self,
        offset: u64,
        buffer: Rc<MemoryBuffer>,
        len: usize,
    ) -> Result<(), DiskError> {
        self.take_time().await;
        let written = self.device.write(offset, buffer, len).await;
        self.take_time().await;
        written
    }

    async fn flush(&self) -> Result<(), DiskError> {
        self.take_time().await;
        let flushed = self.device.flush().await;
        self.take_time().await;
        flushed
    }
}
