//! What the coordinator said about a file's content, and how long that may be relied on.
//!
//! A file that only ever grew may be read from any replica, without a lease. That is sound only
//! while the coordinator's word for it is fresh: before it lets anybody change bytes it waits until
//! every word was taken back or has run out. A word that is half used up is asked for again on the
//! side, so readers do not wait for it. While no coordinator answers, nobody can be let in either,
//! so the old word holds; only who comes back to a file after a long time waits to learn that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::ids::Ino;
use protocol::message::namespace::{FileContent, LookupResult, PathQuery};
use protocol::time::Nanos;

use crate::client::Client;
use crate::limits::{WORD_ASK_AGAIN_MS, WORD_ASK_MS, WORD_FRESH_MS, WORD_HOLDS_MS};

/// The content of one file, as the coordinator described it last.
pub(super) struct Word {
    ino: Ino,
    state: Mutex<State>,
    /// Held by whoever asks again while others must wait for it.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    content: Arc<FileContent>,
    freshness: Freshness,
}

/// How long a word may be relied on. Pure.
#[derive(Clone, Copy, Debug)]
struct Freshness {
    /// Until then the content may be taken for what it says.
    fresh_until: Nanos,
    /// Until then it may be, because nobody answered the question for a newer word.
    holds_until: Nanos,
    /// From then on it is asked for again.
    ask_at: Nanos,
}

/// What a reader has to do about the word before it relies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing.
    Nothing,
    /// Have it asked for again, and go on.
    AskAside,
    /// Ask for it again first.
    AskFirst,
}

impl Word {
    /// The word that was given at `at`.
    pub(super) fn new(ino: Ino, content: FileContent, at: Nanos) -> Word {
        let state = State { content: Arc::new(content), freshness: Freshness::given(at) };
        Word { ino, state: Mutex::new(state), turn: tokio::sync::Mutex::new(()) }
    }

    /// The content, asked for again when the word is about to run out.
    ///
    /// # Cancel safety
    /// The word stays as it was; the next reader asks.
    pub(super) async fn content(self: &Arc<Word>, client: &Client) -> Arc<FileContent> {
        let known = self.known();
        if !known.growth_only || client.core().is_changed(known.fid) {
            return known;
        }
        match self.need(client) {
            Need::Nothing => known,
            Need::AskAside => {
                let (word, client) = (Arc::clone(self), client.clone());
                tokio::spawn(async move { word.ask(&client).await });
                known
            }
            Need::AskFirst => {
                let _turn = self.turn.lock().await;
                if self.need(client) == Need::AskFirst {
                    self.ask(client).await;
                }
                self.known()
            }
        }
    }

    fn known(&self) -> Arc<FileContent> {
        self.lock().content.clone()
    }

    fn need(&self, client: &Client) -> Need {
        self.lock().freshness.need(client.core().now())
    }

    async fn ask(&self, client: &Client) {
        let asked = client.core().now();
        let query =
            PathQuery { base: self.ino, path: Vec::new(), follow: false, with_content: true };
        let patience = Duration::from_millis(WORD_ASK_MS);
        let answer = tokio::time::timeout(patience, client.lookup_in_one_round(query)).await;
        let now = client.core().now();
        let mut state = self.lock();
        match answer {
            Ok(Ok(LookupResult::Found(entry))) => match entry.content {
                Some(content) if content.fid == state.content.fid => {
                    state.content = Arc::new(content);
                    state.freshness = Freshness::given(asked);
                }
                // Another content has the inode now: nobody can change this one any more.
                _ => state.freshness = Freshness::given(Nanos(u64::MAX)),
            },
            // It lost its last name: nobody can change it any more.
            Ok(Ok(LookupResult::Refused(_))) => {
                state.freshness = Freshness::given(Nanos(u64::MAX));
            }
            Ok(Err(_)) | Err(_) => {
                tracing::debug!(ino = self.ino.0, "no coordinator answers: the word holds");
                state.freshness.on_silence(now);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Freshness {
    /// That of a word that was asked for at `at`.
    fn given(at: Nanos) -> Freshness {
        let after = |ms| at.after(Duration::from_millis(ms));
        Freshness {
            fresh_until: after(WORD_FRESH_MS),
            holds_until: Nanos(0),
            ask_at: after(WORD_FRESH_MS / 2),
        }
    }

    /// What has to be done now; it counts as begun.
    fn need(&mut self, now: Nanos) -> Need {
        if now >= self.fresh_until.max(self.holds_until) {
            return Need::AskFirst;
        }
        if now < self.ask_at {
            return Need::Nothing;
        }
        self.ask_at = now.after(Duration::from_millis(WORD_ASK_AGAIN_MS));
        Need::AskAside
    }

    /// No coordinator answered.
    fn on_silence(&mut self, now: Nanos) {
        self.holds_until = now.after(Duration::from_millis(WORD_HOLDS_MS));
        self.ask_at = now.after(Duration::from_millis(WORD_ASK_AGAIN_MS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Nanos {
        Nanos::from_ms(ms)
    }

    #[test]
    fn a_word_is_asked_for_again_before_anybody_waits_for_it() {
        let mut word = Freshness::given(ms(1_000));
        assert_eq!(word.need(ms(1_000 + WORD_FRESH_MS / 2 - 1)), Need::Nothing);
        let half = 1_000 + WORD_FRESH_MS / 2;
        assert_eq!(word.need(ms(half)), Need::AskAside);
        assert_eq!(word.need(ms(half)), Need::Nothing, "it was begun");
        assert_eq!(word.need(ms(half + WORD_ASK_AGAIN_MS)), Need::AskAside);
        assert_eq!(word.need(ms(1_000 + WORD_FRESH_MS)), Need::AskFirst);
    }

    #[test]
    fn while_nobody_answers_a_word_holds_as_long_as_it_is_asked_for() {
        let mut word = Freshness::given(ms(0));
        let mut now = WORD_FRESH_MS / 2;
        while now < 60_000 {
            match word.need(ms(now)) {
                Need::Nothing => {}
                Need::AskAside => word.on_silence(ms(now)),
                Need::AskFirst => panic!("a reader waits at {now} ms"),
            }
            now += 100;
        }
        assert_eq!(word.need(ms(now + WORD_HOLDS_MS)), Need::AskFirst, "nobody has asked since");
    }
}
