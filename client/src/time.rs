//! Time as the pure parts see it: nanoseconds since a start that does not matter.

/// A point in time, or a duration, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The duration of `ms` milliseconds.
    pub const fn from_ms(ms: u64) -> Nanos {
        Nanos(ms.saturating_mul(1_000_000))
    }

    /// Whole milliseconds in it.
    pub const fn as_ms(self) -> u64 {
        self.0 / 1_000_000
    }

    /// This point in time and `more` after it.
    #[must_use]
    pub const fn plus(self, more: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(more.0))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}
