//! What coordinators say of files, that they only ever grew, and what this client did to them.

use std::sync::atomic::Ordering;
use std::sync::{PoisonError, Weak};

use protocol::guard::{self, Guard};
use protocol::ids::Fid;
use protocol::message::namespace::{GrowthClearedNotice, WordsReturnedReply, WordsReturnedRequest};
use protocol::message::{Kind, Message};

use super::Core;
use crate::transport::Notices;

impl Core {
    /// Remembers that this client may change bytes of a content.
    pub(crate) fn note_changed(&self, fid: Fid) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).note(fid);
    }

    /// True when this client may have changed bytes of a content.
    pub(crate) fn is_changed(&self, fid: Fid) -> bool {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).has(fid)
    }

    /// Remembers that a coordinator said of some file that it only grew.
    pub(crate) fn note_word(&self) {
        self.has_words.store(true, Ordering::Relaxed);
    }

    /// True when a coordinator ever said so of some file.
    pub(crate) fn has_words(&self) -> bool {
        self.has_words.load(Ordering::Relaxed)
    }

    /// Takes in what coordinators say without being asked, until nobody uses this any more.
    pub(crate) async fn listen(core: Weak<Core>, mut notices: Notices) {
        while let Some(notice) = notices.recv().await {
            let Some(core) = core.upgrade() else { return };
            match notice.kind {
                Kind::GrowthCleared => match GrowthClearedNotice::decode(&notice.body) {
                    Ok(GrowthClearedNotice { fids }) => core.give_words_back(fids).await,
                    Err(error) => tracing::debug!(%error, "notice cannot be read"),
                },
                kind => tracing::debug!(?kind, "notice not understood"),
            }
        }
    }

    /// Relies no more on contents having only grown, and says so; on nothing at all when `fids` is
    /// empty. When nobody takes it, whoever waits for it goes on when the words have run out.
    pub(crate) async fn give_words_back(&self, fids: Vec<Fid>) {
        if guard::holds(Guard::WordGivenUp) {
            let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
            fids.iter().for_each(|fid| changed.note(*fid));
            if fids.is_empty() {
                changed.note_all();
            }
        }
        let request = WordsReturnedRequest { fids };
        let what = "return of words about files";
        if let Err(error) = self.ask_in_one_round::<_, WordsReturnedReply>(what, &request).await {
            tracing::debug!(%error, "nobody took the words back");
        }
    }
}
