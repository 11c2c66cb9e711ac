//! A device in memory that takes virtual time, so that power can go while an operation runs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use node::io::memory::MemoryDisk;
use node::io::memory::disk::{Faults, MemoryBuffer, MemoryRead};
use node::io::{Disk, DiskError};
use protocol::ids::Lsn;

use super::executor::Executor;
use super::rng::SimRng;

/// Shortest and longest time of one transfer or flush, in microseconds.
const OPERATION_US: (u64, u64) = (10, 600);

/// Chance in a thousand that an operation of a slow device takes its whole lag at once.
const SPIKES_PER_MILLE: u64 = 20;
/// Places of the records that rot at once.
const RECORD_ROTS: usize = 12;
/// First byte that damage may strike in a run that must heal: the superblocks lie below.
const DAMAGE_FROM: u64 = 4 << 20;

/// The device of one node.
pub struct SimDisk {
    executor: Executor,
    rng: SimRng,
    device: MemoryDisk,
    pace: Cell<Pace>,
    earlier: RefCell<Option<(Lsn, MemoryDisk)>>,
}

/// How slow a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As it should be.
    Normal,
    /// Every operation takes this much longer.
    Lag(Duration),
    /// Some operations take this much longer.
    Spikes(Duration),
    /// Every operation takes this many times as long.
    Times(u32),
}

/// What a device does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A flush fails; what it should have made durable is lost.
    FlushError,
    /// A read fails.
    ReadError,
    /// A write fails.
    WriteError,
    /// A write fails after its first half.
    ShortWrite,
    /// A write succeeds and does nothing.
    LostWrite,
    /// A write lands elsewhere.
    MisdirectedWrite,
    /// A read returns another place.
    MisdirectedRead,
    /// A bit of the medium changes.
    Rot,
    /// Bits of the journal or of a checkpoint change.
    RecordRot,
}

impl Damage {
    /// Every kind.
    pub const ALL: [Damage; 9] = [
        Damage::FlushError,
        Damage::ReadError,
        Damage::WriteError,
        Damage::ShortWrite,
        Damage::LostWrite,
        Damage::MisdirectedWrite,
        Damage::MisdirectedRead,
        Damage::Rot,
        Damage::RecordRot,
    ];

    /// True when bytes that were told to be durable may be gone or wrong, without an error.
    pub fn is_silent(self) -> bool {
        matches!(
            self,
            Damage::LostWrite | Damage::MisdirectedWrite | Damage::Rot | Damage::RecordRot
        )
    }
}

impl SimDisk {
    /// An empty device.
    pub fn new(executor: &Executor, rng: SimRng, capacity: u64) -> Rc<SimDisk> {
        let device = MemoryDisk::new(capacity, rng.draw());
        SimDisk::with(executor, rng, device)
    }

    fn with(executor: &Executor, rng: SimRng, device: MemoryDisk) -> Rc<SimDisk> {
        Rc::new(SimDisk {
            executor: executor.clone(),
            rng,
            device,
            pace: Cell::new(Pace::Normal),
            earlier: RefCell::default(),
        })
    }

    /// Loses power and comes back with what survived; the old handle only returns errors.
    pub fn crash(&self) -> Rc<SimDisk> {
        let device = self.device.crash(self.rng.draw());
        let survived = SimDisk::with(&self.executor, self.rng.clone(), device);
        *survived.earlier.borrow_mut() = self.earlier.take();
        survived
    }

    /// Keeps a copy of the medium to go back to, in which a journal reaches no further than `end`.
    pub fn keep(&self, end: Lsn) {
        *self.earlier.borrow_mut() = Some((end, self.device.snapshot()));
    }

    /// How far a journal reaches at most in the copy to go back to, if there is one.
    pub fn kept(&self) -> Option<Lsn> {
        self.earlier.borrow().as_ref().map(|(end, _)| *end)
    }

    /// Goes back to the copy that was kept, if there is one; the old handle only returns errors.
    pub fn roll_back(&self) -> Option<Rc<SimDisk>> {
        let (_, earlier) = self.earlier.take()?;
        // Power goes first, so that nothing of the present reaches the past.
        self.device.crash(0);
        Some(SimDisk::with(&self.executor, self.rng.clone(), earlier))
    }

    /// Works at another pace from now on.
    pub fn set_pace(&self, pace: Pace) {
        self.pace.set(pace);
    }

    /// Does something wrong, in one of the next operations; misdirected writes and rot spare what
    /// lies below `from`.
    pub fn damage(&self, damage: Damage, spare_root: bool) {
        let from = if spare_root { DAMAGE_FROM } else { 0 };
        let turn = 1 + self.rng.below(8);
        let mut faults = Faults { misdirected_from: from, ..Faults::default() };
        match damage {
            Damage::FlushError => faults.flush_error = 1,
            Damage::ReadError => faults.read_error = turn,
            Damage::WriteError => faults.write_error = turn,
            Damage::ShortWrite => faults.short_write = turn,
            Damage::LostWrite => faults.lost_write = turn,
            Damage::MisdirectedWrite => faults.misdirected_write = turn,
            Damage::MisdirectedRead => faults.misdirected_read = turn,
            Damage::Rot => {
                self.rot(from..u64::MAX);
                return;
            }
            Damage::RecordRot => {
                for _ in 0..RECORD_ROTS {
                    self.rot(self.records());
                }
                return;
            }
        }
        self.device.set_faults(faults);
    }

    /// Where journal and checkpoints lie: each has the same share of the device.
    fn records(&self) -> std::ops::Range<u64> {
        let share = (self.device.capacity() / 64).max(1 << 20) & !((1 << 20) - 1);
        DAMAGE_FROM..DAMAGE_FROM + 3 * share
    }

    fn rot(&self, place: std::ops::Range<u64>) {
        let mut pages = self.device.durable_pages(place.start);
        pages.retain(|page| *page < place.end);
        let turn = usize::try_from(self.rng.below(pages.len() as u64)).unwrap_or(0);
        let (within, bit) = (self.rng.below(4096), self.rng.below(8));
        if let Some(page) = pages.get(turn) {
            self.device.rot(page + within, 1 << bit);
        }
    }

    /// Works as it should from now on; a target that has fenced itself stays fenced.
    pub fn mend(&self) {
        self.pace.set(Pace::Normal);
        self.device.set_faults(Faults::default());
    }

    /// Waits a part of an operation's time: before the device does it, or after.
    async fn take_time(&self) {
        let (low, high) = OPERATION_US;
        let own = Duration::from_micros(self.rng.between(low, high));
        let time = match self.pace.get() {
            Pace::Normal => own,
            Pace::Lag(lag) => own + lag,
            Pace::Spikes(lag) if self.rng.below(1000) < SPIKES_PER_MILLE => own + lag,
            Pace::Spikes(_) => own,
            Pace::Times(times) => own * times,
        };
        self.executor.sleep(time / 2).await;
    }
}

impl Disk for SimDisk {
    type Buffer = MemoryBuffer;
    type Read = MemoryRead;

    fn capacity(&self) -> u64 {
        self.device.capacity()
    }

    fn allocate(&self, len: usize) -> MemoryBuffer {
        self.device.allocate(len)
    }

    async fn read(&self, offset: u64, len: usize) -> Result<MemoryRead, DiskError> {
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
