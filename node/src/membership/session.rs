//! The conversation with one coordinator on one connection. Pure: frames and time come in, frames
//! go out.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::frame::Header;
use protocol::ids::{MapVersion, RequestId};
use protocol::message::cluster::{
    DropFilesNotice, ErrorReply, HeartbeatReply, MapFetchReply, MapFetchRequest, MapPushNotice,
    RegisterReply,
};
use protocol::message::heal::{CensusReply, FileOrdersNotice};
use protocol::message::{Kind, Message, MessageError};
use protocol::status::Status;

use super::state::State;
use crate::io::{Disk, Incoming, Nanos, Outgoing, Payload};
use crate::limits::{COORDINATOR_REQUESTS_MAX, COORDINATOR_SILENCE_MAX_MS};
use crate::shard::ShardReport;

/// Why the conversation ended; a new one begins on a new connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The coordinator refused what keeps the node in the cluster.
    #[error("{kind:?} refused: {status:?}: {text}")]
    Refused {
        /// What was refused.
        kind: Kind,
        /// As the coordinator answered.
        status: Status,
        /// As the coordinator explains.
        text: String,
    },
    /// The coordinator says nothing.
    #[error("no answer for {COORDINATOR_SILENCE_MAX_MS} ms")]
    Silent,
    /// A message was not readable.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The whole map does not follow from the one that is here.
    #[error("the coordinator's map does not fit the one that is here")]
    Map,
}

/// What the node said and has no answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Register,
    Heartbeat { sent: Nanos },
    MapFetch,
    Report(Kind),
}

/// State of one conversation.
#[derive(Debug)]
pub struct Session {
    next_request: u64,
    waiting: BTreeMap<RequestId, Waiting>,
    heard: Nanos,
    /// Time between heartbeats, and when the next is due; `None` until registered.
    beat: Option<(Duration, Nanos)>,
}

impl Session {
    /// Starts a conversation on a fresh connection.
    pub fn new(now: Nanos) -> Session {
        // The hello was request 1.
        Session { next_request: 2, waiting: BTreeMap::new(), heard: now, beat: None }
    }

    /// True once the coordinator has accepted the node.
    pub fn registered(&self) -> bool {
        self.beat.is_some()
    }

    /// The first thing to say.
    pub fn register<D: Disk>(&mut self, state: &State) -> Outgoing<D> {
        self.request(&state.registration(), state.map_version(), Waiting::Register)
    }

    /// Passes a shard's report on; `None` while too many wait for an answer or the node is not
    /// registered, and the shard repeats it.
    pub fn report<D: Disk>(
        &mut self,
        report: &ShardReport,
        map: MapVersion,
    ) -> Option<Outgoing<D>> {
        if !self.registered() || self.waiting.len() >= COORDINATOR_REQUESTS_MAX {
            return None;
        }
        match report {
            ShardReport::Evict(request) => Some(self.pass_on(request, map)),
            ShardReport::Activated(request) => Some(self.pass_on(request, map)),
            ShardReport::SyncDone(request) => Some(self.pass_on(request, map)),
            ShardReport::DropDone(request) => Some(self.pass_on(request, map)),
            ShardReport::FileReports(request) => Some(self.pass_on(request, map)),
            ShardReport::Census(request) => Some(self.pass_on(request, map)),
            ShardReport::Health(_) | ShardReport::Figures(_) | ShardReport::Stopped => None,
        }
    }

    /// Time until something is due.
    pub fn idle(&self, now: Nanos) -> Duration {
        let silence = self.silent_at().since(now);
        match self.beat {
            Some((_, due)) => silence.min(due.since(now)),
            None => silence,
        }
    }

    /// Says what is due.
    ///
    /// # Errors
    /// [`SessionError::Silent`].
    pub fn tick<D: Disk>(
        &mut self,
        now: Nanos,
        state: &mut State,
    ) -> Result<Option<Outgoing<D>>, SessionError> {
        if now >= self.silent_at() {
            return Err(SessionError::Silent);
        }
        let Some((period, due)) = self.beat else { return Ok(None) };
        if now < due {
            return Ok(None);
        }
        self.beat = Some((period, now.after(period)));
        let heartbeat = state.heartbeat();
        Ok(Some(self.request(&heartbeat, state.map_version(), Waiting::Heartbeat { sent: now })))
    }

