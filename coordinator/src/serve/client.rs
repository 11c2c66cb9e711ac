//! Sessions and changes of the namespace.

use std::sync::Arc;

use protocol::guard::{self, Guard};
use protocol::ids::SessionId;
use protocol::message::cluster::{
    SessionCloseReply, SessionCloseRequest, SessionOpenReply, SessionOpenRequest,
    SessionRenewReply, SessionRenewRequest,
};
use protocol::message::command::Command;
use protocol::message::namespace::{MutateReply, MutateRequest, NamespaceOp, OpOutcome};
use protocol::status::Status;

use super::Shared;
use super::connection::Connection;
use super::dispatch::Refusal;
use crate::clock;
use crate::limits::SESSION_LEASE_MS;
use crate::state::Outcome;

/// Opens a session for the user the certificate stands for.
pub(super) async fn session_open(
    request: SessionOpenRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<SessionOpenReply, Refusal> {
    let caller = connection.caller;
    let command = Command::OpenSession { caller, client: request.client };
    match shared.proposer.propose(command).await? {
        Outcome::Session(session) => Ok(SessionOpenReply {
            session,
            lease_ms: SESSION_LEASE_MS,
            uid: caller.uid,
            gid: caller.gid,
            admin: caller.admin,
        }),
        other => Err(refusal(other)),
    }
}

/// Keeps a session; nothing is logged.
pub(super) async fn session_renew(
    request: SessionRenewRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<SessionRenewReply, Refusal> {
    shared.sessions.renew(request.session, &connection.caller, clock::boottime())?;
    Ok(SessionRenewReply)
}

/// Ends a session; one that has ended already is no error, so a retry is harmless.
pub(super) async fn session_close(
    request: SessionCloseRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<SessionCloseReply, Refusal> {
    let session = request.session;
    match shared.sessions.renew(session, &connection.caller, clock::boottime()) {
        Err(Status::SessionEnded) => return Ok(SessionCloseReply),
        other => other?,
    }
    match shared.proposer.propose(Command::EndSession { session }).await? {
        Outcome::Done | Outcome::Refused(Status::SessionEnded) => Ok(SessionCloseReply),
        other => Err(refusal(other)),
    }
}

/// Changes the namespace; a retry with the same numbers gets the same outcomes.
pub(super) async fn mutate(
    request: MutateRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<MutateReply, Refusal> {
    let MutateRequest { session, ops } = request;
    shared.sessions.renew(session, &connection.caller, clock::boottime())?;
    let opened: Vec<bool> = ops.iter().map(|(_, op)| may_change(op)).collect();
    let command = Command::Mutate { session, caller: connection.caller, ops };
    match shared.proposer.propose(command).await? {
        Outcome::Ops(outcomes) => {
            await_words(shared, session, &opened, &outcomes).await;
            Ok(MutateReply { outcomes })
        }
        other => Err(refusal(other)),
    }
}

/// True when the caller may change existing bytes as soon as the operation is answered.
fn may_change(op: &NamespaceOp) -> bool {
    matches!(op, NamespaceOp::OpenWrite { mutate, shared, .. } if *mutate || *shared)
}

/// Waits until nobody relies on a file having only grown that the caller may change from now on.
async fn await_words(shared: &Shared, session: SessionId, opened: &[bool], outcomes: &[OpOutcome]) {
    let fids = outcomes.iter().zip(opened).filter_map(|(outcome, opened)| match outcome {
        OpOutcome::Done(Some(entry)) if *opened => entry.content.as_ref().map(|one| one.fid),
        _ => None,
    });
    let until = fids.map(|fid| shared.words.run_out(fid, session)).max();
    if let Some(until) = until.filter(|_| guard::holds(Guard::GrowthFlag)) {
        tokio::time::sleep(until.since(clock::boottime())).await;
    }
}

/// The refusal in an outcome; an outcome of another command's kind is our own mistake.
pub(super) fn refusal(outcome: Outcome) -> Refusal {
    match outcome {
        Outcome::Refused(status) => status.into(),
        Outcome::Done | Outcome::Session(_) | Outcome::Ops(_) => {
            tracing::error!(?outcome, "command has an outcome of another kind");
            Status::Internal.into()
        }
    }
}
