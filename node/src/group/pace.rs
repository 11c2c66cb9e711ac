//! How fast background work may move bytes: a bucket that fills with time.
//!
//! Work comes in whole chunks, so the bucket may go below empty and has to fill up again before the
//! next chunk: over any longer time exactly the rate is used while work is pending. Time not used
//! is kept only for a moment, so that a pause is not followed by a flood.

use crate::io::Nanos;
use crate::limits::PACE_BURST_MS;

/// A byte budget per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    rate: u64,
    /// Bytes that may be used, times a thousand million; negative after a chunk that was larger.
    credit: i128,
    at: Nanos,
}

const SECOND: i128 = 1_000_000_000;

impl Pace {
    /// A budget of `rate` bytes per second whose bucket is empty.
    pub fn new(rate: u64) -> Pace {
        Pace { rate, credit: 0, at: Nanos(0) }
    }

    /// Bytes per second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Lets time pass at a rate that may be another one from now on.
    pub fn pass(&mut self, now: Nanos, rate: u64) {
        let elapsed = i128::try_from(now.since(self.at).as_nanos()).unwrap_or(i128::MAX);
        let most = i128::from(self.rate) * i128::from(PACE_BURST_MS) * (SECOND / 1000);
        let earned = elapsed.saturating_mul(i128::from(self.rate));
        self.credit = self.credit.saturating_add(earned).min(most);
        self.at = self.at.max(now);
        if rate != self.rate {
            self.rate = rate;
            self.credit = self.credit.clamp(-i128::from(rate) * SECOND, 0);
        }
    }

    /// True when something may start now.
    pub fn has_room(&self) -> bool {
        self.credit > 0
    }

    /// Takes what was started, also more than there is.
    pub fn take(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_sub(i128::from(bytes) * SECOND);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Starts chunks whenever there is room, looking every `tick_ms`; bytes started.
    fn run(pace: &mut Pace, from_ms: u64, to_ms: u64, tick_ms: usize, chunk: u64) -> u64 {
        let mut bytes = 0;
        for ms in (from_ms..to_ms).step_by(tick_ms) {
            pace.pass(Nanos::from_ms(ms), pace.rate());
            while pace.has_room() {
                pace.take(chunk);
                bytes += chunk;
            }
        }
        bytes
    }

    #[test]
    fn while_work_is_pending_the_whole_rate_is_used_and_no_more() {
        for rate in [MIB, 10 * MIB, 200 * MIB, 3000 * MIB] {
            for tick_ms in [1, 5, 40, 100] {
                let mut pace = Pace::new(rate);
                let seconds = 20;
                let bytes = run(&mut pace, 0, seconds * 1000, tick_ms, 4 * MIB);
                let share = bytes as f64 / (rate * seconds) as f64;
                let most = 1.0 + (4 * MIB) as f64 / (rate * seconds) as f64;
                assert!((0.95..=most).contains(&share), "{rate} at {tick_ms} ms: {share}");
            }
        }
    }

    #[test]
    fn a_pause_earns_no_more_than_a_burst() {
        let mut pace = Pace::new(100 * MIB);
        run(&mut pace, 0, 1000, 5, 4 * MIB);
        let bytes = run(&mut pace, 60_000, 60_001, 1, MIB);
        let burst = 100 * MIB * PACE_BURST_MS / 1000;
        assert!(bytes >= burst && bytes <= burst + MIB, "{bytes} after a minute");
    }

    #[test]
    fn a_lower_rate_is_kept_to_at_once_and_an_old_debt_does_not_outlive_a_second() {
        let mut pace = Pace::new(1000 * MIB);
        pace.pass(Nanos::from_ms(1000), 1000 * MIB);
        pace.take(900 * MIB);
        pace.pass(Nanos::from_ms(1001), MIB);
        assert!(!pace.has_room());
        pace.pass(Nanos::from_ms(2002), MIB);
        assert!(pace.has_room());
        pace.pass(Nanos::from_ms(2003), 0);
        pace.pass(Nanos::from_ms(9000), 0);
        assert!(!pace.has_room(), "nothing moves at rate 0");
    }
}
