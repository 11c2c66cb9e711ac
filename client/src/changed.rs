//! Contents whose bytes this client may have changed. Pure.
//!
//! The coordinator does not wait for words it gave to the one who opens a file for changing, so a
//! client itself must not go on reading such a file as one that only ever grew.

use std::collections::BTreeSet;

use protocol::ids::Fid;

use crate::limits::CHANGED_FILES_MAX;

/// What was changed.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    fids: BTreeSet<Fid>,
    /// There were too many to remember: everything counts as changed.
    all: bool,
}

impl Changed {
    /// Remembers a content.
    pub(crate) fn note(&mut self, fid: Fid) {
        self.fids.insert(fid);
        if self.fids.len() > CHANGED_FILES_MAX {
            self.all = true;
            self.fids.clear();
        }
    }

    /// From now on everything counts as changed.
    pub(crate) fn note_all(&mut self) {
        self.all = true;
        self.fids.clear();
    }

    /// True when the content may have been changed.
    pub(crate) fn has(&self, fid: Fid) -> bool {
        self.all || self.fids.contains(&fid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_too_many_changes_everything_counts_as_changed() {
        let mut changed = Changed::default();
        let most = u64::try_from(CHANGED_FILES_MAX).unwrap();
        (0..most).for_each(|fid| changed.note(Fid(fid)));
        assert!(changed.has(Fid(0)) && !changed.has(Fid(most)));
        changed.note(Fid(most));
        assert!(changed.has(Fid(most + 1)));
    }
}
