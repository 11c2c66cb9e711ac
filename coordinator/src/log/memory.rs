//! A log in memory: for tests and for the simulator, with a write that fails on request.

use super::{Entry, Log, LogError, LogId, Visit, Vote};

/// Keeps entries in memory; nothing survives the process.
#[derive(Debug, Default)]
pub struct MemoryLog {
    entries: Vec<Entry>,
    first: u64,
    vote: Vote,
    appends_left: Option<u64>,
    fenced: bool,
}

impl MemoryLog {
    /// Makes an empty log.
    pub fn new() -> MemoryLog {
        MemoryLog { first: 1, ..MemoryLog::default() }
    }

    /// Makes an empty log whose device fails after `appends` batches.
    pub fn failing_after(appends: u64) -> MemoryLog {
        MemoryLog { appends_left: Some(appends), ..MemoryLog::new() }
    }

    fn write(&mut self) -> Result<(), LogError> {
        if self.fenced {
            return Err(LogError::Fenced);
        }
        if let Some(left) = &mut self.appends_left {
            let Some(rest) = left.checked_sub(1) else {
                self.fenced = true;
                let source = std::io::Error::other("device failed on request");
                return Err(LogError::Io { path: "memory".into(), action: "fdatasync", source });
            };
            *left = rest;
        }
        Ok(())
    }
}

impl Log for MemoryLog {
    fn append(&mut self, entries: &[Entry]) -> Result<(), LogError> {
        self.write()?;
        self.entries.extend_from_slice(entries);
        Ok(())
    }

    fn save_vote(&mut self, vote: Vote) -> Result<(), LogError> {
        self.write()?;
        self.vote = vote;
        Ok(())
    }

    fn vote(&self) -> Vote {
        self.vote
    }

    fn last(&self) -> LogId {
        let before = LogId { term: 0, index: self.first - 1 };
        self.entries.last().map_or(before, |entry| entry.id)
    }

    fn read_from<E: From<LogError>>(&self, index: u64, visit: Visit<'_, E>) -> Result<(), E> {
        if index < self.first {
            let (first, path) = (self.first, "memory".into());
            return Err(LogError::Gap { path, first, wanted: index }.into());
        }
        self.entries.iter().filter(|entry| entry.id.index >= index).cloned().try_for_each(visit)
    }

    fn purge(&mut self, below: u64) -> Result<(), LogError> {
        let keep = below.min(self.last().index);
        self.entries.retain(|entry| entry.id.index >= keep);
        self.first = self.entries.first().map_or(self.first, |entry| entry.id.index);
        Ok(())
    }
}
