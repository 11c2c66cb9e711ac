//! How long the device takes: what a slow target is found by.
//!
//! Owns the times of the last seconds, from the order to the device until its answer; what waits
//! before that, in the store's own queues, is not in them. Time passes here only while the process
//! is seen to run: what it slept through, stopped or starved of its processor, is no fault of the
//! device. Knows nothing of peers: who compares targets is the coordinator.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use super::Store;
use crate::io::{Disk, DiskError, Nanos};
use crate::limits::{METER_SECONDS, METER_STALL_MS};

/// Device times of the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceTimes {
    /// 99th percentile of reads and writes, in microseconds.
    pub transfer_p99_us: u32,
    /// Reads and writes that ended.
    pub transfers: u32,
    /// 99th percentile of flushes, in microseconds.
    pub flush_p99_us: u32,
    /// Age of the oldest operation that has not ended, in milliseconds.
    pub oldest_ms: u32,
}

/// Takes the times of one device, once it was given a clock.
#[derive(Default)]
pub(super) struct Meter {
    clock: OnceCell<Rc<dyn Fn() -> Nanos>>,
    /// When the process was last seen to run, and how long it was not, in all.
    seen: Cell<(Nanos, Duration)>,
    transfers: RefCell<Window>,
    flushes: RefCell<Window>,
    /// Operations under way and when they began, each in a place of its own.
    running: RefCell<Places>,
}

/// Places that are used again, so that nothing is allocated for an operation.
#[derive(Debug, Default)]
struct Places {
    taken: Vec<Option<Nanos>>,
    free: Vec<usize>,
}

/// What an operation is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Transfer,
    Flush,
}

/// Times by their length, one row for each of the last seconds.
#[derive(Clone, Debug, Default)]
struct Window {
    second: u64,
    rows: [Row; METER_SECONDS],
}

/// Buckets that are at most a quarter wider than the one before.
#[derive(Clone, Debug)]
struct Row([u32; BUCKETS]);

/// Enough for every number of microseconds in 32 bits.
const BUCKETS: usize = 124;

impl<D: Disk> Store<D> {
    /// Measures the device with this clock from now on; [`Store::note_time`] must be called often.
    ///
    /// The first clock stays.
    pub fn measure(&self, clock: impl Fn() -> Nanos + 'static) {
        let now = clock();
        if self.meter.clock.set(Rc::new(clock)).is_ok() {
            self.meter.seen.set((now, Duration::ZERO));
        }
    }

    /// How long the device took of late; all zero before [`Store::measure`].
    pub fn device_times(&self) -> DeviceTimes {
        self.meter.times()
    }

    /// Reads, writes and flushes that the device has not answered; 0 before [`Store::measure`].
    pub fn transfers_in_flight(&self) -> usize {
        self.meter.running.borrow().count()
    }

    pub(super) async fn device_read(&self, offset: u64, len: usize) -> Result<D::Read, DiskError> {
        self.meter.time(Kind::Transfer, self.disk.read(offset, len)).await
    }

    pub(super) async fn device_write(
        &self,
        offset: u64,
        buffer: Rc<D::Buffer>,
        len: usize,
    ) -> Result<(), DiskError> {
        self.meter.time(Kind::Transfer, self.disk.write(offset, buffer, len)).await
    }

    pub(super) async fn device_flush(&self) -> Result<(), DiskError> {
        self.meter.time(Kind::Flush, self.disk.flush()).await
    }
}

impl Meter {
    /// Takes note that the process runs.
    pub(super) fn tick(&self) {
        let _ = self.now();
    }

    async fn time<T>(&self, kind: Kind, operation: impl Future<Output = T>) -> T {
        let Some(began) = self.now() else { return operation.await };
        let id = self.running.borrow_mut().take(began);
        let running = Running { meter: self, id };
        let done = operation.await;
        drop(running);
        if let Some(now) = self.now() {
            let window = if kind == Kind::Flush { &self.flushes } else { &self.transfers };
            window.borrow_mut().note(now, now.since(began));
        }
        done
    }

