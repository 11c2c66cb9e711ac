//! Sessions and the outcomes they may ask for again.
//!
//! An operation is named by its session and sequence number and takes effect once: a number that
//! is remembered is answered with its first outcome. The newest [`SESSION_WINDOW`] numbers are
//! remembered; an older one that is not is refused, because it may have been carried out.

use protocol::guard::{self, Guard};
use protocol::ids::{Ino, Seq, SessionId};
use protocol::limits::{MUTATE_OPS_MAX, SESSION_WINDOW};
use protocol::message::command::{Caller, Stamp};
use protocol::message::namespace::NamespaceOp;
use protocol::status::Status;

use super::codec::{Reader, Writer, damaged, key};
use super::inode::{self, Body};
use super::map_rows::for_each;
use super::namespace::{Asker, time_of};
use super::outcome::Made;
use super::{Outcome, Session, State, Step, Stop};
use crate::kv::{Kv, KvError};
use crate::limits::{CLIENT_NAME_MAX, SESSIONS_MAX};

impl<K: Kv> State<K> {
    /// Opens a session under a number that was never used.
    pub(super) fn open_session(
        &mut self,
        stamp: Stamp,
        caller: Caller,
        client: &str,
    ) -> Step<Outcome> {
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(Status::LimitReached.into());
        }
        let id = SessionId(self.tally.next_session);
        self.tally.next_session += 1;
        let mut cut = client.len().min(CLIENT_NAME_MAX);
        while !client.is_char_boundary(cut) {
            cut -= 1;
        }
        let session = Session {
            caller,
            client: client[..cut].to_owned(),
            opened_ms: stamp.time_ms,
            seq_max: 0,
            seq_min: 0,
            reserved: 0,
            opened: 0,
        };
        self.store_session(id, &session);
        self.sessions.insert(id, session);
        Ok(Outcome::Session(id))
    }

    /// Ends a session; its unlinked files die.
    pub(super) fn end_session(&mut self, id: SessionId) -> Step<Outcome> {
        if !self.sessions.contains_key(&id) {
            return Err(Status::SessionEnded.into());
        }
        for ino in self.reserved_of(id)? {
            let Some(inode) = inode::load(&self.kv, ino)? else { continue };
            self.kv.delete(key::reserved(id, ino));
            self.kv.delete(key::inode(ino));
            if let Body::File(file) = &inode.body {
                self.bury(file, 0);
            }
        }
        self.end_writing(id)?;
        let mut remembered = Vec::new();
        for_each(&self.kv, key::window_of(id), |(key, _)| {
            remembered.push(key.clone());
            Ok(())
        })?;
        remembered.into_iter().for_each(|key| self.kv.delete(key));
        self.kv.delete(key::session(id));
        self.sessions.remove(&id);
        Ok(Outcome::Done)
    }

    /// Applies the operations of a mutation, each on its own, in order.
    pub(super) fn mutate(
        &mut self,
        stamp: Stamp,
        id: SessionId,
        caller: Caller,
        ops: &[(Seq, NamespaceOp)],
    ) -> Step<Outcome> {
        let session = self.sessions.get(&id).ok_or(Status::SessionEnded)?;
        if session.caller.uid != caller.uid {
            return Err(Status::PermissionDenied.into());
        }
        if ops.len() > MUTATE_OPS_MAX {
            return Err(Status::LimitReached.into());
        }
        let asker = Asker { session: id, caller, now: time_of(stamp), stamp };
        let mut outcomes = Vec::with_capacity(ops.len());
        for (seq, op) in ops {
            outcomes.push(self.once(&asker, *seq, op)?.outcome());
        }
        self.trim_window(id)?;
        Ok(Outcome::Ops(outcomes))
    }

    /// Unlinked files of a session, ascending.
    pub(super) fn reserved_of(&self, id: SessionId) -> Result<Vec<Ino>, KvError> {
        let mut inos = Vec::new();
        for_each(&self.kv, key::reserved_of(id), |(key, _)| {
            inos.push(Ino(key::number(key, 9).ok_or_else(|| damaged(key, "short key"))?));
            Ok(())
        })?;
        Ok(inos)
    }

    /// True when the file is unlinked and belongs to the session.
    pub(super) fn is_reserved(&self, id: SessionId, ino: Ino) -> Result<bool, KvError> {
        Ok(self.kv.get(&key::reserved(id, ino))?.is_some())
    }

    /// Adds an unlinked file to a session.
    pub(super) fn reserve_for(&mut self, id: SessionId, ino: Ino) {
        let key = key::reserved(id, ino);
        let value = Writer::new().seal(&key);
        self.kv.put(key, value);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.reserved += 1;
        }
    }

    /// Takes an unlinked file from its session.
    pub(super) fn release_from(&mut self, id: SessionId, ino: Ino) {
        self.kv.delete(key::reserved(id, ino));
        if let Some(session) = self.sessions.get_mut(&id) {
            session.reserved = session.reserved.saturating_sub(1);
        }
    }

    /// How many more unlinked files the session may have.
    pub(super) fn reserve_room(&self, id: SessionId) -> usize {
        let held = self.sessions.get(&id).map_or(0, |session| session.reserved);
        crate::limits::RESERVED_PER_SESSION_MAX.saturating_sub(held)
    }

    /// Reads the sessions from their rows.
    pub(super) fn load_sessions(&mut self) -> Result<(), KvError> {
        let mut sessions = std::mem::take(&mut self.sessions);
        for_each(&self.kv, key::sessions(), |(key, value)| {
            let mut row = Reader::open(key, value)?;
            let number = key::number(key, 1).ok_or_else(|| row.bad("short key"))?;
            let caller = Caller { uid: row.u32()?, gid: row.u32()?, admin: row.u8()? != 0 };
            let (opened_ms, seq_max) = (row.u64()?, row.u64()?);
            let client = String::from_utf8(row.bytes()?).map_err(|_| row.bad("name not UTF-8"))?;
            row.end()?;
            let session =
                Session { caller, client, opened_ms, seq_max, seq_min: 0, reserved: 0, opened: 0 };
            sessions.insert(SessionId(number), session);
            Ok(())
        })?;
        for (id, session) in &mut sessions {
            session.reserved = self.reserved_of(*id)?.len();
            session.opened = self.opened_of(*id)?.len();
        }
        self.sessions = sessions;
        Ok(())
    }

    /// Answers an operation that was carried out before from memory, carries out any other.
    fn once(&mut self, asker: &Asker, seq: Seq, op: &NamespaceOp) -> Step<Made> {
        let key = key::window(asker.session, seq.0);
        let known = self.kv.get(&key)?.filter(|_| guard::holds(Guard::RememberedOutcome));
        if let Some(value) = known {
            return Ok(Made::from_row(&key, &value)?);
        }
        let seq_max = self.sessions.get(&asker.session).map_or(0, |session| session.seq_max);
        if seq.0 == 0 {
            return Ok(Made::Refused(Status::Invalid));
        }
        if seq.0 <= seq_max.saturating_sub(WINDOW) {
            return Ok(Made::Refused(Status::Conflict));
        }
        let made = match self.operate(asker, op) {
            Ok(made) => made,
            Err(Stop::Refused(status)) => Made::Refused(status),
            Err(fault) => return Err(fault),
        };
        let row = made.row(&key);
        self.kv.put(key, row);
        if let Some(session) = self.sessions.get_mut(&asker.session) {
            session.seq_max = session.seq_max.max(seq.0);
        }
        Ok(made)
    }

    /// Forgets the outcomes that fell out of the window.
    fn trim_window(&mut self, id: SessionId) -> Result<(), KvError> {
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let seq_min = session.seq_max.saturating_sub(WINDOW) + 1;
        let from = key::window(id, std::mem::replace(&mut session.seq_min, seq_min));
        let session = session.clone();
        let mut forgotten = Vec::new();
        for_each(&self.kv, (from, key::window(id, seq_min)), |(key, _)| {
            forgotten.push(key.clone());
            Ok(())
        })?;
        forgotten.into_iter().for_each(|key| self.kv.delete(key));
        self.store_session(id, &session);
        Ok(())
    }

    fn store_session(&mut self, id: SessionId, session: &Session) {
        let key = key::session(id);
        let mut row = Writer::new();
        row.u32(session.caller.uid).u32(session.caller.gid).u8(u8::from(session.caller.admin));
        row.u64(session.opened_ms).u64(session.seq_max).bytes(session.client.as_bytes());
        let value = row.seal(&key);
        self.kv.put(key, value);
    }
}

const WINDOW: u64 = SESSION_WINDOW as u64;
