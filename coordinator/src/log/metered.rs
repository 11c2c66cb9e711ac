//! A log that counts what is appended to it and how long that took.

use std::sync::Arc;

use super::{Entry, Log, LogError, LogId, Visit, Vote};
use crate::clock;
use crate::metrics::LogCounts;

/// Another log, measured.
#[derive(Debug)]
pub struct MeteredLog<L> {
    log: L,
    counts: Arc<LogCounts>,
}

impl<L: Log> MeteredLog<L> {
    /// Counts what is appended to `log` from now on.
    pub fn new(log: L, counts: Arc<LogCounts>) -> MeteredLog<L> {
        MeteredLog { log, counts }
    }
}

impl<L: Log> Log for MeteredLog<L> {
    fn append(&mut self, entries: &[Entry]) -> Result<(), LogError> {
        let begun = clock::boottime();
        self.log.append(entries)?;
        self.counts.note(entries.len(), clock::boottime().since(begun));
        Ok(())
    }

    fn save_vote(&mut self, vote: Vote) -> Result<(), LogError> {
        self.log.save_vote(vote)
    }

    fn vote(&self) -> Vote {
        self.log.vote()
    }

    fn last(&self) -> LogId {
        self.log.last()
    }

    fn read_from<E: From<LogError>>(&self, index: u64, visit: Visit<'_, E>) -> Result<(), E> {
        self.log.read_from(index, visit)
    }

    fn purge(&mut self, below: u64) -> Result<(), LogError> {
        self.log.purge(below)
    }
}