    fn times(&self) -> DeviceTimes {
        let Some(now) = self.now() else { return DeviceTimes::default() };
        let oldest = self.running.borrow().oldest().map(|began| now.since(began));
        let oldest = oldest.unwrap_or_default().as_millis();
        let (mut transfers, mut flushes) = (self.transfers.borrow_mut(), self.flushes.borrow_mut());
        transfers.pass(now);
        flushes.pass(now);
        DeviceTimes {
            transfer_p99_us: transfers.p99_us(),
            transfers: transfers.count(),
            flush_p99_us: flushes.p99_us(),
            oldest_ms: u32::try_from(oldest).unwrap_or(u32::MAX),
        }
    }

    /// The time that the process was seen to run until now; `None` without a clock.
    fn now(&self) -> Option<Nanos> {
        let now = self.clock.get()?();
        let (last, mut lost) = self.seen.get();
        let most = Duration::from_millis(METER_STALL_MS);
        lost += now.since(last).saturating_sub(most);
        self.seen.set((now.max(last), lost));
        let lost = u64::try_from(lost.as_nanos()).unwrap_or(u64::MAX);
        Some(Nanos(now.0.saturating_sub(lost)))
    }
}

/// Takes an operation off the list of those under way, however it ends.
struct Running<'a> {
    meter: &'a Meter,
    id: usize,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.meter.running.borrow_mut().give_back(self.id);
    }
}

impl Places {
    fn take(&mut self, began: Nanos) -> usize {
        if let Some(place) = self.free.pop() {
            self.taken[place] = Some(began);
            return place;
        }
        self.taken.push(Some(began));
        self.taken.len() - 1
    }

    fn give_back(&mut self, place: usize) {
        if self.taken[place].take().is_some() {
            self.free.push(place);
        }
    }

    fn count(&self) -> usize {
        self.taken.len() - self.free.len()
    }

    fn oldest(&self) -> Option<Nanos> {
        self.taken.iter().flatten().min().copied()
    }
}

impl Window {
    fn note(&mut self, now: Nanos, took: Duration) {
        self.pass(now);
        let us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let row = self.row(self.second);
        self.rows[row].0[bucket(us)] += 1;
    }

    /// Forgets what is older than the window.
    fn pass(&mut self, now: Nanos) {
        let second = now.as_ms() / 1000;
        let from = (self.second + 1).max((second + 1).saturating_sub(METER_SECONDS as u64));
        for passed in from..=second {
            let row = self.row(passed);
            self.rows[row] = Row::default();
        }
        self.second = self.second.max(second);
    }

    fn row(&self, second: u64) -> usize {
        usize::try_from(second % METER_SECONDS as u64).unwrap_or(0)
    }

    fn count(&self) -> u32 {
        let counts = self.rows.iter().flat_map(|row| row.0);
        counts.fold(0, u32::saturating_add)
    }

    fn p99_us(&self) -> u32 {
        let count = u64::from(self.count());
        let mut above = count / 100;
        for at in (0..BUCKETS).rev() {
            let here = self.rows.iter().map(|row| u64::from(row.0[at])).sum::<u64>();
            if here > above {
                return longest_us(at);
            }
            above -= here;
        }
        0
    }
}

impl Default for Row {
    fn default() -> Row {
        Row([0; BUCKETS])
    }
}

/// The bucket of a number: exact below 4, then four for each power of two.
fn bucket(us: u32) -> usize {
    if us < 4 {
        return us as usize;
    }
    let log2 = us.ilog2();
    let quarter = (us >> (log2 - 2)) & 3;
    (4 * (log2 - 1) + quarter) as usize
}

