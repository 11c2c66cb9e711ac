//! What is counted while the coordinator works.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::message::Kind;
use protocol::metrics::Durations;
use protocol::status::Status;

/// Answered requests by kind and status: as many entries as there are pairs of them.
#[derive(Debug, Default)]
pub struct RequestCounts {
    counts: Mutex<BTreeMap<(Kind, Status), u64>>,
}

/// What was appended to the log.
#[derive(Debug, Default)]
pub struct LogCounts {
    figures: Mutex<LogFigures>,
}

/// What was appended to the log since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFigures {
    /// Batches that are durable.
    pub appends: u64,
    /// Entries in them.
    pub entries: u64,
    /// From the order to append a batch until it was durable.
    pub times: Durations,
}

impl RequestCounts {
    /// A request was answered.
    pub fn note(&self, kind: Kind, status: Status) {
        let mut counts = lock(&self.counts);
        let count = counts.entry((kind, status)).or_default();
        *count = count.saturating_add(1);
    }

    /// The counts as they are.
    pub fn counts(&self) -> BTreeMap<(Kind, Status), u64> {
        lock(&self.counts).clone()
    }
}

impl LogCounts {
    /// A batch became durable.
    pub fn note(&self, entries: usize, took: Duration) {
        let mut figures = lock(&self.figures);
        figures.appends += 1;
        figures.entries += entries as u64;
        figures.times.note(took);
    }

    /// The counts as they are.
    pub fn figures(&self) -> LogFigures {
        lock(&self.figures).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds the lock, and a count is whole between two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_kind_and_status() {
        let counts = RequestCounts::default();
        counts.note(Kind::Lookup, Status::Ok);
        counts.note(Kind::Lookup, Status::NotFound);
        counts.note(Kind::Lookup, Status::Ok);
        let expected = [((Kind::Lookup, Status::Ok), 2), ((Kind::Lookup, Status::NotFound), 1)];
        assert_eq!(counts.counts(), BTreeMap::from(expected));
    }

    #[test]
    fn batches_are_counted_with_their_entries_and_times() {
        let counts = LogCounts::default();
        counts.note(3, Duration::from_millis(2));
        counts.note(1, Duration::from_millis(1));
        let figures = counts.figures();
        assert_eq!((figures.appends, figures.entries), (2, 4));
        assert_eq!((figures.times.count(), figures.times.sum_us()), (2, 3000));
    }
}
