//! Drives the pure plans: sends what they say, waits as they say, tells them what came back.
//!
//! Owns the transport, the clock and what the operations of this process share. Decides nothing.

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use protocol::cluster_map::ClusterMap;
use protocol::ids::{ClusterId, Epoch, Fid, MapVersion, Seq, TargetId};
use protocol::limits::DEADLINE_DEFAULT_MS;
use protocol::message::Message;
use protocol::message::chunk::{ReadReply, WriteReply};
use protocol::message::cluster::{ErrorReply, MapFetchReply, MapFetchRequest};
use protocol::status::Status;
use protocol::time::Nanos;
use tokio::sync::Semaphore;

use crate::cache::{MapCache, Turn};
use crate::changed::Changed;
use crate::error::Error;
use crate::health::Ticket;
use crate::limits::{
    ATTEMPT_LOOK_MS, HEDGE_AFTER_MIN_MS, IN_FLIGHT_BYTES_MAX, REFRESH_JITTER_MS, REFRESH_WAIT_MS,
    WRITE_MAP_LOOK_MS,
};
use crate::plan::coordinator::{CoordinatorFault, CoordinatorNext, CoordinatorOp};
use crate::plan::{
    Attempt, Conditions, Failure, LinkFailure, Next, Outcome, ReadDone, ReadOp, ReadTask, Refusal,
    Step, WriteOp, WriteTask,
};
use crate::retry::{Jitter, mix};
use crate::transport::{Answer, Call, CallError, Peer, PeerId, Transport};

/// What every operation of one client shares.
pub(crate) struct Core {
    pub(crate) cluster: ClusterId,
    transport: Arc<dyn Transport>,
    coordinators: Vec<Peer>,
    /// Coordinator that answered last, by position.
    leader: AtomicU64,
    started: tokio::time::Instant,
    map: MapCache,
    /// Newest version of the map that any answer spoke of.
    newest_map: AtomicU64,
    conditions: Mutex<Conditions>,
    changed: Mutex<Changed>,
    in_flight: Semaphore,
    /// Differs between processes, so that they do not pause or choose in step.
    seed: u64,
    operations: AtomicU64,
    /// Sequence numbers of chunk writes; apart from those of namespace changes, which must be
    /// consecutive.
    writes: AtomicU64,
    /// Time an operation has, in milliseconds.
    operation_ms: u64,
}

/// Why a chunk operation failed, before the file it belongs to is named.
pub(crate) struct Failed {
    failure: Failure,
    waited_ms: u64,
}

impl Core {
    pub(crate) fn new(
        cluster: ClusterId,
        transport: Arc<dyn Transport>,
        coordinators: Vec<Peer>,
        seed: u64,
    ) -> Core {
        Core {
            cluster,
            transport,
            coordinators,
            leader: AtomicU64::new(0),
            started: tokio::time::Instant::now(),
            map: MapCache::default(),
            newest_map: AtomicU64::new(0),
            conditions: Mutex::new(Conditions::default()),
            changed: Mutex::new(Changed::default()),
            in_flight: Semaphore::new(IN_FLIGHT_BYTES_MAX),
            seed,
            operations: AtomicU64::new(0),
            writes: AtomicU64::new(1),
            operation_ms: u64::from(DEADLINE_DEFAULT_MS),
        }
    }

    /// The map, fetched when there is none yet.
    pub(crate) async fn map(&self) -> Result<Arc<ClusterMap>, Error> {
        if self.map.version() == MapVersion(0) {
            self.refresh_map().await
        } else {
            Ok(self.map.map())
        }
    }

    /// Fetches what is new in the map, or waits for whoever is at it.
    ///
    /// # Cancel safety
    /// The map is as it was or newer; another waiting caller refreshes.
    pub(crate) async fn refresh_map(&self) -> Result<Arc<ClusterMap>, Error> {
        let Turn::Mine(_guard) = self.map.turn().await else { return Ok(self.map.map()) };
        let have = self.map.version();
        let reply: MapFetchReply = self.ask("cluster map", &MapFetchRequest { have }).await?;
        if reply.delta.cluster != self.cluster && reply.delta.to > have {
            let detail = "the answer is the map of another cluster".into();
            return Err(Error::Protocol { what: "cluster map".into(), detail });
        }
        if let Ok(map) = self.map.apply(&reply.delta) {
            return Ok(map);
        }
        let from_start = MapFetchRequest { have: MapVersion(0) };
        let reply: MapFetchReply = self.ask("cluster map", &from_start).await?;
        self.map.apply(&reply.delta).map_err(|gap| {
            let detail = format!("{gap} although the whole map was asked for");
            Error::Protocol { what: "cluster map".into(), detail }
        })
    }

