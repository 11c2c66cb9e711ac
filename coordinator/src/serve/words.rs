//! Who was told that a file only ever grew, and when.
//!
//! A reader that was told so may read any replica for [`GROWTH_WORD`], also one that left its group.
//! The first change of existing bytes therefore waits until every such word has run out. Words are
//! kept in memory: a coordinator that has just started assumes that everybody was told everything.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use protocol::ids::{Fid, SessionId};
use protocol::message::namespace::Entry;
use protocol::time::Nanos;

use crate::limits::{GROWTH_WORD, GROWTH_WORDS_MAX};

/// Words that may still be relied on.
#[derive(Debug)]
pub struct Words {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    told: BTreeMap<Fid, Told>,
    /// Somebody may have been told anything until then: before this process started, or when
    /// there were too many words to keep.
    anything: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    /// When it was told last to any session but `session`.
    others: Option<Nanos>,
    /// The session it was told to last, and when.
    session: SessionId,
    at: Nanos,
}

impl Words {
    /// Starts at `now`, as if everything had just been told to everybody.
    pub fn new(now: Nanos) -> Words {
        Words { inner: Mutex::new(Inner { told: BTreeMap::new(), anything: now }) }
    }

    /// Takes note of what a reader is told.
    pub fn note<'a>(
        &self,
        session: SessionId,
        now: Nanos,
        entries: impl Iterator<Item = &'a Entry>,
    ) {
        let contents = entries.filter_map(|entry| entry.content.as_ref());
        let mut grown = contents.filter(|content| content.growth_only).peekable();
        if grown.peek().is_none() {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for content in grown {
            inner.note(content.fid, session, now);
        }
    }

    /// When the last word about a file runs out that anybody but `session` was given.
    pub fn run_out(&self, fid: Fid, session: SessionId) -> Nanos {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let told = inner.told.get(&fid);
        let last = told.and_then(|told| {
            let own = session != SessionId(0) && told.session == session;
            if own { told.others } else { Some(told.others.map_or(told.at, |at| at.max(told.at))) }
        });
        last.map_or(inner.anything, |at| at.max(inner.anything)).after(GROWTH_WORD)
    }
}

impl Inner {
    fn note(&mut self, fid: Fid, session: SessionId, now: Nanos) {
        if self.told.len() >= GROWTH_WORDS_MAX && !self.told.contains_key(&fid) {
            self.told.retain(|_, told| now.since(told.at) < GROWTH_WORD);
        }
        if self.told.len() >= GROWTH_WORDS_MAX && !self.told.contains_key(&fid) {
            // Too many to know: from now on everything counts as told.
            self.told.clear();
            self.anything = now;
        }
        let told = self.told.entry(fid).or_insert(Told { others: None, session, at: now });
        if told.session != session || session == SessionId(0) {
            told.others = Some(told.at);
        }
        (told.session, told.at) = (session, now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::ids::{Ino, MapVersion};
    use protocol::layout::Layout;
    use protocol::message::namespace::{Attributes, FileContent, FileType, Time};

    use super::*;

    const ME: SessionId = SessionId(1);
    const OTHER: SessionId = SessionId(2);

    fn at(ms: u64) -> Nanos {
        Nanos(0).after(Duration::from_millis(ms))
    }

    fn entry(fid: u64, growth_only: bool) -> Entry {
        let time = Time::default();
        let content = FileContent {
            fid: Fid(fid),
            layout: Layout { segments: Vec::new(), cell_log2: 14 },
            trunc_gen: 0,
            growth_only,
            stamp: MapVersion(1),
            token: Vec::new(),
            truncating: false,
            writing: false,
            recovered: false,
        };
        let attributes = Attributes {
            ino: Ino(2),
            file_type: FileType::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 0,
            mtime: time,
            ctime: time,
        };
        Entry { attributes, content: Some(content), link: Vec::new() }
    }

    #[test]
    fn a_word_to_another_session_is_waited_for() {
        let words = Words::new(at(0));
        assert_eq!(words.run_out(Fid(7), ME), at(0).after(GROWTH_WORD), "as if told at the start");
        let later = at(60_000);
        words.note(ME, later, [entry(7, true)].iter());
        assert_eq!(words.run_out(Fid(7), ME), at(0).after(GROWTH_WORD), "own words do not count");
        assert_eq!(words.run_out(Fid(7), OTHER), later.after(GROWTH_WORD));
        words.note(OTHER, later, [entry(7, true)].iter());
        assert_eq!(words.run_out(Fid(7), ME), later.after(GROWTH_WORD));
        words.note(ME, at(61_000), [entry(7, true)].iter());
        assert_eq!(words.run_out(Fid(7), ME), later.after(GROWTH_WORD));
        words.note(OTHER, at(62_000), [entry(8, false)].iter());
        assert_eq!(words.run_out(Fid(8), ME), at(0).after(GROWTH_WORD), "nothing was promised");
    }

    #[test]
    fn a_reader_without_a_session_is_always_another() {
        let words = Words::new(at(0));
        let nobody = SessionId(0);
        words.note(nobody, at(60_000), [entry(7, true)].iter());
        assert_eq!(words.run_out(Fid(7), nobody), at(60_000).after(GROWTH_WORD));
    }

    #[test]
    fn too_many_words_count_as_told_to_everybody() {
        let words = Words::new(at(0));
        let most = u64::try_from(GROWTH_WORDS_MAX).unwrap();
        for fid in 0..=most {
            words.note(ME, at(60_000), [entry(fid, true)].iter());
        }
        assert_eq!(words.run_out(Fid(1), ME), at(60_000).after(GROWTH_WORD));
    }
}
