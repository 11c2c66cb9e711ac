//! What follows from a write that the device refused: another place, and in the end a fence.
//!
//! Places that failed a write or lost their bytes are not used again while the target stays open.
//! They are not recorded: after a restart a place that is still bad fails its next write, or its
//! next scrub, and is avoided again, while one that was only unlucky comes back.

use std::collections::VecDeque;

use super::Store;
use super::extent::UNIT;
use crate::io::{Disk, DiskError, Nanos};
use crate::limits::{BAD_RUNS_MAX, WRITE_ERRORS_MAX, WRITE_ERRORS_PER_HOUR_MAX};

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

/// Failed writes of one generation.
#[derive(Debug, Default)]
pub(super) struct WriteErrors {
    /// Those of the last hour, oldest first; at most one more than allowed.
    recent: VecDeque<Nanos>,
    total: u32,
}

impl WriteErrors {
    /// Notes a failed write, with which `bad_runs` runs are avoided; false when the device is not
    /// to be trusted any more.
    pub(super) fn note(&mut self, now: Nanos, bad_runs: usize) -> bool {
        self.total = self.total.saturating_add(1);
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|first| now.since(*first) >= HOUR) {
            self.recent.pop_front();
        }
        self.recent.truncate(WRITE_ERRORS_PER_HOUR_MAX + 1);
        self.recent.len() <= WRITE_ERRORS_PER_HOUR_MAX
            && self.total <= WRITE_ERRORS_MAX
            && bad_runs <= BAD_RUNS_MAX
    }
}

impl<D: Disk> Store<D> {
    /// Tells the store the time, by which it judges how often the device fails.
    ///
    /// Call it every few seconds. Without it all failures count as of one hour.
    pub fn note_time(&self, now: Nanos) {
        self.upkeep.now.set(now);
        self.meter.tick();
    }

    /// Bytes of the arena that are not used any more while the target stays open: a write failed
    /// there, or bytes were lost.
    pub fn bad_bytes(&self) -> u64 {
        self.space.borrow().lost_units() * u64::from(UNIT)
    }

    /// Failed device writes since the target was opened.
    pub fn write_errors(&self) -> u32 {
        self.upkeep.write_errors.borrow().total
    }

    /// Counts a failed device write; true when the same bytes may be tried at another place.
    pub(super) async fn survives(&self, error: &DiskError) -> bool {
        if !matches!(error, DiskError::Io { operation: "write", .. }) {
            return false;
        }
        let (now, bad_runs) = (self.upkeep.now.get(), self.space.borrow().lost().len());
        if self.upkeep.write_errors.borrow_mut().note(now, bad_runs) {
            tracing::warn!(target_id = self.identity.target.0, %error, "write failed");
            return !self.fenced();
        }
        self.fence(&format!("too many device errors, the last: {error}"));
        self.record_fence().await;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_minute(minute: u64) -> Nanos {
        Nanos::from_ms(minute * 60_000)
    }

    #[test]
    fn more_errors_in_one_hour_than_allowed_end_the_trust() {
        let mut errors = WriteErrors::default();
        for _ in 0..WRITE_ERRORS_PER_HOUR_MAX {
            assert!(errors.note(at_minute(0), 0));
        }
        assert!(!errors.note(at_minute(59), 0));
    }

    #[test]
    fn rare_errors_are_borne_until_they_are_too_many() {
        let mut errors = WriteErrors::default();
        for number in 0..u64::from(WRITE_ERRORS_MAX) {
            assert!(errors.note(at_minute(number * 60), 0), "error {number}");
        }
        assert!(!errors.note(at_minute(10_000), 0));
    }

    #[test]
    fn a_device_with_too_many_bad_places_is_not_trusted() {
        assert!(WriteErrors::default().note(at_minute(0), BAD_RUNS_MAX));
        assert!(!WriteErrors::default().note(at_minute(0), BAD_RUNS_MAX + 1));
    }
}