    /// Asks whichever coordinator answers; repeats until the operation's deadline.
    ///
    /// # Cancel safety
    /// The request may have been executed.
    pub(crate) async fn ask<Q: Message, A: Message>(
        &self,
        what: &str,
        request: &Q,
    ) -> Result<A, Error> {
        let body = request.encode();
        let start = self.now();
        let deadline = start.after(Duration::from_millis(self.operation_ms));
        let first = usize::try_from(self.leader.load(Ordering::Relaxed)).unwrap_or(0);
        let mut op =
            CoordinatorOp::new(self.coordinators.len(), first, deadline, self.operation_seed());
        loop {
            let next = op.next(self.now(), &mut self.conditions().budget);
            let (position, give_up_at) = match next {
                CoordinatorNext::Ask { position, give_up_at } => (position, give_up_at),
                CoordinatorNext::WaitUntil(at) => {
                    self.wait_until(at).await;
                    continue;
                }
                CoordinatorNext::Fail(failure) => return Err(self.failed(failure, start).at(what)),
            };
            let Some(peer) = self.coordinators.get(position) else {
                let detail = "no coordinator is configured".into();
                return Err(Error::Usage { what: what.into(), detail });
            };
            let call = Call {
                kind: Q::KIND,
                epoch: Epoch(0),
                map_version: self.map.version(),
                timeout: self.time_until(give_up_at),
                body: body.clone(),
                payload: Bytes::new(),
            };
            let fault = match self.transport.call(peer, call).await {
                Ok(answer) if answer.status == Status::Ok => {
                    self.leader.store(position as u64, Ordering::Relaxed);
                    return decode(what, peer, &answer);
                }
                Ok(answer) => CoordinatorFault::Refused(refusal(&answer)),
                Err(CallError::Link { failure, .. }) => CoordinatorFault::Link(failure),
                Err(CallError::Rejected { detail }) => CoordinatorFault::Rejected(detail),
            };
            let now = self.now();
            let budget = &mut self.conditions().budget;
            if let Some(failure) = op.on_fault(now, &peer.address, fault, budget) {
                return Err(self.failed(failure, start).at(what));
            }
        }
    }

    /// Asks one peer once.
    ///
    /// # Cancel safety
    /// The request may have been executed.
    pub(crate) async fn ask_peer<Q: Message, A: Message>(
        &self,
        what: &str,
        peer: &Peer,
        epoch: Epoch,
        timeout: Duration,
        request: &Q,
    ) -> Result<A, Error> {
        let call = Call {
            kind: Q::KIND,
            epoch,
            map_version: self.map.version(),
            timeout,
            body: request.encode(),
            payload: Bytes::new(),
        };
        match self.transport.call(peer, call).await {
            Ok(answer) if answer.status == Status::Ok => decode(what, peer, &answer),
            Ok(answer) => Err(Error::refused(what, answer.status, &refusal(&answer).text)),
            Err(CallError::Rejected { detail }) => {
                Err(Error::Protocol { what: format!("{what} ({peer})"), detail })
            }
            Err(CallError::Link { detail, .. }) => Err(Error::Deadline {
                what: what.into(),
                waited_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
                attempts: 1,
                last: format!("{detail} ({peer})"),
            }),
        }
    }

