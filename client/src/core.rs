//! Drives the pure plans: sends what they say, waits as they say, tells them what came back.
//!
//! Owns the transport, the clock and what the operations of this process share. Decides nothing.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use protocol::cluster_map::ClusterMap;
use protocol::guard::{self, Guard};
use protocol::ids::{ClusterId, Epoch, Fid, MapVersion, Seq, TargetId};
use protocol::limits::DEADLINE_DEFAULT_MS;
use protocol::message::chunk::{ReadReply, ShardStatsRequest, WriteReply};
use protocol::message::cluster::{ErrorReply, MapFetchReply, MapFetchRequest};
use protocol::message::namespace::{GrowthClearedNotice, WordsReturnedReply, WordsReturnedRequest};
use protocol::message::operate::UnreachableReply;
use protocol::message::{Kind, Message};
use protocol::status::Status;
use protocol::time::Nanos;
use tokio::sync::Semaphore;

use crate::cache::{MapCache, Turn};
use crate::changed::Changed;
use crate::error::Error;
use crate::limits::{
    ATTEMPT_LOOK_MS, IN_FLIGHT_BYTES_MAX, REFRESH_JITTER_MS, REFRESH_WAIT_MS, WRITE_MAP_LOOK_MS,
};
use crate::plan::coordinator::{CoordinatorFault, CoordinatorNext, CoordinatorOp};
use crate::plan::{
    Attempt, Conditions, Doubt, Errand, Failure, Inquiry, LinkFailure, Next, Outcome, ReadDone,
    ReadOp, ReadTask, Refusal, Step, WriteOp, WriteTask,
};
use crate::retry::{Jitter, mix};
use crate::transport::{Answer, Call, CallError, Notices, Peer, PeerId, Transport};

