//! How long many things took: counts by length, which add up and can be subtracted.
//!
//! The counts only grow, so any number of watchers may each look at their own interval: two looks,
//! [`Durations::since`], and the percentiles are those of the time between. Recording is one
//! addition and allocates nothing.

use std::time::Duration;

/// Counts that one value has: eight for each power of two of microseconds, up to 67 s; what took
/// longer is in the last.
pub const DURATION_BUCKETS: usize = 192;

/// Eight counts for each power of two: a percentile is at most an eighth too long.
const STEPS_LOG2: u32 = 3;
const STEPS: u64 = 1 << STEPS_LOG2;

/// How often things took how long, since the start of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durations {
    counts: Box<[u64; DURATION_BUCKETS]>,
    sum_us: u64,
}

impl Default for Durations {
    fn default() -> Durations {
        Durations { counts: Box::new([0; DURATION_BUCKETS]), sum_us: 0 }
    }
}

impl Durations {
    /// Puts together what another process counted; counts that are missing are zero, and what is
    /// beyond [`DURATION_BUCKETS`] is left out.
    pub fn from_parts(counts: impl IntoIterator<Item = u64>, sum_us: u64) -> Durations {
        let mut durations = Durations { sum_us, ..Durations::default() };
        durations.counts.iter_mut().zip(counts).for_each(|(own, count)| *own = count);
        durations
    }

    /// The counts, shortest first, without the zeros at the end.
    pub fn counts(&self) -> &[u64] {
        let used = self.counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        &self.counts[..used]
    }

    /// Takes note of one duration, in microseconds rounded up.
    pub fn note(&mut self, took: Duration) {
        let us = u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let count = &mut self.counts[bucket(us)];
        *count = count.saturating_add(1);
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How long all of them took together, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// What was added since an earlier look at the same counts. Counts that fell are those of a new
    /// process: then everything is new.
    #[must_use]
    pub fn since(&self, earlier: &Durations) -> Durations {
        let fell = self.sum_us < earlier.sum_us
            || self.counts.iter().zip(earlier.counts.iter()).any(|(now, then)| now < then);
        if fell {
            return self.clone();
        }
        let added = self.counts.iter().zip(earlier.counts.iter()).map(|(now, then)| now - then);
        Durations::from_parts(added, self.sum_us - earlier.sum_us)
    }

    /// The time within which so many of a thousand were done, an eighth too long at most; `None`
    /// when there were none.
    pub fn within(&self, permille: u32) -> Option<Duration> {
        let count = self.count();
        let rank = (u128::from(count) * u128::from(permille)).div_ceil(1000).max(1);
        let mut seen = 0;
        for (at, here) in self.counts.iter().enumerate() {
            seen += u128::from(*here);
            if *here > 0 && seen >= rank {
                return Some(Duration::from_micros(longest_us(at)));
            }
        }
        None
    }

    /// How many were done within 2 to the power of `log2` microseconds.
    pub fn within_us_log2(&self, log2: u32) -> u64 {
        let upto = 1_u64.checked_shl(log2).unwrap_or(u64::MAX);
        let short = (0..DURATION_BUCKETS).take_while(|at| longest_us(*at) <= upto);
        short.fold(0, |sum, at| sum.saturating_add(self.counts[at]))
    }
}

/// Where a duration is counted: exact up to eight microseconds, then eight for each power of two.
/// A bucket holds its upper bound, so a power of two ends one.
fn bucket(us: u64) -> usize {
    let below = us.saturating_sub(1);
    if below < STEPS {
        return usize::try_from(below).unwrap_or(0);
    }
    let log2 = below.ilog2();
    let step = (below >> (log2 - STEPS_LOG2)) & (STEPS - 1);
    let at = STEPS * u64::from(log2 - STEPS_LOG2 + 1) + step;
    usize::try_from(at).unwrap_or(usize::MAX).min(DURATION_BUCKETS - 1)
}

/// The longest duration that a bucket counts, in microseconds.
fn longest_us(at: usize) -> u64 {
    let (power, step) = (at as u64 / STEPS, at as u64 % STEPS);
    if power == 0 { step + 1 } else { (STEPS + step + 1) << (power - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(durations_us: impl IntoIterator<Item = u64>) -> Durations {
        let mut durations = Durations::default();
        durations_us.into_iter().for_each(|us| durations.note(Duration::from_micros(us)));
        durations
    }

    #[test]
    fn every_duration_lies_in_its_bucket_and_buckets_are_narrow() {
        let around = |us: u64| [us.saturating_sub(1).max(1), us, us + 1];
        for us in (0..26).flat_map(|log2| around(1 << log2)).chain([12_345, 66_000_000]) {
            let longest = longest_us(bucket(us));
            assert!(longest >= us && longest * 8 <= us * 9 + 8, "{us} counts as {longest}");
        }
        assert_eq!(bucket(1 << 26), DURATION_BUCKETS - 1);
        assert_eq!(bucket(u64::MAX), DURATION_BUCKETS - 1, "what took longer is in the last");
        assert_eq!(bucket(0), 0);
    }

    #[test]
    fn percentiles_are_those_of_the_interval_between_two_looks() {
        let first = of((0..1000).map(|_| 100_000));
        let mut second = first.clone();
        (0..99).for_each(|_| second.note(Duration::from_micros(64)));
        second.note(Duration::from_micros(4096));
        let between = second.since(&first);
        assert_eq!((between.count(), between.sum_us()), (100, 99 * 64 + 4096));
        assert_eq!(between.within(500), Some(Duration::from_micros(64)));
        assert_eq!(between.within(990), Some(Duration::from_micros(64)));
        assert_eq!(between.within(1000), Some(Duration::from_micros(4096)));
        assert_eq!(Durations::default().within(990), None);
        assert_eq!(first.since(&second), first, "a new process starts at zero");
    }

    #[test]
    fn a_power_of_two_is_within_itself() {
        let durations = of([1, 63, 64, 65, 128]);
        let within = [0, 6, 7, 26, 80].map(|log2| durations.within_us_log2(log2));
        assert_eq!(within, [1, 3, 5, 5, 5]);
    }

    #[test]
    fn parts_put_together_are_the_whole() {
        let durations = of([3, 900, 17_000]);
        let again = Durations::from_parts(durations.counts().to_vec(), durations.sum_us());
        assert_eq!(again, durations);
        let long = Durations::from_parts(vec![1; DURATION_BUCKETS + 9], 0);
        assert_eq!(long.count(), DURATION_BUCKETS as u64);
    }
}