    /// Reads verified bytes of one chunk.
    ///
    /// # Cancel safety
    /// Nothing is changed anywhere.
    pub(crate) async fn read(&self, task: ReadTask) -> Result<Bytes, Failed> {
        let start = self.now();
        let _permit = self.admit(task.len, start).await?;
        let deadline = start.after(Duration::from_millis(self.operation_ms));
        let op = |task| ReadOp::new(task, deadline, self.seed, self.operation_seed());
        let asked = AtomicU32::new(0);
        let mut first = std::pin::pin!(self.pursue(op(task.clone()), start, &asked));
        self.conditions().hedges.on_read();
        let least = Duration::from_millis(HEDGE_AFTER_MIN_MS);
        if let Ok(done) = tokio::time::timeout(least, &mut first).await {
            return done;
        }
        let target = TargetId(asked.load(Ordering::Relaxed));
        let patience = self.conditions().hedges.after(target).saturating_sub(least);
        if let Ok(done) = tokio::time::timeout(patience, &mut first).await {
            return done;
        }
        let target = TargetId(asked.load(Ordering::Relaxed));
        if !self.conditions().hedges.take() {
            return first.await;
        }
        let nobody = AtomicU32::new(0);
        let mut second = std::pin::pin!(self.pursue(op(task).avoiding(target), start, &nobody));
        // Whichever brings the bytes; a failure is told only when both have failed.
        tokio::select! {
            done = &mut first => if done.is_ok() { done } else { second.await.or(done) },
            done = &mut second => if done.is_ok() { done } else { first.await },
        }
    }

    /// Follows one plan of a read to its end; `asked` names the target that was asked last.
    async fn pursue(
        &self,
        mut op: ReadOp,
        start: Nanos,
        asked: &AtomicU32,
    ) -> Result<Bytes, Failed> {
        loop {
            let map = self.map.map();
            let next = op.next(self.now(), &map, &mut self.conditions());
            let Some(attempt) = self.prepare(next, start).await? else { continue };
            asked.store(attempt.target.0, Ordering::Relaxed);
            let ticket = Outstanding::new(self, &attempt);
            let sent = self.now();
            let stands = |now| op.stands(now, &self.map.map(), &mut self.conditions());
            let answer = self.while_it_stands(self.send(&attempt, Bytes::new()), stands).await;
            drop(ticket);
            if answer.is_ok() {
                let took = self.now().since(sent);
                self.conditions().hedges.on_answer(attempt.target, took);
            }
            let (step, payload) = self.finish_read(&mut op, answer);
            if let Some(done) = self.settle(step, start).await? {
                let bytes = payload.slice(done.range);
                return Ok(if done.zeros == 0 { bytes } else { padded(&bytes, done.zeros) });
            }
        }
    }

    /// Writes bytes of one chunk to every member of its group.
    ///
    /// # Durability
    /// On return the bytes are on stable media on every member.
    ///
    /// # Cancel safety
    /// The write may take effect.
    pub(crate) async fn write(
        &self,
        task: WriteTask,
        payload: Bytes,
    ) -> Result<WriteReply, Failed> {
        let start = self.now();
        let _permit = self.admit(task.len, start).await?;
        let deadline = start.after(Duration::from_millis(self.operation_ms));
        let mut op = WriteOp::new(task, deadline, self.operation_seed());
        loop {
            let map = self.map.map();
            let next = op.next(self.now(), &map, &mut self.conditions());
            let Some(attempt) = self.prepare(next, start).await? else { continue };
            let answer = {
                let stands = |_| op.stands(&self.map.map());
                let call = self.send(&attempt, payload.clone());
                tokio::select! {
                    answer = self.while_it_stands(call, stands) => answer,
                    never = self.keep_map_fresh() => match never {},
                }
            };
            let step = self.finish_write(&mut op, answer);
            if let Some(reply) = self.settle(step, start).await? {
                return Ok(reply);
            }
        }
    }

