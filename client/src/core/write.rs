//! Writes of one chunk: the same operation id until its fate is known.

use std::time::Duration;

use bytes::Bytes;
use protocol::message::Message;
use protocol::message::chunk::WriteReply;
use protocol::status::Status;
use protocol::time::Nanos;

use super::ask::{refusal, undecodable};
use super::{Core, Failed};
use crate::plan::{Outcome, Step, WriteOp, WriteTask};
use crate::transport::{Answer, CallError};

impl Core {
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
}
