//! Sessions and changes of the namespace.

use std::sync::Arc;
use std::time::Duration;

use protocol::guard::{self, Guard};
use protocol::message::cluster::{
    SessionCloseReply, SessionCloseRequest, SessionOpenReply, SessionOpenRequest,
    SessionRenewReply, SessionRenewRequest,
};
use protocol::message::command::Command;
use protocol::message::namespace::{
    Entry, MutateReply, MutateRequest, NamespaceOp, OpOutcome, WordsReturnedReply,
    WordsReturnedRequest,
};
use protocol::status::Status;

use super::connection::Connection;
use super::dispatch::Refusal;
use super::{Holder, Shared};
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
    let effects: Vec<Effect> = ops.iter().map(|(_, op)| effect_of(op)).collect();
    let command = Command::Mutate { session, caller: connection.caller, ops };
    match shared.proposer.propose(command).await? {
        Outcome::Ops(outcomes) => {
            let holder = Holder { connection: connection.number, session };
            take_words_back(shared, holder, &effects, &outcomes).await;
            Ok(MutateReply { outcomes })
        }
        other => Err(refusal(other)),
    }
}

/// What an operation means for those who were told that a file only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    None,
    /// Bytes are changed later, by the coordinator's order.
    ChangesLater,
    /// The caller may change bytes as soon as the operation is answered.
    MayChange,
}

fn effect_of(op: &NamespaceOp) -> Effect {
    match op {
        NamespaceOp::OpenWrite { mutate, shared, .. } if *mutate || *shared => Effect::MayChange,
        NamespaceOp::Truncate { .. } => Effect::ChangesLater,
        _ => Effect::None,
    }
}

/// Tells everybody who relies on a file having only grown that it has not any more, and waits until
/// nobody does where the caller may change it from now on.
async fn take_words_back(
    shared: &Shared,
    holder: Holder,
    effects: &[Effect],
    outcomes: &[OpOutcome],
) {
    let mut waited_for = Vec::new();
    for (outcome, effect) in outcomes.iter().zip(effects) {
        let OpOutcome::Done(Some(Entry { content: Some(content), .. })) = outcome else { continue };
        if *effect == Effect::None {
            continue;
        }
        let others = shared.words.clear(content.fid, holder, clock::boottime());
        let map_version = shared.proposer.view().map.version;
        let about = (shared.about.cluster, map_version);
        shared.listeners.tell_cleared(&others, content.fid, about);
        if *effect == Effect::MayChange {
            waited_for.push(content.fid);
        }
    }
    if !guard::holds(Guard::GrowthFlag) {
        return;
    }
    loop {
        let mut returned = std::pin::pin!(shared.words.returned());
        // From here on no word that is given back is missed.
        returned.as_mut().enable();
        let until = waited_for.iter().map(|fid| shared.words.run_out(*fid, holder)).max();
        let left = until.map_or(Duration::ZERO, |until| until.since(clock::boottime()));
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = returned => {}
            () = tokio::time::sleep(left) => {}
        }
    }
}

/// Takes note that a client relies no more on what it was told.
pub(super) async fn words_returned(
    request: WordsReturnedRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<WordsReturnedReply, Refusal> {
    shared.words.give_back(connection.number, &request.fids);
    Ok(WordsReturnedReply)
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
