//! When operations are due, and waiting for that without the millisecond steps of the runtime's timer.

use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cluster::now;

/// Shortest time between two wakings of the generator.
const BUNCH: Duration = Duration::from_micros(500);

/// The due times of one of several threads that share a rate. Pure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Operations per second of all threads.
    pub(super) rate: f64,
    pub(super) threads: u32,
    pub(super) thread: u32,
}

impl Pace {
    /// How long after the begin the operation `number` of this thread is due.
    ///
    /// Where a thread has more than one operation in a [`BUNCH`], those are due together: arrivals in
    /// bunches, each counted from the time it was due, and a generator that wakes up once for each.
    pub(super) fn due(&self, number: u64) -> Duration {
        let of_all = number as f64 * f64::from(self.threads) + f64::from(self.thread);
        let due = Duration::from_secs_f64(of_all / self.rate);
        if self.rate / f64::from(self.threads) * BUNCH.as_secs_f64() <= 1.0 {
            return due;
        }
        let bunches = due.as_nanos() / BUNCH.as_nanos();
        BUNCH.saturating_mul(u32::try_from(bunches).unwrap_or(u32::MAX))
    }
}

/// A timer of the kernel's own resolution.
pub(super) struct Pacer {
    timer: AsyncFd<OwnedFd>,
}

impl Pacer {
    /// # Errors
    /// When the system has no timer left.
    pub(super) fn new() -> std::io::Result<Pacer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: an `OwnedFd` owns its descriptor, names the same one always, and closes it only
        // when it is dropped, after it was taken out of the reactor.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        Ok(Pacer { timer: timer? })
    }

    /// Waits until a time; one that has passed lets others run once.
    pub(super) async fn until(&self, due: Instant) -> std::io::Result<()> {
        let left = due.saturating_duration_since(now());
        if left.is_zero() {
            tokio::task::yield_now().await;
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let once = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        let mut ready = self.timer.readable().await?;
        let mut count = [0u8; 8];
        match rustix::io::read(self.timer.get_ref(), &mut count) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_take_turns_at_the_common_rate() {
        let due = |thread, number| Pace { rate: 1_000.0, threads: 2, thread }.due(number);
        let us = |us| Duration::from_micros(us);
        assert_eq!(
            [due(0, 0), due(1, 0), due(0, 1), due(1, 1)],
            [us(0), us(1_000), us(2_000), us(3_000)]
        );
    }

    #[test]
    fn operations_closer_than_a_bunch_are_due_together_at_the_same_rate() {
        let pace = Pace { rate: 50_000.0, threads: 1, thread: 0 };
        assert_eq!(pace.due(24), Duration::ZERO);
        assert_eq!(pace.due(25), BUNCH);
        assert_eq!(pace.due(50_000), Duration::from_secs(1));
        let bunches: std::collections::BTreeSet<_> = (0..50_000).map(|at| pace.due(at)).collect();
        assert_eq!(bunches.len(), 2_000);
        let day = pace.due(86_400 * 50_000);
        assert_eq!(day, Duration::from_secs(86_400));
    }

    #[tokio::test]
    async fn it_waits_until_the_time_and_not_for_the_next_millisecond() {
        let pacer = Pacer::new().unwrap();
        let mut least = Duration::MAX;
        for _ in 0..50 {
            let due = now() + Duration::from_micros(300);
            pacer.until(due).await.unwrap();
            assert!(now() >= due);
            least = least.min(now() - due);
        }
        assert!(least < Duration::from_micros(600), "{least:?}");
        pacer.until(now()).await.unwrap();
    }
}
