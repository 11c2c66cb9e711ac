//! Reads of one chunk: one plan, and a second one beside it when the first takes long.

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use protocol::ids::TargetId;
use protocol::message::Message;
use protocol::message::chunk::ReadReply;
use protocol::status::Status;
use protocol::time::Nanos;

use super::ask::{refusal, undecodable};
use super::follow::look_every;
use super::{Core, Failed};
use crate::plan::{Outcome, ReadDone, ReadOp, ReadTask, Step};
use crate::transport::{Answer, CallError};

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

impl Core {
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
        let hedge = poll_fn(|context| {
            if let Poll::Ready(done) = first.as_mut().poll(context) {
                return Poll::Ready(Err(done));
            }
            // Whom it asks, and since when, was decided by the line above.
            if self.now() >= asked.hedge_at() {
                return Poll::Ready(Ok(asked.target()));
            }
            self.wake_at(timer.as_mut(), asked.hedge_at());
            if timer.as_mut().poll(context).is_ready() {
                context.waker().wake_by_ref();
            }
            Poll::Pending
        });
        let target = match hedge.await {
            Ok(target) => target,
            Err(done) => return done,
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
}

fn padded(bytes: &Bytes, zeros: usize) -> Bytes {
    let mut all = BytesMut::with_capacity(bytes.len() + zeros);
    all.extend_from_slice(bytes);
    all.resize(bytes.len() + zeros, 0);
    all.freeze()
}
