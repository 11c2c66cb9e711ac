//! Points in time, as every pure part takes them.
//!
//! Owns the arithmetic alone. Knows no clock: whoever drives a pure part reads one and passes the
//! point on. All points that are compared with each other come from one clock.

use std::time::Duration;

/// Nanoseconds of a clock that only goes forward; where it started does not matter.
///
/// Servers count on `CLOCK_BOOTTIME`, which goes on while the machine sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The point `ms` milliseconds after the start of the clock.
    pub const fn from_ms(ms: u64) -> Nanos {
        Nanos(ms.saturating_mul(1_000_000))
    }

    /// Whole milliseconds since the start of the clock.
    pub const fn as_ms(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Later by `duration`, saturating.
    #[must_use]
    pub fn after(self, duration: Duration) -> Nanos {
        Nanos(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to `self`, zero when it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Nanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_neither_wraps_nor_goes_backwards() {
        let (early, late) = (Nanos::from_ms(1), Nanos(u64::MAX));
        assert_eq!(early.after(Duration::from_millis(2)), Nanos::from_ms(3));
        assert_eq!(late.after(Duration::MAX), late);
        assert_eq!(Nanos::from_ms(u64::MAX), late);
        assert_eq!(Nanos::from_ms(7).since(early), Duration::from_millis(6));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(Nanos(1_999_999).as_ms(), 1);
    }
}
