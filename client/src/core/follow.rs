//! What following a read's plan and following a write's plan have in common: doing what the plan
//! says next, sending an attempt, and waiting for its answer only while the plan wants it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use protocol::message::Message;
use protocol::time::Nanos;

use super::{Core, Failed};
use crate::limits::ATTEMPT_LOOK_MS;
use crate::plan::{Attempt, LinkFailure, Next, Step};
use crate::transport::{Answer, Call, CallError, Peer, PeerId};

impl Core {
    /// Does what a plan says until it wants something sent.
    pub(super) async fn prepare<R>(
        &self,
        next: Next<R>,
        start: Nanos,
    ) -> Result<Option<Attempt<R>>, Failed> {
        match next {
            Next::Send(attempt) => return Ok(Some(attempt)),
            Next::RefreshMap => self.refresh_for_plan().await,
            Next::WaitUntil(at) => self.wait_until(at).await,
            Next::Fail(failure) => return Err(self.failed(failure, start)),
        }
        Ok(None)
    }

    /// Does what a step says; the result when that was the end.
    pub(super) async fn settle<D>(&self, step: Step<D>, start: Nanos) -> Result<Option<D>, Failed> {
        match step {
            Step::Done(done) => return Ok(Some(done)),
            Step::TryNow => {}
            Step::WaitUntil(at) => self.wait_until(at).await,
            Step::RefreshMap => self.refresh_for_plan().await,
            Step::Fail(failure) => return Err(self.failed(failure, start)),
        }
        Ok(None)
    }

    pub(super) async fn send<R: Message>(
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
    pub(super) async fn until_left(
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
    pub(super) async fn ticking<T>(
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
    pub(super) fn wake_at(&self, timer: Pin<&mut tokio::time::Sleep>, at: Nanos) {
        let pause = look_every().min(self.time_until(at));
        timer.reset(tokio::time::Instant::now() + pause);
    }
}

pub(super) fn look_every() -> Duration {
    Duration::from_millis(ATTEMPT_LOOK_MS)
}
