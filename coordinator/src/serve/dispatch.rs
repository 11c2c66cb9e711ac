//! From a request frame to the answer: role, message, work, reply.

use std::sync::Arc;
use std::time::Duration;

use protocol::frame::Header;
use protocol::limits::DEADLINE_DEFAULT_MS;
use protocol::message::cluster::{
    ActivatedRequest, DropDoneRequest, EvictRequest, HeartbeatRequest, MapFetchRequest,
    RegisterRequest, SessionCloseRequest, SessionOpenRequest, SessionRenewRequest, StatusRequest,
    SyncDoneRequest,
};
use protocol::message::heal::{CensusRequest, FileReportsRequest};
use protocol::message::namespace::{
    LookupRequest, MutateRequest, ReadDirRequest, WordsReturnedRequest,
};
use protocol::message::operate::{AdminRequest, PlansRequest, UnreachableRequest};
use protocol::message::{self, Kind, Message};
use protocol::status::Status;
use tokio::time::timeout;

use super::connection::{Connection, Incoming};
use super::{Shared, client, node, operate, read, role};

/// Why a request is answered with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: Status,
    /// What it is about, for people.
    pub(super) detail: String,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal { status, detail: String::new() }
    }
}

impl Refusal {
    /// Says what the refusal is about.
    pub(super) fn new(status: Status, detail: impl Into<String>) -> Refusal {
        Refusal { status, detail: detail.into() }
    }
}

/// Header and body of an answer.
type Answer = (Header, Vec<u8>);

/// Starts the work on one request; the answer goes out when it is ready, in any order.
pub(super) fn start(incoming: Incoming, connection: &Arc<Connection>, shared: &Arc<Shared>) {
    let (connection, shared) = (Arc::clone(connection), Arc::clone(shared));
    tokio::spawn(async move {
        let Incoming { header, body, permits } = incoming;
        let deadline =
            if header.deadline_ms == 0 { DEADLINE_DEFAULT_MS } else { header.deadline_ms };
        let work = answer(&header, &body, &connection, &shared);
        let outcome = timeout(Duration::from_millis(u64::from(deadline)), work).await;
        let late = Refusal::from(status_when_late(header.kind));
        let (mut reply, body) = outcome.unwrap_or(Err(late)).unwrap_or_else(|refusal| {
            message::error_frame(&header, refusal.status, &refusal.detail)
        });
        shared.requests.note(header.kind, reply.status);
        reply.map_version = shared.proposer.view().map.version;
        connection.send(&reply, &body, permits).await;
    });
}

async fn answer(
    header: &Header,
    body: &[u8],
    connection: &Arc<Connection>,
    shared: &Arc<Shared>,
) -> Result<Answer, Refusal> {
    role::check(header.kind, &connection.identity)?;
    macro_rules! call {
        ($request:ty, $work:path) => {{
            let request = open::<$request>(header, body)?;
            Ok(message::reply_frame(header, &$work(request, connection, shared).await?))
        }};
    }
    match header.kind {
        Kind::Register => call!(RegisterRequest, node::register),
        Kind::Heartbeat => call!(HeartbeatRequest, node::heartbeat),
        Kind::Evict => call!(EvictRequest, node::evict),
        Kind::Activated => call!(ActivatedRequest, node::activated),
        Kind::SyncDone => call!(SyncDoneRequest, node::sync_done),
        Kind::DropDone => call!(DropDoneRequest, node::drop_done),
        Kind::FileReports => call!(FileReportsRequest, node::file_reports),
        Kind::SessionOpen => call!(SessionOpenRequest, client::session_open),
        Kind::SessionRenew => call!(SessionRenewRequest, client::session_renew),
        Kind::SessionClose => call!(SessionCloseRequest, client::session_close),
        Kind::Mutate => call!(MutateRequest, client::mutate),
        Kind::Lookup => call!(LookupRequest, read::lookup),
        Kind::ReadDir => call!(ReadDirRequest, read::read_dir),
        Kind::MapFetch => call!(MapFetchRequest, read::map_fetch),
        Kind::Status => call!(StatusRequest, read::status),
        Kind::Admin => call!(AdminRequest, operate::admin),
        Kind::Plans => call!(PlansRequest, operate::plans),
        Kind::Unreachable => call!(UnreachableRequest, operate::unreachable),
        Kind::WordsReturned => call!(WordsReturnedRequest, client::words_returned),
        Kind::Census => call!(CensusRequest, operate::census),
        _ => Err(Status::Unsupported.into()),
    }
}

fn open<M: Message>(header: &Header, body: &[u8]) -> Result<M, Refusal> {
    message::open(header, body).map_err(|error| Refusal::new(error.status(), error.to_string()))
}

/// What a request is told whose time ran out while it was worked on.
fn status_when_late(kind: Kind) -> Status {
    match kind {
        Kind::Lookup
        | Kind::ReadDir
        | Kind::MapFetch
        | Kind::Status
        | Kind::Plans
        | Kind::Census => Status::Expired,
        // The command may be in the log already.
        _ => Status::Unknown,
    }
}
