//! What a load did, second by second. Pure: durations come in.

use hdrhistogram::Histogram;

use crate::cluster::StepError;
use crate::limits::{LOAD_ERRORS_KEPT, LOAD_LATE_US, LOAD_TIME_MAX_US};

/// Digits that a recorded time keeps.
const DIGITS: u8 = 3;

/// How one operation went.
#[derive(Clone, Debug)]
pub(super) struct Done {
    /// From when it was due, or began without a rate, to its end, in microseconds.
    pub(super) took_us: u64,
    /// How late the generator itself began it, in microseconds.
    pub(super) late_us: u64,
    /// Payload bytes, or why it failed.
    pub(super) outcome: Result<u64, String>,
}

/// Operations of one second, or of all.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) times: Histogram<u64>,
    pub(super) bytes: u64,
    pub(super) failed: u64,
    pub(super) late: u64,
    /// The first failures, as they were told.
    pub(super) errors: Vec<String>,
}

impl Tally {
    /// Nothing yet.
    ///
    /// # Errors
    /// [`StepError::Different`] never happens with the bounds of `limits.rs`.
    pub(super) fn new() -> Result<Tally, StepError> {
        let times = Histogram::new_with_bounds(1, LOAD_TIME_MAX_US, DIGITS)
            .map_err(|error| StepError::Different(format!("histogram: {error}")))?;
        Ok(Tally { times, bytes: 0, failed: 0, late: 0, errors: Vec::new() })
    }

    /// Adds an operation. What failed has no time: it is counted and told.
    pub(super) fn note(&mut self, done: Done) {
        self.late += u64::from(done.late_us > LOAD_LATE_US);
        match done.outcome {
            Ok(bytes) => {
                self.bytes += bytes;
                self.times.saturating_record(done.took_us.max(1));
            }
            Err(text) => {
                self.failed += 1;
                self.keep(text);
            }
        }
    }

    /// Adds what another one counted.
    pub(super) fn add(&mut self, other: &Tally) -> Result<(), StepError> {
        self.times
            .add(&other.times)
            .map_err(|error| StepError::Different(format!("histogram: {error}")))?;
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.late += other.late;
        other.errors.iter().cloned().for_each(|text| self.keep(text));
        Ok(())
    }

    /// Operations that succeeded or failed.
    pub(super) fn count(&self) -> u64 {
        self.times.len() + self.failed
    }

    /// A quantile of the times in milliseconds; `of` is 0 to 1.
    pub(super) fn ms(&self, of: f64) -> f64 {
        self.times.value_at_quantile(of) as f64 / 1e3
    }

    fn keep(&mut self, text: String) {
        if self.errors.len() < LOAD_ERRORS_KEPT && !self.errors.contains(&text) {
            self.errors.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(took_us: u64, late_us: u64, outcome: Result<u64, &str>) -> Done {
        Done { took_us, late_us, outcome: outcome.map_err(str::to_owned) }
    }

    #[test]
    fn what_was_noted_is_counted_once() {
        let mut tally = Tally::new().unwrap();
        (1..=100).for_each(|ms| tally.note(done(ms * 1_000, 0, Ok(10))));
        tally.note(done(1, LOAD_LATE_US + 1, Err("refused")));
        tally.note(done(1, LOAD_LATE_US, Err("refused")));
        assert_eq!((tally.count(), tally.bytes, tally.failed, tally.late), (102, 1_000, 2, 1));
        assert_eq!(tally.errors, ["refused"]);
        assert!((tally.ms(0.5) - 50.0).abs() < 0.1 && (tally.ms(0.99) - 99.0).abs() < 0.1);
        let mut all = Tally::new().unwrap();
        all.add(&tally).unwrap();
        all.add(&tally).unwrap();
        assert_eq!((all.count(), all.bytes, all.late), (204, 2_000, 2));
        assert_eq!(all.errors.len(), 1);
    }

    #[test]
    fn a_time_beyond_the_longest_is_kept_as_the_longest() {
        let mut tally = Tally::new().unwrap();
        tally.note(done(10 * LOAD_TIME_MAX_US, 0, Ok(1)));
        let longest = LOAD_TIME_MAX_US as f64 / 1e3;
        assert!((tally.ms(1.0) - longest).abs() / longest < 0.01, "{}", tally.ms(1.0));
    }

    #[test]
    fn only_the_first_errors_are_kept() {
        let mut tally = Tally::new().unwrap();
        (0..100).for_each(|number| tally.note(done(1, 0, Err(&format!("error {number}")))));
        assert_eq!((tally.errors.len(), tally.failed), (LOAD_ERRORS_KEPT, 100));
    }
}
