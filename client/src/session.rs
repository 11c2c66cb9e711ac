//! The session of one client, and the batches in which it changes the namespace.
//!
//! Operations that are asked for at once travel in one batch: while a batch is under way the next
//! one collects. Each operation has a sequence number in the session, and a batch whose answer was
//! lost is sent again with the same numbers, so it takes effect once.

use std::sync::{Arc, Weak};
use std::time::Duration;

use protocol::ids::{Seq, SessionId};
use protocol::message::cluster::{
    SessionCloseReply, SessionCloseRequest, SessionOpenReply, SessionOpenRequest,
    SessionRenewReply, SessionRenewRequest,
};
use protocol::message::namespace::{MutateReply, MutateRequest, NamespaceOp, OpOutcome};
use protocol::status::Status;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::core::Core;
use crate::error::Error;
use crate::limits::{MUTATE_BATCH_MAX, MUTATE_QUEUE_MAX, SESSION_RENEW_MS};

/// The session: none until it is first needed, another one after the first has ended.
pub(crate) struct Session {
    core: Arc<Core>,
    open: Mutex<Option<Open>>,
}

#[derive(Clone, Copy)]
struct Open {
    id: SessionId,
    next_seq: u64,
    admin: bool,
}

/// Where operations are handed in for the next batch.
#[derive(Clone)]
pub(crate) struct Mutations {
    session: Arc<Session>,
    queue: mpsc::Sender<Waiting>,
}

struct Waiting {
    op: NamespaceOp,
    done: oneshot::Sender<Result<OpOutcome, Error>>,
}

impl Session {
    pub(crate) fn new(core: Arc<Core>) -> Arc<Session> {
        Arc::new(Session { core, open: Mutex::new(None) })
    }

    /// The session's id, opening it when there is none.
    ///
    /// # Cancel safety
    /// A session may have been opened that nobody uses; it ends with its lease.
    pub(crate) async fn id(self: &Arc<Session>) -> Result<SessionId, Error> {
        let mut open = self.open.lock().await;
        if let Some(open) = &*open {
            return Ok(open.id);
        }
        let request = SessionOpenRequest { client: client_name() };
        let reply: SessionOpenReply = self.core.ask("open a session", &request).await?;
        *open = Some(Open { id: reply.session, next_seq: 1, admin: reply.admin });
        let every = Duration::from_millis(SESSION_RENEW_MS.min(u64::from(reply.lease_ms) / 3));
        tokio::spawn(renew(Arc::downgrade(self), reply.session, every));
        Ok(reply.session)
    }

    /// The session's id when it is open.
    pub(crate) async fn current(&self) -> Option<SessionId> {
        self.open.lock().await.map(|open| open.id)
    }

    /// True when the coordinator lets this client set owners; opens the session when needed.
    pub(crate) async fn is_admin(self: &Arc<Session>) -> Result<bool, Error> {
        let id = self.id().await?;
        let open = self.open.lock().await;
        Ok(open.is_some_and(|open| open.id == id && open.admin))
    }

    /// Ends the session, when one is open.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        let Some(Open { id, .. }) = self.open.lock().await.take() else { return Ok(()) };
        let request = SessionCloseRequest { session: id };
        match self.core.ask::<_, SessionCloseReply>("close the session", &request).await {
            Err(error) if error.status() != Some(Status::SessionEnded) => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes consecutive sequence numbers; the first, and the session they belong to.
    async fn take_seqs(self: &Arc<Session>, count: usize) -> Result<(SessionId, u64), Error> {
        loop {
            let id = self.id().await?;
            let mut open = self.open.lock().await;
            // It may have ended between the two locks; then the next one is opened.
            if let Some(open) = open.as_mut().filter(|open| open.id == id) {
                let first = open.next_seq;
                open.next_seq += count as u64;
                return Ok((id, first));
            }
        }
    }

    /// Forgets a session that the coordinator has ended.
    async fn on_ended(&self, id: SessionId) {
        let mut open = self.open.lock().await;
        if open.is_some_and(|open| open.id == id) {
            *open = None;
        }
    }
}

impl Mutations {
    /// Starts the task that sends batches; it ends when every clone of this is dropped.
    pub(crate) fn start(session: Arc<Session>) -> Mutations {
        let (queue, waiting) = mpsc::channel(MUTATE_QUEUE_MAX);
        tokio::spawn(send_batches(Arc::clone(&session), waiting));
        Mutations { session, queue }
    }

