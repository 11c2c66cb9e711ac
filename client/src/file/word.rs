//! What the coordinator said about a file's content, and how long that may be relied on.
//!
//! A file that only ever grew may be read from any replica, without a lease. That is sound only
//! while the coordinator's word for it is fresh: before it lets anybody change bytes it waits until
//! every word has run out. A word that is about to run out is therefore asked for again. While no
//! coordinator answers, nobody can be let in either, so the old word holds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::ids::Ino;
use protocol::message::namespace::{FileContent, LookupResult, PathQuery};
use protocol::time::Nanos;

use crate::client::Client;
use crate::limits::{WORD_ASK_AGAIN_MS, WORD_ASK_MS, WORD_FRESH_MS};

/// The content of one file, as the coordinator described it last.
pub(super) struct Word {
    ino: Ino,
    state: Mutex<State>,
    /// Held by whoever asks again.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    content: Arc<FileContent>,
    /// Until then the content may be taken for what it says.
    fresh_until: Nanos,
}

impl Word {
    /// The word that was given at `at`.
    pub(super) fn new(ino: Ino, content: FileContent, at: Nanos) -> Word {
        let state = State { content: Arc::new(content), fresh_until: fresh(at) };
        Word { ino, state: Mutex::new(state), turn: tokio::sync::Mutex::new(()) }
    }

    /// The content, asked for again when the word is about to run out.
    ///
    /// # Cancel safety
    /// The word stays as it was; the next reader asks.
    pub(super) async fn content(&self, client: &Client) -> Arc<FileContent> {
        let known = self.known();
        if !known.growth_only || client.core().is_changed(known.fid) || self.is_fresh(client) {
            return known;
        }
        let _turn = self.turn.lock().await;
        if !self.is_fresh(client) {
            self.ask(client).await;
        }
        self.known()
    }

    fn known(&self) -> Arc<FileContent> {
        self.lock().content.clone()
    }

    fn is_fresh(&self, client: &Client) -> bool {
        client.core().now() < self.lock().fresh_until
    }

    async fn ask(&self, client: &Client) {
        let asked = client.core().now();
        let query =
            PathQuery { base: self.ino, path: Vec::new(), follow: false, with_content: true };
        let patience = Duration::from_millis(WORD_ASK_MS);
        let answer = tokio::time::timeout(patience, client.lookup_once(query)).await;
        let again = client.core().now().after(Duration::from_millis(WORD_ASK_AGAIN_MS));
        let mut state = self.lock();
        match answer {
            Ok(Ok(LookupResult::Found(entry))) => match entry.content {
                Some(content) if content.fid == state.content.fid => {
                    state.content = Arc::new(content);
                    state.fresh_until = fresh(asked);
                }
                // Another content has the inode now: nobody can change this one any more.
                _ => state.fresh_until = Nanos(u64::MAX),
            },
            // It lost its last name: nobody can change it any more.
            Ok(Ok(LookupResult::Refused(_))) => state.fresh_until = Nanos(u64::MAX),
            Ok(Err(_)) | Err(_) => {
                tracing::debug!(ino = self.ino.0, "no coordinator answers: the word holds");
                state.fresh_until = again;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fresh(at: Nanos) -> Nanos {
    at.after(Duration::from_millis(WORD_FRESH_MS))
}
