//! Questions to coordinators, and to one peer.
//!
//! Which coordinator, how often and how long is the plan's (`plan/coordinator`); here its frames
//! are sent and its pauses kept.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use protocol::ids::Epoch;
use protocol::message::cluster::ErrorReply;
use protocol::message::{Message, MessageError};
use protocol::status::Status;

use super::Core;
use crate::error::Error;
use crate::plan::Refusal;
use crate::plan::coordinator::{CoordinatorFault, CoordinatorNext, CoordinatorOp};
use crate::transport::{Answer, Call, CallError, Peer};

impl Core {
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
}

fn decode<A: Message>(what: &str, peer: &Peer, answer: &Answer) -> Result<A, Error> {
    A::decode(&answer.body).map_err(|error| Error::Protocol {
        what: format!("{what} ({peer})"),
        detail: error.to_string(),
    })
}

pub(super) fn refusal(answer: &Answer) -> Refusal {
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

pub(super) fn undecodable(error: &MessageError) -> Refusal {
    Refusal { text: format!("answer cannot be read: {error}"), ..Refusal::of(Status::BadFrame) }
}