    /// Hands in one operation and waits for its outcome.
    ///
    /// # Cancel safety
    /// The operation may take effect.
    pub(crate) async fn run(&self, what: &str, op: NamespaceOp) -> Result<OpOutcome, Error> {
        let closed = || Error::Closed { what: what.into() };
        let (done, outcome) = oneshot::channel();
        self.queue.send(Waiting { op, done }).await.map_err(|_| closed())?;
        match outcome.await.map_err(|_| closed())? {
            Ok(OpOutcome::Refused(status)) => Err(Error::refused(what, status, "")),
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(error.named(what)),
        }
    }

    /// Runs one operation by itself: its answer may take long, and nobody else waits for it.
    ///
    /// # Cancel safety
    /// The operation may take effect.
    pub(crate) async fn run_alone(&self, what: &str, op: NamespaceOp) -> Result<OpOutcome, Error> {
        let mut outcomes = send_batch(&self.session, vec![op]).await.map_err(|e| e.named(what))?;
        match outcomes.pop() {
            Some(OpOutcome::Refused(status)) => Err(Error::refused(what, status, "")),
            Some(outcome) => Ok(outcome),
            None => Err(Error::Closed { what: what.into() }),
        }
    }

    /// Hands in an operation whose outcome nobody waits for; false when the queue is full.
    pub(crate) fn try_run(&self, op: NamespaceOp) -> bool {
        let (done, _) = oneshot::channel();
        self.queue.try_send(Waiting { op, done }).is_ok()
    }
}

async fn send_batches(session: Arc<Session>, mut queue: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(MUTATE_BATCH_MAX);
    while queue.recv_many(&mut batch, MUTATE_BATCH_MAX).await > 0 {
        let (ops, callers): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|waiting: Waiting| (waiting.op, waiting.done)).unzip();
        match send_batch(&session, ops).await {
            Ok(outcomes) => {
                for (caller, outcome) in callers.into_iter().zip(outcomes) {
                    // A caller that has gone away needs no outcome.
                    let _ = caller.send(Ok(outcome));
                }
            }
            Err(error) => {
                for caller in callers {
                    // A caller that has gone away needs no outcome.
                    let _ = caller.send(Err(error.clone()));
                }
            }
        }
    }
}

async fn send_batch(
    session: &Arc<Session>,
    ops: Vec<NamespaceOp>,
) -> Result<Vec<OpOutcome>, Error> {
    const WHAT: &str = "namespace changes";
    let count = ops.len();
    let (id, first) = session.take_seqs(count).await?;
    let ops = (first..).map(Seq).zip(ops).collect();
    let request = MutateRequest { session: id, ops };
    let result: Result<MutateReply, Error> = session.core.ask(WHAT, &request).await;
    let ended = match &result {
        Err(error) => error.status() == Some(Status::SessionEnded),
        Ok(reply) => reply.outcomes.contains(&OpOutcome::Refused(Status::SessionEnded)),
    };
    if ended {
        session.on_ended(id).await;
    }
    let outcomes = result?.outcomes;
    if outcomes.len() != count {
        let detail = format!("{} outcomes for {count} operations", outcomes.len());
        return Err(Error::Protocol { what: WHAT.into(), detail });
    }
    Ok(outcomes)
}

/// Renews a session until it has ended or nobody uses it any more.
async fn renew(session: Weak<Session>, id: SessionId, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(session) = session.upgrade() else { return };
        if session.current().await != Some(id) {
            return;
        }
        let request = SessionRenewRequest { session: id };
        match session.core.ask::<_, SessionRenewReply>("renew the session", &request).await {
            Ok(SessionRenewReply) => {}
            Err(error) if error.status() == Some(Status::SessionEnded) => {
                tracing::warn!(session = id.0, "session ended by the coordinator");
                session.on_ended(id).await;
                return;
            }
            Err(error) => tracing::warn!(session = id.0, %error, "session not renewed"),
        }
    }
}

fn client_name() -> String {
    let program = std::env::args_os()
        .next()
        .and_then(|path| {
            std::path::Path::new(&path).file_name().map(|name| name.to_string_lossy().into_owned())
        })
        .unwrap_or_else(|| "client".into());
    format!("{program} {}", std::process::id())
}