/// What every operation of one client shares.
pub(crate) struct Core {
    /// For what is done on the side.
    me: Weak<Core>,
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
    has_words: AtomicBool,
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
    ) -> Arc<Core> {
        Arc::new_cyclic(|me| Core {
            me: me.clone(),
            cluster,
            transport,
            coordinators,
            leader: AtomicU64::new(0),
            started: tokio::time::Instant::now(),
            map: MapCache::default(),
            newest_map: AtomicU64::new(0),
            conditions: Mutex::new(Conditions::default()),
            changed: Mutex::new(Changed::default()),
            has_words: AtomicBool::new(false),
            in_flight: Semaphore::new(IN_FLIGHT_BYTES_MAX),
            seed,
            operations: AtomicU64::new(0),
            writes: AtomicU64::new(1),
            operation_ms: u64::from(DEADLINE_DEFAULT_MS),
        })
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
        self.follow(what, request, self.coordinator_op()).await
    }

    /// Asks each coordinator once at most; fails as soon as none has answered.
    ///
    /// # Cancel safety
    /// The request may have been executed.
    pub(crate) async fn ask_in_one_round<Q: Message, A: Message>(
        &self,
        what: &str,
        request: &Q,
    ) -> Result<A, Error> {
        self.follow(what, request, self.coordinator_op().in_one_round()).await
    }

    fn coordinator_op(&self) -> CoordinatorOp {
        let deadline = self.now().after(Duration::from_millis(self.operation_ms));
        let first = usize::try_from(self.leader.load(Ordering::Relaxed)).unwrap_or(0);
        CoordinatorOp::new(self.coordinators.len(), first, deadline, self.operation_seed())
    }

    /// Follows the plan of a request to a coordinator to its end.
    async fn follow<Q: Message, A: Message>(
        &self,
        what: &str,
        request: &Q,
        mut op: CoordinatorOp,
    ) -> Result<A, Error> {
        let body = request.encode();
        let start = self.now();
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
        let asked = Asked::default();
        let mut timer = std::pin::pin!(tokio::time::sleep(look_every()));
        let mut first = std::pin::pin!(self.pursue(op(task.clone()), start, &asked));
        let target = loop {
            let hedge_at = asked.hedge_at();
            self.wake_at(timer.as_mut(), hedge_at);
            tokio::select! {
                biased;
                done = &mut first => return done,
                () = &mut timer => {}
            }
            if self.now() >= asked.hedge_at() {
                break asked.target();
            }
        };
        if !self.conditions().hedges.take() {
            return self.ticking(timer, first).await;
        }
        let nobody = Asked::default();
        let mut second = std::pin::pin!(self.pursue(op(task).avoiding(target), start, &nobody));
        // Whichever brings the bytes; a failure is told only when both have failed.
        let both = async {
            tokio::select! {
                done = &mut first => if done.is_ok() { done } else { second.await.or(done) },
                done = &mut second => if done.is_ok() { done } else { first.await },
            }
        };
        self.ticking(timer, std::pin::pin!(both)).await
    }

    /// Follows one plan of a read to its end; `asked` says whom it asked last.
    ///
    /// Whoever awaits it must poll it every [`ATTEMPT_LOOK_MS`], so that it needs no timer of its
    /// own while an answer is outstanding.
    async fn pursue(&self, op: ReadOp, start: Nanos, asked: &Asked) -> Result<Bytes, Failed> {
        let mut pursuit = Pursuit { core: self, op };
        let op = &mut pursuit.op;
        loop {
            let map = self.map.map();
            let next = op.next(self.now(), &map, &mut self.conditions());
            self.run_errands(op.take_errands());
            asked.note(op);
            let Some(attempt) = self.prepare(next, start).await? else { continue };
            let stands = |now| {
                let stands = op.stands(now, &self.map.map(), &mut self.conditions());
                self.run_errands(op.take_errands());
                stands
            };
            let answer = self.until_left(self.send(&attempt, Bytes::new()), stands).await;
            let (step, payload) = self.finish_read(op, answer);
            self.run_errands(op.take_errands());
            if let Some(done) = self.settle(step, start).await? {
                let bytes = done.patched.map_or(payload, Bytes::from).slice(done.range);
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
        let op = self.write_op(task, start);
        self.follow_write(op, payload, start).await
    }

    /// As [`Core::write`], but does not wait long for a group that takes no writes:
    /// [`Failed::has_left`].
    ///
    /// # Cancel safety
    /// The write may take effect.
    pub(crate) async fn write_or_leave(
        &self,
        task: WriteTask,
        payload: Bytes,
    ) -> Result<WriteReply, Failed> {
        let start = self.now();
        let op = self.write_op(task, start).or_leave();
        self.follow_write(op, payload, start).await
    }

    fn write_op(&self, task: WriteTask, start: Nanos) -> WriteOp {
        let deadline = start.after(Duration::from_millis(self.operation_ms));
        WriteOp::new(task, deadline, self.operation_seed())
    }

    async fn follow_write(
        &self,
        mut op: WriteOp,
        payload: Bytes,
        start: Nanos,
    ) -> Result<WriteReply, Failed> {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let _permit = self.admit(len, start).await?;
        loop {
            let map = self.map.map();
            let next = op.next(self.now(), &map, &mut self.conditions());
            self.run_errands(op.take_errands());
            let Some(attempt) = self.prepare(next, start).await? else { continue };
            let answer = {
                let stands = |now| {
                    let stands = op.stands(now, &self.map.map(), &mut self.conditions());
                    self.run_errands(op.take_errands());
                    stands
                };
                let call = self.send(&attempt, payload.clone());
                tokio::select! {
                    // Looking at the map wakes this task often enough for both.
                    biased;
                    answer = self.until_left(call, stands) => answer,
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

    /// Remembers that a coordinator said of some file that it only grew.
    pub(crate) fn note_word(&self) {
        self.has_words.store(true, Ordering::Relaxed);
    }

    /// True when a coordinator ever said so of some file.
    pub(crate) fn has_words(&self) -> bool {
        self.has_words.load(Ordering::Relaxed)
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
    ///
    /// Looks when it is polled; whoever awaits it sees to that.
    async fn until_left(
        &self,
        call: impl Future<Output = Result<Answer, CallError>>,
        mut stands: impl FnMut(Nanos) -> bool,
    ) -> Result<Answer, CallError> {
        let mut call = std::pin::pin!(call);
        let mut look_at = self.now().after(look_every());
        std::future::poll_fn(|context| {
            if let Poll::Ready(answer) = call.as_mut().poll(context) {
                return Poll::Ready(answer);
            }
            let now = self.now();
            if now < look_at {
                return Poll::Pending;
            }
            look_at = now.after(look_every());
            if stands(now) {
                return Poll::Pending;
            }
            Poll::Ready(Err(CallError::link(LinkFailure::TimedOut, "left for another")))
        })
        .await
    }

    /// Awaits something that must be polled every [`ATTEMPT_LOOK_MS`].
    async fn ticking<T>(
        &self,
        mut timer: Pin<&mut tokio::time::Sleep>,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> T {
        loop {
            self.wake_at(timer.as_mut(), Nanos(u64::MAX));
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = &mut timer => {}
            }
        }
    }

    /// Sets a timer to the next look, or to `at` when that comes first.
    fn wake_at(&self, timer: Pin<&mut tokio::time::Sleep>, at: Nanos) {
        let pause = look_every().min(self.time_until(at));
        timer.reset(tokio::time::Instant::now() + pause);
    }

    /// Has things done on the side; what becomes of them is told to nobody but the log.
    fn run_errands(&self, errands: Vec<Errand>) {
        for errand in errands {
            let Some(core) = self.me.upgrade() else { return };
            tokio::spawn(async move { core.run(errand).await });
        }
    }

    async fn run(&self, errand: Errand) {
        match errand {
            Errand::Report(attempt) => {
                let (target, key) = (attempt.target, attempt.request.key);
                let confirmed = match self.send(&attempt, Bytes::new()).await {
                    Ok(answer) => answer.status == Status::Ok,
                    Err(_) => false,
                };
                tracing::warn!(%target, %key, taken = confirmed, "bad cells read and reported");
            }
            Errand::Probe(attempt) => {
                self.is_there(&attempt).await;
            }
            Errand::Doubt(doubt) => self.inquire(doubt).await,
        }
    }

    /// Asks a target whether it is there, and remembers what came of it.
    async fn is_there(&self, question: &Attempt<ShardStatsRequest>) -> bool {
        let there = self.send(question, Bytes::new()).await.is_ok();
        let (now, health) = (self.now(), &mut self.conditions().health);
        match there {
            true => health.on_heard(question.target, now),
            false => health.on_failed(question.target, now),
        }
        there
    }

    /// Finds out who of a group answers, and tells the coordinator when only the primary does not.
    async fn inquire(&self, mut doubt: Doubt) {
        let mut answered = false;
        let accusation = loop {
            match doubt.next(self.now(), answered) {
                Inquiry::Ask(question) => answered = self.is_there(&question).await,
                Inquiry::Accuse(accusation) => break accusation,
                Inquiry::Drop => return,
            }
        };
        tracing::warn!(target = %accusation.target, group = %accusation.group, "primary not reached");
        let what = "report of a primary that is not reached";
        if let Err(error) = self.ask::<_, UnreachableReply>(what, &accusation).await {
            tracing::debug!(%error, "nobody took the report");
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

/// Whom a read asked last, and from when on another one should be asked as well.
struct Asked {
    target: AtomicU32,
    hedge_at: AtomicU64,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked { target: AtomicU32::new(0), hedge_at: AtomicU64::new(u64::MAX) }
    }
}

impl Asked {
    fn note(&self, op: &ReadOp) {
        let (target, hedge_at) = op.waits_for().unwrap_or((TargetId(0), Nanos(u64::MAX)));
        self.target.store(target.0, Ordering::Relaxed);
        self.hedge_at.store(hedge_at.0, Ordering::Relaxed);
    }

    fn target(&self) -> TargetId {
        TargetId(self.target.load(Ordering::Relaxed))
    }

    fn hedge_at(&self) -> Nanos {
        Nanos(self.hedge_at.load(Ordering::Relaxed))
    }
}

/// A plan of a read; when it is dropped, nobody waits for the answer any more.
struct Pursuit<'a> {
    core: &'a Core,
    op: ReadOp,
}

impl Drop for Pursuit<'_> {
    fn drop(&mut self) {
        if self.op.waits_for().is_some() {
            self.op.abandon(self.core.now(), &mut self.core.conditions());
        }
    }
}

impl Failed {
    /// True when a write was left because its group takes none for now.
    pub(crate) fn has_left(&self) -> bool {
        matches!(self.failure, Failure::Left { .. })
    }

    /// The failure as an error of what the caller was doing.
    pub(crate) fn at(self, what: &str) -> Error {
        let what = what.to_owned();
        match self.failure {
            Failure::Refused { status, text } => Error::refused(what, status, &text),
            Failure::Deadline { attempts, last } => {
                Error::Deadline { what, waited_ms: self.waited_ms, attempts, last }
            }
            Failure::Left { last } => {
                Error::Deadline { what, waited_ms: self.waited_ms, attempts: 1, last }
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

fn look_every() -> Duration {
    Duration::from_millis(ATTEMPT_LOOK_MS)
}

fn padded(bytes: &Bytes, zeros: usize) -> Bytes {
    let mut all = BytesMut::with_capacity(bytes.len() + zeros);
    all.extend_from_slice(bytes);
    all.resize(bytes.len() + zeros, 0);
    all.freeze()
}
