//! What was acknowledged, and what may have happened. Pure but for the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::status::Status;

use super::stamp::Stamp;
use crate::dice::Dice;

/// A file of the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Its number, unique in the run.
    pub number: u64,
    /// The task that wrote it.
    pub writer: u32,
    /// The operation that wrote it.
    pub operation: u64,
    /// Its length in bytes.
    pub size: u64,
}

impl FileRecord {
    /// Where it is.
    pub fn path(&self) -> String {
        format!("/w{}/f{}", self.writer, self.number)
    }

    /// Its name in the writer's folder.
    pub fn name(&self) -> Vec<u8> {
        format!("f{}", self.number).into_bytes()
    }

    /// What a cell of it must be.
    pub fn stamp(&self, run: u64, cell: u32) -> Stamp {
        let FileRecord { number, writer, operation, .. } = *self;
        Stamp { run, writer, cell, file: number, operation, counter: 0 }
    }
}

/// Every file of a run, by what is known of it.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    live: BTreeMap<u64, Arc<FileRecord>>,
    live_bytes: u64,
    /// Publication or removal asked for, and not acknowledged.
    unknown: BTreeMap<u64, Arc<FileRecord>>,
    /// Removed for certain since the last verification.
    removed: BTreeMap<u64, Arc<FileRecord>>,
    errors: Vec<Surfaced>,
    written_bytes: u64,
    written_files: u64,
    wrong: BTreeSet<String>,
}

/// An error that reached the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surfaced {
    /// What a server answered, when one did.
    pub status: Option<Status>,
    /// The error in words.
    pub text: String,
}

/// Sums over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files whose publication was acknowledged.
    pub written_files: u64,
    /// Their bytes.
    pub written_bytes: u64,
}

impl Ledger {
    /// The record of a new file.
    pub fn begin(&self, writer: u32, operation: u64, size: u64) -> Arc<FileRecord> {
        let mut state = self.state();
        state.next += 1;
        Arc::new(FileRecord { number: state.next, writer, operation, size })
    }

    /// Publication was asked for; its outcome is unknown until it is acknowledged.
    pub fn publishing(&self, file: &Arc<FileRecord>) {
        self.state().unknown.insert(file.number, Arc::clone(file));
    }

    /// Publication was acknowledged: from now on the file may not be lost.
    pub fn published(&self, file: &Arc<FileRecord>) {
        let mut state = self.state();
        state.unknown.remove(&file.number);
        state.live.insert(file.number, Arc::clone(file));
        state.live_bytes += file.size;
        state.written_bytes += file.size;
        state.written_files += 1;
    }

    /// The oldest live file of a writer, when all live files are more than `bytes_max` together.
    pub fn too_old(&self, writer: u32, bytes_max: u64) -> Option<Arc<FileRecord>> {
        let state = self.state();
        if state.live_bytes <= bytes_max {
            return None;
        }
        state.live.values().find(|file| file.writer == writer).cloned()
    }

    /// Removal is asked for; its outcome is unknown until it is acknowledged.
    pub fn removing(&self, file: &Arc<FileRecord>) {
        let mut state = self.state();
        if state.live.remove(&file.number).is_some() {
            state.live_bytes -= file.size;
        }
        state.unknown.insert(file.number, Arc::clone(file));
    }

    /// Removal was acknowledged: the file may not come back.
    pub fn removed(&self, file: &Arc<FileRecord>) {
        let mut state = self.state();
        state.unknown.remove(&file.number);
        state.removed.insert(file.number, Arc::clone(file));
    }

    /// Settles a file of unknown outcome by what was found.
    pub fn settle(&self, file: &Arc<FileRecord>, exists: bool) {
        let mut state = self.state();
        state.unknown.remove(&file.number);
        if exists {
            state.live.insert(file.number, Arc::clone(file));
            state.live_bytes += file.size;
        }
    }

    /// A live file, chosen by dice.
    pub fn any_live(&self, dice: &mut Dice) -> Option<Arc<FileRecord>> {
        let state = self.state();
        let (first, last) = (*state.live.keys().next()?, *state.live.keys().next_back()?);
        let from = dice.between(first, last + 1);
        state.live.range(from..).next().map(|(_, file)| Arc::clone(file))
    }

    /// True while the file may not be lost.
    pub fn is_live(&self, number: u64) -> bool {
        self.state().live.contains_key(&number)
    }

    /// Every live file.
    pub fn live(&self) -> Vec<Arc<FileRecord>> {
        self.state().live.values().cloned().collect()
    }

    /// Files of unknown outcome.
    pub fn unknown(&self) -> Vec<Arc<FileRecord>> {
        self.state().unknown.values().cloned().collect()
    }

    /// Files removed since this was last asked.
    pub fn take_removed(&self) -> Vec<Arc<FileRecord>> {
        std::mem::take(&mut self.state().removed).into_values().collect()
    }

    /// Notes an error that reached the workload.
    pub fn error(&self, status: Option<Status>, text: String) {
        self.state().errors.push(Surfaced { status, text });
    }

    /// Errors since this was last asked.
    pub fn take_errors(&self) -> Vec<Surfaced> {
        std::mem::take(&mut self.state().errors)
    }

    /// Notes bytes that were returned as good and are not.
    pub fn wrong(&self, text: String) {
        self.state().wrong.insert(text);
    }

    /// Wrong bytes since this was last asked.
    pub fn take_wrong(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.state().wrong)
    }

    /// Sums so far.
    pub fn totals(&self) -> Totals {
        let state = self.state();
        Totals { written_files: state.written_files, written_bytes: state.written_bytes }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_live_from_its_acknowledgement_until_its_removal_is_asked_for() {
        let ledger = Ledger::default();
        let file = ledger.begin(1, 1, 100);
        ledger.publishing(&file);
        assert!(!ledger.is_live(file.number));
        assert_eq!(ledger.unknown().len(), 1);
        ledger.published(&file);
        assert!(ledger.is_live(file.number) && ledger.unknown().is_empty());
        assert_eq!(ledger.too_old(1, 99).map(|file| file.number), Some(file.number));
        assert_eq!(ledger.too_old(1, 100), None);
        ledger.removing(&file);
        assert!(!ledger.is_live(file.number));
        ledger.removed(&file);
        assert_eq!(ledger.take_removed().len(), 1);
        assert!(ledger.take_removed().is_empty());
    }

    #[test]
    fn an_unknown_outcome_is_settled_by_what_is_found() {
        let ledger = Ledger::default();
        let (kept, lost) = (ledger.begin(1, 1, 10), ledger.begin(1, 2, 10));
        ledger.publishing(&kept);
        ledger.publishing(&lost);
        ledger.settle(&kept, true);
        ledger.settle(&lost, false);
        assert!(ledger.is_live(kept.number) && !ledger.is_live(lost.number));
        let mut dice = Dice::new(1);
        assert!((0..9).all(|_| ledger.any_live(&mut dice).is_some_and(|file| file == kept)));
    }
}
