//! Writing bytes of one chunk through the primary of its group.
//!
//! Invariant: every attempt of an operation carries the same operation id, bytes and sums, so an
//! attempt whose outcome is unknown and its repetition take effect once.

use std::time::Duration;

use protocol::checksum::CellSum;
use protocol::cluster_map::{ClusterMap, GroupRecord, Member};
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, GroupId, Handle, OpId, Seq};
use protocol::message::chunk::{WriteClass, WriteReply, WriteRequest};
use protocol::status::{Class, Status};
use protocol::time::Nanos;

use crate::limits::{LEAVE_AFTER_MS, WRITE_ATTEMPT_MS};
use crate::plan::errand::Errand;
use crate::plan::failover::{Failover, View, group_of};
use crate::plan::{Attempt, Conditions, Failure, LinkFailure, Next, Outcome, Refusal, Step};

/// What to write; the payload itself stays with the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteTask {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// Identity of the operation.
    pub op: OpId,
    /// Whether it only extends the chunk.
    pub class: WriteClass,
    /// First byte inside the chunk.
    pub offset: u32,
    /// Length of the payload, at least 1.
    pub len: u32,
    /// Length the chunk is expected to reach.
    pub expect_len: u32,
    /// Truncation generation of the file.
    pub trunc_gen: u32,
    /// Cell size, as a power of two.
    pub cell_log2: u8,
    /// Chunk size, as a power of two.
    pub chunk_log2: u8,
    /// Capability; 0 for none.
    pub handle: Handle,
    /// One checksum for each touched cell, over exactly the payload's bytes of it.
    pub sums: Vec<CellSum>,
}

/// A write on its way.
#[derive(Clone, Debug)]
pub struct WriteOp {
    task: WriteTask,
    failover: Failover,
    sent: Option<Sent>,
    errands: Vec<Errand>,
    /// The caller can write elsewhere.
    may_leave: bool,
    /// When the operation began.
    began: Option<Nanos>,
    /// The last sign of the group was none, or that it takes no writes.
    troubled: bool,
    /// The map has been refreshed since the operation began.
    refreshed: bool,
}

#[derive(Clone, Debug)]
struct Sent {
    member: Member,
    view: View,
    place: String,
}

impl WriteOp {
    /// Starts a write that must end at `deadline`; `seed` decides pauses.
    pub fn new(task: WriteTask, deadline: Nanos, seed: u64) -> WriteOp {
        let failover = Failover::new(deadline, seed);
        WriteOp {
            task,
            failover,
            sent: None,
            errands: Vec::new(),
            may_leave: false,
            began: None,
            troubled: false,
            refreshed: false,
        }
    }

    /// Ends with [`Failure::Left`] when the group takes no writes for longer than fail-over takes.
    #[must_use]
    pub fn or_leave(mut self) -> WriteOp {
        self.may_leave = true;
        self
    }

    /// What is to be done on the side since this was last called.
    pub fn take_errands(&mut self) -> Vec<Errand> {
        std::mem::take(&mut self.errands)
    }

    /// Attempts made so far.
    pub fn attempts(&self) -> u32 {
        self.failover.attempts()
    }

    /// Says what to do now.
    pub fn next(
        &mut self,
        now: Nanos,
        map: &ClusterMap,
        conditions: &mut Conditions,
    ) -> Next<WriteRequest> {
        if let Some(failure) = self.failover.expired(now) {
            return Next::Fail(failure);
        }
        if let Some(until) = self.failover.unpaid(now, &mut conditions.budget) {
            return Next::WaitUntil(until);
        }
        let Some(group) = group_of(map, self.task.group) else {
            self.failover.note(format!("group {} is not in the map", self.task.group));
            return self.failover.alternate(now);
        };
        self.errands.extend(self.failover.doubt(now, map, group, &mut conditions.recently));
        if self.may_leave && self.is_hopeless(now, group, conditions) {
            // The map may be of before the group recovered: without an attempt nothing else tells.
            return match std::mem::replace(&mut self.refreshed, true) {
                true => Next::Fail(self.failover.left()),
                false => Next::RefreshMap,
            };
        }
        if let Some(until) = self.failover.pause_for(View::of(group), now) {
            return Next::WaitUntil(until);
        }
        match group.primary() {
            Some(&primary) if !group.down => self.send(now, map, group, primary, conditions),
            _ => {
                self.failover.note(format!("group {} has no primary", self.task.group));
                self.failover.alternate(now)
            }
        }
    }

    /// True while the answer of the attempt under way is worth waiting for.
    ///
    /// Once the map names another primary, or a newer incarnation of this one, nobody is left to
    /// acknowledge it; the same operation is sent there.
    pub fn stands(&mut self, now: Nanos, map: &ClusterMap, conditions: &mut Conditions) -> bool {
        let Some(group) = group_of(map, self.task.group) else { return true };
        self.errands.extend(self.failover.doubt(now, map, group, &mut conditions.recently));
        if self.may_leave && self.is_hopeless(now, group, conditions) {
            return false;
        }
        let current = group.primary().copied();
        match (&self.sent, current) {
            (Some(sent), Some(primary)) => {
                (primary.target, primary.generation) == (sent.member.target, sent.member.generation)
            }
            _ => true,
        }
    }

