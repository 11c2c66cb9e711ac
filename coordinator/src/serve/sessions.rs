//! Open sessions and when they were last renewed. Renewals are not logged: after a restart every
//! session has its full time again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::ids::SessionId;
use protocol::message::command::Caller;
use protocol::status::Status;
use protocol::time::Nanos;

use crate::clock;
use crate::limits::SESSION_EXPIRY_MS;
use crate::propose::SessionWatch;

/// Every open session; the same set as in the state, kept by the proposer.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<BTreeMap<SessionId, Renewed>>,
}

#[derive(Clone, Copy, Debug)]
struct Renewed {
    caller: Caller,
    at: Nanos,
}

impl Sessions {
    /// Keeps a session alive that `caller` opened.
    ///
    /// # Errors
    /// - [`Status::SessionEnded`]: it is not open.
    /// - [`Status::PermissionDenied`]: somebody else opened it.
    pub fn renew(&self, session: SessionId, caller: &Caller, now: Nanos) -> Result<(), Status> {
        let mut open = self.lock();
        let renewed = open.get_mut(&session).ok_or(Status::SessionEnded)?;
        if renewed.caller != *caller {
            return Err(Status::PermissionDenied);
        }
        renewed.at = renewed.at.max(now);
        Ok(())
    }

    /// Sessions that were not renewed for too long, ascending, at most `limit`.
    pub fn expired(&self, now: Nanos, limit: usize) -> Vec<SessionId> {
        let expiry = Duration::from_millis(SESSION_EXPIRY_MS);
        let open = self.lock();
        let late = open.iter().filter(|(_, renewed)| now.since(renewed.at) > expiry);
        late.map(|(&session, _)| session).take(limit).collect()
    }

    /// Takes note of an open session.
    pub fn open(&self, session: SessionId, caller: Caller, now: Nanos) {
        self.lock().insert(session, Renewed { caller, at: now });
    }

    /// Forgets a session.
    pub fn end(&self, session: SessionId) {
        self.lock().remove(&session);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Renewed>> {
        // Nothing panics while it holds the lock, and a map is whole between two statements.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionWatch for std::sync::Arc<Sessions> {
    fn opened(&self, session: SessionId, caller: Caller) {
        self.open(session, caller, clock::boottime());
    }

    fn ended(&self, session: SessionId) {
        self.end(session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Caller = Caller { uid: 1, gid: 1, admin: false };
    const BOB: Caller = Caller { uid: 2, gid: 1, admin: false };

    fn at(ms: u64) -> Nanos {
        Nanos(0).after(Duration::from_millis(ms))
    }

    #[test]
    fn a_session_ends_when_nobody_renews_it_for_a_minute() {
        let sessions = Sessions::default();
        sessions.open(SessionId(1), ALICE, at(0));
        sessions.open(SessionId(2), ALICE, at(0));
        assert_eq!(sessions.renew(SessionId(2), &ALICE, at(30_000)), Ok(()));
        assert_eq!(sessions.expired(at(SESSION_EXPIRY_MS), 9), []);
        assert_eq!(sessions.expired(at(SESSION_EXPIRY_MS + 1), 9), [SessionId(1)]);
        assert_eq!(sessions.expired(at(1_000_000), 1), [SessionId(1)]);
        sessions.end(SessionId(1));
        assert_eq!(sessions.renew(SessionId(1), &ALICE, at(1)), Err(Status::SessionEnded));
    }

    #[test]
    fn nobody_uses_the_session_of_another() {
        let sessions = Sessions::default();
        sessions.open(SessionId(1), ALICE, at(0));
        assert_eq!(sessions.renew(SessionId(1), &BOB, at(1)), Err(Status::PermissionDenied));
    }
}
