//! Who was told that a file only ever grew, and when.
//!
//! A reader that was told so may read any replica for [`GROWTH_WORD`], also one that left its group.
//! The first change of existing bytes therefore waits until everybody has given the word back, for
//! which each is asked, or until it has run out. Words are kept in memory: a coordinator that has
//! just started assumes that everybody was told everything.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::guard::{self, Guard};
use protocol::ids::{Fid, SessionId};
use protocol::message::namespace::Entry;
use protocol::time::Nanos;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::limits::{CLEARED_FOR, CLEARED_MAX, GROWTH_WORD, GROWTH_WORDS_MAX};

/// Words that may still be relied on.
#[derive(Debug)]
pub struct Words {
    inner: Mutex<Inner>,
    returned: Notify,
}

/// Who is told something: one connection, and the session it acts for, when there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Number of the connection; 0 for none.
    pub connection: u64,
    /// The session; 0 for none.
    pub session: SessionId,
}

#[derive(Debug)]
struct Inner {
    /// By content, and by the connection over which it was told.
    told: BTreeMap<Fid, BTreeMap<u64, Told>>,
    /// Words in `told`.
    count: usize,
    /// Somebody may have been told anything until then: before this process started, or when
    /// there were too many words to keep.
    anything: Nanos,
    cleared: Cleared,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    session: SessionId,
    at: Nanos,
}

/// Contents that may have been changed since a read began that is not answered yet.
#[derive(Debug, Default)]
struct Cleared {
    fids: BTreeMap<Fid, Nanos>,
    /// Until then every content counts as one of them: there were too many.
    all_until: Nanos,
}

impl Words {
    /// Starts at `now`, as if everything had just been told to everybody.
    pub fn new(now: Nanos) -> Words {
        let inner =
            Inner { told: BTreeMap::new(), count: 0, anything: now, cleared: Cleared::default() };
        Words { inner: Mutex::new(inner), returned: Notify::new() }
    }

    /// Takes note of what a reader is about to be told; what was looked up before a file was
    /// cleared is corrected.
    pub fn note<'a>(
        &self,
        holder: Holder,
        now: Nanos,
        entries: impl Iterator<Item = &'a mut Entry>,
    ) {
        let contents = entries.filter_map(|entry| entry.content.as_mut());
        let mut grown = contents.filter(|content| content.growth_only).peekable();
        if grown.peek().is_none() {
            return;
        }
        let mut inner = self.lock();
        for content in grown {
            if guard::holds(Guard::LateWord) && inner.cleared.has(content.fid, now) {
                content.growth_only = false;
            } else {
                inner.note(content.fid, holder, now);
            }
        }
    }

    /// Takes note that a file only grows no more, which the newest view says already; the
    /// connections of all others who were told so, to be told that too.
    pub fn clear(&self, fid: Fid, by: Holder, now: Nanos) -> Vec<u64> {
        let mut inner = self.lock();
        inner.cleared.note(fid, now);
        let Some(told) = inner.told.get_mut(&fid) else { return Vec::new() };
        let before = told.len();
        // Whoever clears it knows.
        told.retain(|connection, told| !is_own(by, *connection, told.session));
        let gone = before - told.len();
        let fresh = told.iter().filter(|(_, told)| now.since(told.at) < GROWTH_WORD);
        let others = fresh.map(|(connection, _)| *connection).collect();
        inner.count -= gone;
        others
    }

    /// Takes note that a client gave words back; all that it had when `fids` is empty.
    pub fn give_back(&self, connection: u64, fids: &[Fid]) {
        let mut inner = self.lock();
        let mut given = 0;
        if fids.is_empty() {
            for told in inner.told.values_mut() {
                given += usize::from(told.remove(&connection).is_some());
            }
        }
        for fid in fids {
            let told = inner.told.get_mut(fid).and_then(|told| told.remove(&connection));
            given += usize::from(told.is_some());
        }
        inner.told.retain(|_, told| !told.is_empty());
        inner.count -= given;
        drop(inner);
        if given > 0 {
            self.returned.notify_waiters();
        }
    }

    /// Ends when a word was given back after this was called.
    pub fn returned(&self) -> Notified<'_> {
        self.returned.notified()
    }

    /// When the last word about a file runs out that anybody but `holder` was given.
    pub fn run_out(&self, fid: Fid, holder: Holder) -> Nanos {
        let inner = self.lock();
        let told = inner.told.get(&fid).into_iter().flatten();
        let others = told.filter(|(connection, told)| !is_own(holder, **connection, told.session));
        let last = others.map(|(_, told)| told.at).max();
        last.map_or(inner.anything, |at| at.max(inner.anything)).after(GROWTH_WORD)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note(&mut self, fid: Fid, holder: Holder, now: Nanos) {
        if self.count >= GROWTH_WORDS_MAX {
            for told in self.told.values_mut() {
                told.retain(|_, told| now.since(told.at) < GROWTH_WORD);
            }
            self.told.retain(|_, told| !told.is_empty());
            self.count = self.told.values().map(BTreeMap::len).sum();
        }
        if self.count >= GROWTH_WORDS_MAX {
            // Too many to know: from now on everything counts as told.
            self.told.clear();
            self.count = 0;
            self.anything = now;
        }
        let told = Told { session: holder.session, at: now };
        let before = self.told.entry(fid).or_default().insert(holder.connection, told);
        self.count += usize::from(before.is_none());
    }
}