/// The largest number of a bucket.
fn longest_us(bucket: usize) -> u32 {
    if bucket < 4 {
        return u32::try_from(bucket).unwrap_or(u32::MAX);
    }
    let (log2, quarter) = (bucket as u64 / 4 + 1, bucket as u64 % 4);
    u32::try_from(((5 + quarter) << (log2 - 2)) - 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    /// A meter whose clock the test turns.
    fn meter() -> (Meter, Rc<Cell<u64>>) {
        let ms = Rc::new(Cell::new(10_000));
        let (meter, clock) = (Meter::default(), Rc::clone(&ms));
        let read: Rc<dyn Fn() -> Nanos> = Rc::new(move || Nanos::from_ms(clock.get()));
        assert!(meter.clock.set(read).is_ok());
        meter.seen.set((Nanos::from_ms(10_000), Duration::ZERO));
        (meter, ms)
    }

    fn operation(meter: &Meter, ms: &Rc<Cell<u64>>, kind: Kind, took: u64) {
        block_on(meter.time(kind, async { ms.set(ms.get() + took) }));
    }

    #[test]
    fn every_number_lies_in_its_bucket_and_buckets_are_narrow() {
        let powers = (0..32).flat_map(|log2| [1_u32 << log2, (1_u32 << log2) - 1, 3 << log2 >> 1]);
        for us in powers.chain([u32::MAX]) {
            let longest = longest_us(bucket(us));
            assert!(longest >= us && u64::from(longest) * 4 <= u64::from(us) * 5 + 3, "{us}");
            assert!(bucket(us) < BUCKETS && bucket(longest) == bucket(us), "{us}");
        }
    }

    #[test]
    fn the_99th_percentile_is_that_of_the_last_seconds_and_flushes_have_their_own() {
        let (meter, ms) = meter();
        assert_eq!(meter.times(), DeviceTimes::default());
        (0..99).for_each(|_| operation(&meter, &ms, Kind::Transfer, 1));
        operation(&meter, &ms, Kind::Transfer, 100);
        assert!(meter.times().transfer_p99_us < 1300, "one of a hundred is above");
        operation(&meter, &ms, Kind::Transfer, 100);
        operation(&meter, &ms, Kind::Flush, 7);
        let times = meter.times();
        assert!((100_000..=125_000).contains(&times.transfer_p99_us), "{times:?}");
        assert!((7000..=8750).contains(&times.flush_p99_us), "{times:?}");
        assert_eq!(times.transfers, 101);
        for _ in 0..=METER_SECONDS * 1000 / 100 {
            ms.set(ms.get() + 100);
            meter.tick();
        }
        assert_eq!(meter.times(), DeviceTimes::default(), "that was long ago");
    }

    #[test]
    fn places_are_used_again_and_the_oldest_operation_is_known() {
        let mut places = Places::default();
        let taken: Vec<_> = (0..3).map(|ms| places.take(Nanos::from_ms(10 - ms))).collect();
        assert_eq!((places.count(), places.oldest()), (3, Some(Nanos::from_ms(8))));
        places.give_back(taken[2]);
        assert_eq!((places.count(), places.oldest()), (2, Some(Nanos::from_ms(9))));
        assert_eq!(places.take(Nanos::from_ms(20)), taken[2]);
        taken.into_iter().for_each(|place| places.give_back(place));
        assert_eq!((places.count(), places.oldest(), places.taken.len()), (0, None, 3));
    }

    #[test]
    fn an_operation_that_does_not_end_grows_old_until_it_is_given_up() {
        let (meter, ms) = meter();
        let hang = meter.time(Kind::Transfer, std::future::pending::<()>());
        let mut hang = Box::pin(hang);
        assert_eq!(block_on(poll_once(&mut hang)), None);
        for _ in 0..30 {
            ms.set(ms.get() + 100);
            meter.tick();
        }
        assert_eq!(meter.times().oldest_ms, 3000);
        drop(hang);
        assert_eq!(meter.times(), DeviceTimes::default());
    }

    #[test]
    fn time_in_which_the_process_did_not_run_is_not_the_devices() {
        let (meter, ms) = meter();
        operation(&meter, &ms, Kind::Transfer, 30_000);
        let most = u32::try_from(METER_STALL_MS * 1250).unwrap();
        assert!(meter.times().transfer_p99_us <= most, "{:?}", meter.times());
    }
}