    /// Takes in a frame; gives one to send when there is an answer.
    ///
    /// # Errors
    /// [`SessionError`] when the conversation cannot go on.
    pub fn receive<D: Disk>(
        &mut self,
        now: Nanos,
        frame: &Incoming<D>,
        state: &mut State,
    ) -> Result<Option<Outgoing<D>>, SessionError> {
        self.heard = now;
        match (frame.header.response, frame.header.kind) {
            (true, _) => self.answered(now, frame, state),
            (false, Kind::MapPush) => {
                let delta = MapPushNotice::decode(&frame.body)?.delta;
                Ok(if state.apply(&delta) { None } else { Some(self.fetch_map()) })
            }
            (false, Kind::DropFiles) => {
                state.drop_files(DropFilesNotice::decode(&frame.body)?.groups);
                Ok(None)
            }
            (false, Kind::FileOrders) => {
                state.file_orders(FileOrdersNotice::decode(&frame.body)?.groups);
                Ok(None)
            }
            (false, kind) => {
                tracing::debug!(?kind, "notice of the coordinator not understood");
                Ok(None)
            }
        }
    }

    fn answered<D: Disk>(
        &mut self,
        now: Nanos,
        frame: &Incoming<D>,
        state: &mut State,
    ) -> Result<Option<Outgoing<D>>, SessionError> {
        let Some(waiting) = self.waiting.remove(&frame.header.request) else { return Ok(None) };
        if frame.header.status != Status::Ok {
            return refused(waiting, frame).map(|()| None);
        }
        match waiting {
            Waiting::Register => {
                let reply = RegisterReply::decode(&frame.body)?;
                self.beat = Some((Duration::from_millis(u64::from(reply.heartbeat_ms)), now));
                if state.apply(&reply.map) { Ok(None) } else { Err(SessionError::Map) }
            }
            Waiting::Heartbeat { sent } => {
                let reply = HeartbeatReply::decode(&frame.body)?;
                state.orders(&reply.orders);
                let fits = reply.delta.is_none_or(|delta| state.apply(&delta));
                // A lease under a map that may lack who was evicted would let an evicted member
                // answer reads that nobody waits for any more.
                if fits {
                    state.renew(sent, reply.lease_ms);
                }
                Ok(if fits { None } else { Some(self.fetch_map()) })
            }
            Waiting::MapFetch => {
                let reply = MapFetchReply::decode(&frame.body)?;
                if state.apply(&reply.delta) { Ok(None) } else { Err(SessionError::Map) }
            }
            Waiting::Report(Kind::Census) => {
                state.census(CensusReply::decode(&frame.body)?.dead);
                Ok(None)
            }
            Waiting::Report(_) => Ok(None),
        }
    }

    /// Asks for the whole map.
    fn fetch_map<D: Disk>(&mut self) -> Outgoing<D> {
        let none = MapVersion(0);
        self.request(&MapFetchRequest { have: none }, none, Waiting::MapFetch)
    }

    fn pass_on<D: Disk, M: Message>(&mut self, message: &M, map: MapVersion) -> Outgoing<D> {
        self.request(message, map, Waiting::Report(M::KIND))
    }

    fn request<D: Disk, M: Message>(
        &mut self,
        message: &M,
        map: MapVersion,
        waiting: Waiting,
    ) -> Outgoing<D> {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.waiting.insert(id, waiting);
        let body = message.encode();
        let mut header = Header::new(M::KIND, id).seal(&body, 0);
        header.map_version = map;
        Outgoing { header, body, payload: Payload::empty() }
    }

    fn silent_at(&self) -> Nanos {
        self.heard.after(Duration::from_millis(COORDINATOR_SILENCE_MAX_MS))
    }
}

/// What a refusal means: a report comes again by itself, everything else ends the conversation.
fn refused<D: Disk>(waiting: Waiting, frame: &Incoming<D>) -> Result<(), SessionError> {
    let status = frame.header.status;
    let text = ErrorReply::decode(&frame.body).map(|reply| reply.text).unwrap_or_default();
    let kind = match waiting {
        Waiting::Report(kind) => {
            tracing::debug!(?kind, ?status, %text, "report refused");
            return Ok(());
        }
        Waiting::Register => Kind::Register,
        Waiting::Heartbeat { .. } => Kind::Heartbeat,
        Waiting::MapFetch => Kind::MapFetch,
    };
    Err(SessionError::Refused { kind, status, text })
}

#[cfg(test)]
mod tests;
