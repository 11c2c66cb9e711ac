//! The connections of clients, to tell them that files only grow no more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use protocol::ids::{ClusterId, Fid, MapVersion};
use protocol::message::namespace::GrowthClearedNotice;
use protocol::message::{Context, notice_frame};

use super::connection::Connection;

/// Every open connection by its number; as many as may be open.
#[derive(Default)]
pub struct Listeners {
    open: Mutex<BTreeMap<u64, Weak<Connection>>>,
}

impl Listeners {
    /// Takes note of a connection.
    pub(super) fn add(&self, connection: &Arc<Connection>) {
        self.lock().insert(connection.number, Arc::downgrade(connection));
    }

    /// Forgets a connection.
    pub(super) fn remove(&self, number: u64) {
        self.lock().remove(&number);
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Tells connections that a file may be changed from now on.
    ///
    /// Nobody waits: whoever is gone, or does not take what is sent to it, is not told, and what it
    /// was told before runs out.
    pub(super) fn tell_cleared(
        &self,
        numbers: &[u64],
        fid: Fid,
        (cluster, map_version): (ClusterId, MapVersion),
    ) {
        let context = Context { map_version, cluster_tag: cluster.tag(), ..Context::default() };
        let (header, body) = match notice_frame(&GrowthClearedNotice { fids: vec![fid] }, context) {
            Ok(frame) => frame,
            Err(error) => return tracing::error!(%error, "notice cannot be written"),
        };
        for number in numbers {
            let connection = self.lock().get(number).and_then(Weak::upgrade);
            let told = connection.is_some_and(|it| it.send_at_once(&header, &body));
            tracing::debug!(number, %fid, told, "file only grows no more");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<Connection>>> {
        // Nothing panics while it holds the lock, and a map is whole between two statements.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