impl Cleared {
    fn note(&mut self, fid: Fid, now: Nanos) {
        if self.fids.len() >= CLEARED_MAX {
            self.fids.retain(|_, at| now.since(*at) < CLEARED_FOR);
        }
        if self.fids.len() >= CLEARED_MAX {
            self.fids.clear();
            self.all_until = now.after(CLEARED_FOR);
        }
        self.fids.insert(fid, now);
    }

    fn has(&self, fid: Fid, now: Nanos) -> bool {
        now < self.all_until || self.fids.contains_key(&fid)
    }
}

/// True when a word was told to `holder` itself.
fn is_own(holder: Holder, connection: u64, session: SessionId) -> bool {
    connection == holder.connection || (session != SessionId(0) && session == holder.session)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::ids::{Ino, MapVersion};
    use protocol::layout::Layout;
    use protocol::message::namespace::{Attributes, FileContent, FileType, Time};

    use super::*;

    const ME: Holder = Holder { connection: 1, session: SessionId(1) };
    const OTHER: Holder = Holder { connection: 2, session: SessionId(2) };
    const THIRD: Holder = Holder { connection: 3, session: SessionId(0) };

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

    fn note(words: &Words, holder: Holder, now: Nanos, fid: u64) -> bool {
        let mut entries = [entry(fid, true)];
        words.note(holder, now, entries.iter_mut());
        entries[0].content.as_ref().is_some_and(|content| content.growth_only)
    }

    #[test]
    fn a_word_to_somebody_else_is_waited_for() {
        let words = Words::new(at(0));
        assert_eq!(words.run_out(Fid(7), ME), at(0).after(GROWTH_WORD), "as if told at the start");
        let later = at(60_000);
        note(&words, ME, later, 7);
        assert_eq!(words.run_out(Fid(7), ME), at(0).after(GROWTH_WORD), "own words do not count");
        let me_again = Holder { connection: 9, ..ME };
        assert_eq!(words.run_out(Fid(7), me_again), at(0).after(GROWTH_WORD));
        assert_eq!(words.run_out(Fid(7), OTHER), later.after(GROWTH_WORD));
        note(&words, OTHER, later, 7);
        note(&words, ME, at(61_000), 7);
        assert_eq!(words.run_out(Fid(7), ME), later.after(GROWTH_WORD));
        words.note(OTHER, at(62_000), [entry(8, false)].iter_mut());
        assert_eq!(words.run_out(Fid(8), ME), at(0).after(GROWTH_WORD), "nothing was promised");
    }

    #[test]
    fn a_reader_without_a_session_is_known_by_its_connection_alone() {
        let words = Words::new(at(0));
        let nobody = |connection| Holder { connection, session: SessionId(0) };
        note(&words, nobody(1), at(60_000), 7);
        assert_eq!(words.run_out(Fid(7), nobody(1)), at(0).after(GROWTH_WORD));
        assert_eq!(words.run_out(Fid(7), nobody(2)), at(60_000).after(GROWTH_WORD));
    }

    #[test]
    fn who_was_told_is_asked_for_the_word_and_not_waited_for_when_it_is_back() {
        let words = Words::new(at(0));
        for holder in [ME, OTHER, THIRD] {
            note(&words, holder, at(60_000), 7);
            note(&words, holder, at(60_000), 8);
        }
        assert_eq!(words.clear(Fid(7), ME, at(61_000)), [2, 3]);
        let told = at(60_000).after(GROWTH_WORD);
        words.give_back(2, &[Fid(7)]);
        assert_eq!(words.run_out(Fid(7), ME), told, "one of two");
        words.give_back(3, &[]);
        assert_eq!(words.run_out(Fid(7), ME), at(0).after(GROWTH_WORD));
        assert_eq!(words.run_out(Fid(8), ME), told, "the second word of the first");
        words.give_back(2, &[]);
        assert_eq!(words.run_out(Fid(8), ME), at(0).after(GROWTH_WORD));
        assert_eq!(words.clear(Fid(8), OTHER, at(80_000)), [], "that of the third has run out");
    }

    #[test]
    fn what_was_looked_up_before_a_file_was_cleared_is_corrected() {
        let words = Words::new(at(0));
        assert!(note(&words, OTHER, at(60_000), 7));
        words.clear(Fid(7), ME, at(61_000));
        assert!(!note(&words, THIRD, at(61_000), 7), "the answer no longer says so");
        assert!(note(&words, THIRD, at(61_000), 8));
        let most = u64::try_from(CLEARED_MAX).unwrap();
        for fid in 100..=100 + most {
            words.clear(Fid(fid), ME, at(62_000));
        }
        assert!(!note(&words, THIRD, at(62_000), 8), "too many to know which");
        assert!(note(&words, THIRD, at(62_000).after(CLEARED_FOR), 8));
    }

    #[test]
    fn too_many_words_count_as_told_to_everybody() {
        let words = Words::new(at(0));
        let most = u64::try_from(GROWTH_WORDS_MAX).unwrap();
        for fid in 0..=most {
            note(&words, ME, at(60_000), fid);
        }
        assert_eq!(words.run_out(Fid(1), ME), at(60_000).after(GROWTH_WORD));
    }
}