    /// Remembers that this client may change bytes of a content.
    pub(crate) fn note_changed(&self, fid: Fid) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).note(fid);
    }

    /// True when this client may have changed bytes of a content.
    pub(crate) fn is_changed(&self, fid: Fid) -> bool {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).has(fid)
    }

    /// A point in time as this client counts it.
    pub(crate) fn at(&self, instant: tokio::time::Instant) -> Nanos {
        Nanos(0).after(instant.saturating_duration_since(self.started))
    }

    pub(crate) fn conditions(&self) -> MutexGuard<'_, Conditions> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no other operation of this process gets.
    pub(crate) fn operation_seed(&self) -> u64 {
        mix(self.seed ^ self.operations.fetch_add(1, Ordering::Relaxed))
    }

    /// The number of a chunk write, rising.
    pub(crate) fn next_write_seq(&self) -> Seq {
        Seq(self.writes.fetch_add(1, Ordering::Relaxed))
    }

    async fn admit(
        &self,
        len: u32,
        start: Nanos,
    ) -> Result<tokio::sync::SemaphorePermit<'_>, Failed> {
        self.in_flight.acquire_many(len).await.map_err(|_| self.failed(Failure::Closed, start))
    }

    /// Does what a plan says until it wants something sent.
    async fn prepare<R>(&self, next: Next<R>, start: Nanos) -> Result<Option<Attempt<R>>, Failed> {
        match next {
            Next::Send(attempt) => return Ok(Some(attempt)),
            Next::RefreshMap => self.refresh_for_plan().await,
            Next::WaitUntil(at) => self.wait_until(at).await,
            Next::Fail(failure) => return Err(self.failed(failure, start)),
        }
        Ok(None)
    }

    /// Does what a step says; the result when that was the end.
    async fn settle<D>(&self, step: Step<D>, start: Nanos) -> Result<Option<D>, Failed> {
        match step {
            Step::Done(done) => return Ok(Some(done)),
            Step::TryNow => {}
            Step::WaitUntil(at) => self.wait_until(at).await,
            Step::RefreshMap => self.refresh_for_plan().await,
            Step::Fail(failure) => return Err(self.failed(failure, start)),
        }
        Ok(None)
    }

    /// A refresh on behalf of a plan, which goes on with the old map when there is no newer one.
    async fn refresh_for_plan(&self) {
        if self.map.version() != MapVersion(0) {
            let jitter = Jitter::new(self.operation_seed()).up_to(REFRESH_JITTER_MS);
            self.wait_until(self.now().after(Duration::from_millis(jitter))).await;
        }
        let longest = Duration::from_millis(REFRESH_WAIT_MS);
        match tokio::time::timeout(longest, self.refresh_map()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "map not refreshed"),
            Err(_) => tracing::debug!("map not refreshed in time"),
        }
    }

    async fn send<R: Message>(
        &self,
        attempt: &Attempt<R>,
        payload: Bytes,
    ) -> Result<Answer, CallError> {
        let peer = Peer {
            id: PeerId::Target { node: attempt.node, target: attempt.target },
            address: attempt.address.to_string(),
        };
        let call = Call {
            kind: R::KIND,
            epoch: attempt.epoch,
            map_version: self.map.version(),
            timeout: self.time_until(attempt.give_up_at),
            body: attempt.request.encode(),
            payload,
        };
        let answer = self.transport.call(&peer, call).await?;
        self.newest_map.fetch_max(answer.map_version.0, Ordering::Relaxed);
        Ok(answer)
    }

    /// Waits for an answer until it comes or the plan no longer wants it.
    async fn while_it_stands(
        &self,
        call: impl Future<Output = Result<Answer, CallError>>,
        stands: impl Fn(Nanos) -> bool,
    ) -> Result<Answer, CallError> {
        let look_every = Duration::from_millis(ATTEMPT_LOOK_MS);
        let mut call = std::pin::pin!(call);
        loop {
            match tokio::time::timeout(look_every, &mut call).await {
                Ok(answer) => return answer,
                Err(_) if stands(self.now()) => {}
                Err(_) => return Err(CallError::link(LinkFailure::TimedOut, "left for another")),
            }
        }
    }

    /// Looks for a newer map now and then, at once when some answer spoke of one.
    async fn keep_map_fresh(&self) -> Infallible {
        let mut looked = self.now();
        loop {
            let look_at = self.now().after(Duration::from_millis(ATTEMPT_LOOK_MS));
            self.wait_until(look_at).await;
            let is_due = self.now().since(looked) >= Duration::from_millis(WRITE_MAP_LOOK_MS);
            if is_due || self.newest_map.load(Ordering::Relaxed) > self.map.version().0 {
                if let Err(error) = self.refresh_map().await {
                    tracing::debug!(%error, "map not refreshed");
                }
                looked = self.now();
            }
        }
    }

    fn finish_read(
        &self,
        op: &mut ReadOp,
        answer: Result<Answer, CallError>,
    ) -> (Step<ReadDone>, Bytes) {
        let mut payload = Bytes::new();
        let outcome = match answer {
            Ok(answer) if answer.status == Status::Ok => {
                payload = answer.payload;
                match ReadReply::decode(&answer.body) {
                    // Checked before the lock below is taken: it is a pass over the payload.
                    Ok(reply) => Outcome::Answered(op.check(&reply, &payload)),
                    Err(error) => Outcome::Refused(undecodable(&error)),
                }
            }
            Ok(answer) => Outcome::Refused(refusal(&answer)),
            Err(error) => Outcome::Link(error.failure()),
        };
        (op.on_outcome(self.now(), outcome, &mut self.conditions()), payload)
    }

    fn finish_write(
        &self,
        op: &mut WriteOp,
        answer: Result<Answer, CallError>,
    ) -> Step<WriteReply> {
        let now = self.now();
        let mut reply = None;
        let outcome = match answer {
            Ok(answer) if answer.status == Status::Ok => match WriteReply::decode(&answer.body) {
                Ok(decoded) => Outcome::Answered(&*reply.insert(decoded)),
                Err(error) => Outcome::Refused(undecodable(&error)),
            },
            Ok(answer) => Outcome::Refused(refusal(&answer)),
            Err(error) => Outcome::Link(error.failure()),
        };
        op.on_outcome(now, outcome, &mut self.conditions())
    }

    fn failed(&self, failure: Failure, start: Nanos) -> Failed {
        Failed {
            failure,
            waited_ms: u64::try_from(self.now().since(start).as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn now(&self) -> Nanos {
        Nanos(0).after(self.started.elapsed())
    }

    fn time_until(&self, at: Nanos) -> Duration {
        at.since(self.now())
    }

    async fn wait_until(&self, at: Nanos) {
        tokio::time::sleep(self.time_until(at)).await;
    }
}

/// A read that is outstanding at a target; forgotten when dropped.
struct Outstanding<'a> {
    core: &'a Core,
    ticket: Ticket,
}

impl<'a> Outstanding<'a> {
    fn new<R>(core: &'a Core, attempt: &Attempt<R>) -> Outstanding<'a> {
        let now = core.now();
        let ticket = core.conditions().health.on_sent(attempt.target, now);
        Outstanding { core, ticket }
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.core.conditions().health.on_ended(self.ticket);
    }
}

impl Failed {
    /// The failure as an error of what the caller was doing.
    pub(crate) fn at(self, what: &str) -> Error {
        let what = what.to_owned();
        match self.failure {
            Failure::Refused { status, text } => Error::refused(what, status, &text),
            Failure::Deadline { attempts, last } => {
                Error::Deadline { what, waited_ms: self.waited_ms, attempts, last }
            }
            Failure::Unreadable { detail } => Error::Unreadable { what, detail },
            Failure::Rejected { detail } => Error::Rejected { what, detail },
            Failure::Closed => Error::Closed { what },
        }
    }
}

fn decode<A: Message>(what: &str, peer: &Peer, answer: &Answer) -> Result<A, Error> {
    A::decode(&answer.body).map_err(|error| Error::Protocol {
        what: format!("{what} ({peer})"),
        detail: error.to_string(),
    })
}

fn refusal(answer: &Answer) -> Refusal {
    let plain = Refusal::of(answer.status);
    match ErrorReply::decode(&answer.body) {
        Ok(reply) => Refusal {
            text: if reply.text.is_empty() { plain.text } else { one_line(&reply.text) },
            port: reply.port,
            retry_after_ms: reply.retry_after_ms,
            ..plain
        },
        // The status alone decides; the text is for people.
        Err(_) => plain,
    }
}

fn one_line(text: &str) -> String {
    text.replace(|letter: char| letter.is_control(), " ")
}

fn undecodable(error: &protocol::message::MessageError) -> Refusal {
    Refusal { text: format!("answer cannot be read: {error}"), ..Refusal::of(Status::BadFrame) }
}

fn padded(bytes: &Bytes, zeros: usize) -> Bytes {
    let mut all = BytesMut::with_capacity(bytes.len() + zeros);
    all.extend_from_slice(bytes);
    all.resize(bytes.len() + zeros, 0);
    all.freeze()
}