    /// True when the group takes no writes and is not about to: it has too few members, or nobody
    /// has taken this write for longer than fail-over takes. A group that is only slow is waited for.
    fn is_hopeless(
        &mut self,
        now: Nanos,
        group: &GroupRecord,
        conditions: &mut Conditions,
    ) -> bool {
        let began = *self.began.get_or_insert(now);
        if group.down || !group.writable() {
            self.failover.note(format!("group {} has too few members", group.id));
            return true;
        }
        if now.since(began) < Duration::from_millis(LEAVE_AFTER_MS) {
            return false;
        }
        let health = &mut conditions.health;
        let is_gone = group.primary().is_none_or(|primary| health.avoided(primary.target, now));
        self.troubled || !group.active || is_gone
    }

    /// Says what an outcome leads to.
    pub fn on_outcome(
        &mut self,
        now: Nanos,
        outcome: Outcome<&WriteReply>,
        conditions: &mut Conditions,
    ) -> Step<WriteReply> {
        let Some(sent) = self.sent.take() else { return Step::TryNow };
        self.troubled = match &outcome {
            Outcome::Link(_) => true,
            Outcome::Refused(refusal) => refusal.status != Status::Busy,
            Outcome::Answered(_) => false,
        };
        if !matches!(outcome, Outcome::Link(_)) {
            self.failover.on_answered(sent.member.target);
        }
        match outcome {
            Outcome::Answered(reply) => {
                conditions.health.on_heard(sent.member.target, now);
                self.on_reply(sent, reply)
            }
            Outcome::Refused(refusal) => self.on_refused(now, sent, refusal, conditions),
            Outcome::Link(failure) => {
                // A slow flush is no reason to read elsewhere; a broken connection is.
                if failure != LinkFailure::TimedOut {
                    conditions.health.on_failed(sent.member.target, now);
                }
                self.failover.on_link(&sent.place, failure);
                self.failover.on_view_failed(sent.view);
                self.refresh()
            }
        }
    }

    fn refresh(&mut self) -> Step<WriteReply> {
        self.refreshed = true;
        Step::RefreshMap
    }

    fn send(
        &mut self,
        now: Nanos,
        map: &ClusterMap,
        group: &GroupRecord,
        primary: Member,
        conditions: &mut Conditions,
    ) -> Next<WriteRequest> {
        let Some(place) = self.failover.place(map, &primary) else {
            self.failover.note(format!("target {} has no address in the map", primary.target));
            return self.failover.alternate(now);
        };
        let attempt = self.failover.on_sent();
        if attempt == 0 {
            conditions.budget.on_request(now);
        }
        self.failover.on_primary_asked(primary.target, now);
        self.sent = Some(Sent {
            member: primary,
            view: View::of(group),
            place: format!("target {} at {}", primary.target, place.address),
        });
        Next::Send(Attempt {
            target: primary.target,
            node: place.node,
            address: place.address,
            epoch: group.epoch,
            give_up_at: self.failover.give_up_at(now, WRITE_ATTEMPT_MS),
            request: self.request(attempt),
        })
    }

    fn request(&self, attempt: u32) -> WriteRequest {
        let task = &self.task;
        WriteRequest {
            group: task.group,
            key: task.key,
            op: self.op(attempt),
            attempt: u8::try_from(attempt).unwrap_or(u8::MAX),
            class: task.class,
            offset: task.offset,
            len: task.len,
            expect_len: task.expect_len,
            trunc_gen: task.trunc_gen,
            cell_log2: task.cell_log2,
            chunk_log2: task.chunk_log2,
            handle: task.handle,
            sums: task.sums.clone(),
            aux: Vec::new(),
        }
    }

    /// One operation whatever the attempt, so that it takes effect once.
    fn op(&self, attempt: u32) -> OpId {
        let op = self.task.op;
        if guard::holds(Guard::SameOpId) {
            return op;
        }
        OpId { seq: Seq(op.seq.0 + u64::from(attempt)), ..op }
    }

    fn on_reply(&mut self, sent: Sent, reply: &WriteReply) -> Step<WriteReply> {
        if reply.chunk_len < self.task.offset + self.task.len {
            let text = format!(
                "acknowledged {} bytes of a chunk that must have {} ({})",
                reply.chunk_len,
                self.task.offset + self.task.len,
                sent.place
            );
            return Step::Fail(Failure::Refused { status: Status::Internal, text });
        }
        Step::Done(reply.clone())
    }

    fn on_refused(
        &mut self,
        now: Nanos,
        sent: Sent,
        refusal: Refusal,
        conditions: &mut Conditions,
    ) -> Step<WriteReply> {
        conditions.health.on_heard(sent.member.target, now);
        self.failover.on_refused(&sent.place, sent.member.target, &refusal);
        match (refusal.status, refusal.status.class()) {
            (Status::Busy | Status::PayloadCorrupt, _) => Step::WaitUntil(self.failover.busy(
                now,
                refusal.retry_after_ms,
                &mut conditions.budget,
            )),
            (_, Some(Class::Retry)) => Step::WaitUntil(self.failover.pause(now)),
            // Only the primary takes writes, so elsewhere means: the primary of a newer epoch.
            (_, Some(Class::Refresh | Class::Elsewhere)) => {
                self.failover.on_view_failed(sent.view);
                self.refresh()
            }
            (status, _) => Step::Fail(Failure::Refused { status, text: refusal.text }),
        }
    }
}

#[cfg(test)]
mod tests;
