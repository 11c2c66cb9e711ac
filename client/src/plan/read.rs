//! Reading bytes of one chunk from whichever replica can serve them.
//!
//! Invariant: bytes leave here only after every cell they touch matched its checksum, and "not
//! there" is believed only from the primary, under a map at least as new as the file's stamp, and
//! for a growth-only file only when every other replica said so too.

use std::collections::BTreeMap;
use std::ops::Range;

use protocol::checksum::first_bad_cell;
use protocol::cluster_map::{ClusterMap, GroupRecord, Member, Role};
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, Generation, GroupId, Handle, MapVersion, TargetId};
use protocol::layout::cells_touched;
use protocol::limits::CELL_LOG2_ALLOWED;
use protocol::message::chunk::{ReadReply, ReadRequest};
use protocol::status::{Class, Status};
use protocol::time::Nanos;

use crate::limits::{PROBE_ATTEMPT_MS, READ_ATTEMPT_MS, UNREADABLE_ROUNDS};
use crate::plan::failover::{Failover, View, group_of};
use crate::plan::{Attempt, Conditions, Failure, LinkFailure, Next, Outcome, Refusal, Step};
use crate::retry::mix;

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadTask {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// First byte inside the chunk.
    pub offset: u32,
    /// Bytes wanted, at least 1.
    pub len: u32,
    /// Length the chunk has by the file's size; 0 when unknown.
    pub chunk_len: u32,
    /// Truncation generation of the file.
    pub trunc_gen: u32,
    /// Capability; 0 for none.
    pub handle: Handle,
    /// True when the file only ever grew.
    pub growth_only: bool,
    /// A map must be this new before "not there" is believed.
    pub stamp: MapVersion,
}

/// Where the wanted bytes are in the payload that arrived last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadDone {
    /// Their place in the payload.
    pub range: Range<usize>,
    /// Zeros that follow them: a hole of a file that is not growth-only.
    pub zeros: usize,
}

/// What came back for a read, after its checksums were compared; only [`ReadOp::check`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedRead(Result<Range<usize>, String>);

/// A read on its way.
#[derive(Clone, Debug)]
pub struct ReadOp {
    task: ReadTask,
    failover: Failover,
    /// Spreads chunks and files over the replicas.
    turn: u64,
    /// Members asked since the last pause: they are not asked again before all others were.
    asked: Vec<TargetId>,
    /// Members whose bytes did not verify or whose device failed, in that generation.
    bad: BTreeMap<(TargetId, Generation), String>,
    /// The primary said the bytes are not there, and may be believed.
    denied: bool,
    /// Rounds after which no serving member had good bytes.
    lost_rounds: u32,
    /// The next member asked is the primary.
    wants_primary: bool,
    timeouts: u32,
    sent: Option<Sent>,
}

#[derive(Clone, Debug)]
struct Sent {
    member: Member,
    view: View,
    map_version: MapVersion,
    place: String,
    /// Sent to find out whether an avoided target is back.
    probe: bool,
}

impl ReadOp {
    /// Starts a read that must end at `deadline`.
    ///
    /// `seed` decides pauses; the choice of replicas depends on the chunk and on `seed`'s client
    /// alone, so it is passed apart as `spread`.
    pub fn new(task: ReadTask, deadline: Nanos, spread: u64, seed: u64) -> ReadOp {
        let turn = mix(task.key.fid.0 ^ spread).wrapping_add(u64::from(task.key.index));
        ReadOp {
            task,
            failover: Failover::new(deadline, seed),
            turn,
            asked: Vec::new(),
            bad: BTreeMap::new(),
            denied: false,
            lost_rounds: 0,
            wants_primary: false,
            timeouts: 0,
            sent: None,
        }
    }

    /// Begins with another replica than `target`, which is being asked already.
    #[must_use]
    pub fn avoiding(mut self, target: TargetId) -> ReadOp {
        self.asked.push(target);
        self
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
    ) -> Next<ReadRequest> {
        if let Some(failure) = self.failover.expired(now) {
            return Next::Fail(failure);
        }
        if let Some(until) = self.failover.unpaid(now, &mut conditions.budget) {
            return Next::WaitUntil(until);
        }
        let Some(group) = group_of(map, self.task.group) else {
            self.failover.note(format!("group {} is not in the map", self.task.group));
            return self.wait_for_map(now);
        };
        let view = View::of(group);
        if let Some(until) = self.failover.pause_for(view, now) {
            self.start_round();
            return Next::WaitUntil(until);
        }
        if let Some(detail) = self.all_bad(group) {
            if self.lost_rounds == UNREADABLE_ROUNDS {
                return Next::Fail(Failure::Unreadable { detail });
            }
            // Members may have changed since this map, and a device may have erred once: everybody
            // is asked again before bytes are called lost.
            self.lost_rounds += 1;
            self.failover.note(detail);
            self.bad.clear();
            self.denied = false;
            self.start_round();
            return self.wait_for_map(now);
        }
        match self.choose(group, now, conditions) {
            Some((member, probe)) => self.send(now, map, group, member, probe, conditions),
            None => {
                self.start_round();
                self.wait_for_map(now)
            }
        }
    }

    /// True while the answer of the attempt under way is worth waiting for.
    ///
    /// A target that fell silent meanwhile is left for another replica at once; a probe has its own
    /// short time.
    pub fn stands(&self, now: Nanos, map: &ClusterMap, conditions: &mut Conditions) -> bool {
        let Some(sent) = &self.sent else { return true };
        let health = &mut conditions.health;
        if sent.probe || !health.avoided(sent.member.target, now) {
            return true;
        }
        let others = group_of(map, self.task.group).map(|group| self.open_members(group));
        !others.is_some_and(|open| open.iter().any(|one| !health.avoided(one.target, now)))
    }

    /// Compares what came back with its checksums.
    ///
    /// # Cost
    /// One pass of xxh3-64 over the payload.
    pub fn check(&self, reply: &ReadReply, payload: &[u8]) -> CheckedRead {
        CheckedRead(check(&self.task, reply, payload))
    }

    /// Says what an outcome leads to.
    ///
    /// A payload that does not match its checksums is an outcome like any other: the member is
    /// remembered and another one asked.
    pub fn on_outcome(
        &mut self,
        now: Nanos,
        outcome: Outcome<CheckedRead>,
        conditions: &mut Conditions,
    ) -> Step<ReadDone> {
        let Some(sent) = self.sent.take() else { return Step::TryNow };
        match outcome {
            Outcome::Link(failure) => self.on_link(now, sent, failure, conditions),
            Outcome::Refused(refusal) => self.on_refused(now, sent, refusal, conditions),
            Outcome::Answered(checked) => {
                conditions.health.on_heard(sent.member.target, now);
                self.on_reply(sent, checked)
            }
        }
    }

    fn send(
        &mut self,
        now: Nanos,
        map: &ClusterMap,
        group: &GroupRecord,
        member: Member,
        probe: bool,
        conditions: &mut Conditions,
    ) -> Next<ReadRequest> {
        self.asked.push(member.target);
        let Some(place) = self.failover.place(map, &member) else {
            self.failover.note(format!("target {} has no address in the map", member.target));
            return Next::WaitUntil(self.failover.pause(now));
        };
        if self.failover.on_sent() == 0 {
            conditions.budget.on_request(now);
        }
        self.wants_primary = false;
        self.sent = Some(Sent {
            member,
            view: View::of(group),
            map_version: map.version,
            place: format!("target {} at {}", member.target, place.address),
            probe,
        });
        let attempt_ms =
            if probe { PROBE_ATTEMPT_MS } else { READ_ATTEMPT_MS << self.timeouts.min(4) };
        Next::Send(Attempt {
            target: member.target,
            node: place.node,
            address: place.address,
            epoch: group.epoch,
            give_up_at: self.failover.give_up_at(now, attempt_ms),
            request: ReadRequest {
                group: group.id,
                key: self.task.key,
                offset: self.task.offset,
                len: self.task.len,
                expect_len: self.task.chunk_len,
                trunc_gen: self.task.trunc_gen,
                handle: self.task.handle,
                growth_only: self.task.growth_only,
                verify: false,
            },
        })
    }

    /// The member to ask, and whether asking it is a probe.
    fn choose(
        &self,
        group: &GroupRecord,
        now: Nanos,
        conditions: &mut Conditions,
    ) -> Option<(Member, bool)> {
        let health = &mut conditions.health;
        let open = self.open_members(group);
        if self.wants_primary
            && let Some(primary) = open.iter().find(|member| member.role == Role::Primary)
        {
            return Some((*primary, false));
        }
        for member in &open {
            if !health.avoided(member.target, now) {
                return Some((*member, false));
            }
            if open.len() > 1 && health.take_probe(member.target, now) {
                return Some((*member, true));
            }
        }
        open.first().map(|member| (*member, false))
    }

    /// Members that may still be asked in this round, in the order of this operation's turn;
    /// syncing ones come last and only for a growth-only file.
    fn open_members(&self, group: &GroupRecord) -> Vec<Member> {
        let mut members: Vec<Member> = group.serving().copied().collect();
        let turn = self.turn % members.len().max(1) as u64;
        members.rotate_left(usize::try_from(turn).unwrap_or(0));
        if self.task.growth_only {
            members.extend(group.members.iter().filter(|member| member.role == Role::Syncing));
        }
        members.retain(|member| {
            !self.asked.contains(&member.target)
                && !self.bad.contains_key(&(member.target, member.generation))
        });
        members
    }

    /// When no serving member is left that could have good bytes: what each of them said.
    fn all_bad(&self, group: &GroupRecord) -> Option<String> {
        let said = |member: &Member| self.bad.get(&(member.target, member.generation));
        let mut texts = Vec::new();
        for member in group.serving() {
            texts.push(format!("target {}: {}", member.target, said(member)?));
        }
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    fn on_link(
        &mut self,
        now: Nanos,
        sent: Sent,
        failure: LinkFailure,
        conditions: &mut Conditions,
    ) -> Step<ReadDone> {
        conditions.health.on_failed(sent.member.target, now);
        self.failover.on_link(&sent.place, failure);
        if failure == LinkFailure::TimedOut {
            self.timeouts += 1;
        }
        // Another replica is asked at once; `next` refreshes the map when there is none.
        Step::TryNow
    }

    fn on_refused(
        &mut self,
        now: Nanos,
        sent: Sent,
        refusal: Refusal,
        conditions: &mut Conditions,
    ) -> Step<ReadDone> {
        conditions.health.on_heard(sent.member.target, now);
        self.failover.on_refused(&sent.place, sent.member.target, &refusal);
        match (refusal.status, refusal.status.class()) {
            // How much is there is asked of the primary, without saying how much there must be.
            (Status::ChunkShort, _) if !self.task.growth_only && self.task.chunk_len != 0 => {
                self.task.chunk_len = 0;
                self.start_round();
                self.wants_primary = true;
                Step::TryNow
            }
            (Status::ChunkNotFound | Status::ChunkShort, _) => self.on_missing(sent, 0),
            (Status::Dirty, _) => {
                self.wants_primary = true;
                Step::TryNow
            }
            (Status::Busy | Status::PayloadCorrupt, _) => Step::WaitUntil(self.failover.busy(
                now,
                refusal.retry_after_ms,
                &mut conditions.budget,
            )),
            (_, Some(Class::Retry)) => Step::WaitUntil(self.failover.pause(now)),
            (Status::NotGrowthOnly, _) => {
                self.task.growth_only = false;
                self.start_round();
                Step::TryNow
            }
            (_, Some(Class::Refresh)) => {
                self.failover.on_view_failed(sent.view);
                Step::RefreshMap
            }
            (_, Some(Class::Elsewhere)) => {
                self.set_bad(sent.member, refusal.text);
                Step::TryNow
            }
            (status, _) => Step::Fail(Failure::Refused { status, text: refusal.text }),
        }
    }

    fn on_reply(&mut self, sent: Sent, checked: CheckedRead) -> Step<ReadDone> {
        match checked.0 {
            Ok(have) if have.len() == self.task.len as usize => {
                Step::Done(ReadDone { range: have, zeros: 0 })
            }
            Ok(have) => match self.on_missing(sent, have.len()) {
                Step::Done(done) => Step::Done(ReadDone { range: have, zeros: done.zeros }),
                step => step,
            },
            Err(fault) => {
                self.failover.note(format!("{fault} ({})", sent.place));
                self.set_bad(sent.member, fault);
                Step::TryNow
            }
        }
    }

    /// A member lacks some of the bytes: it has only the first `have`.
    fn on_missing(&mut self, sent: Sent, have: usize) -> Step<ReadDone> {
        const WHY: &str = "the bytes are not there";
        if guard::holds(Guard::HoleFromPrimary) && sent.member.role != Role::Primary {
            if self.denied {
                self.set_bad(sent.member, WHY.into());
            }
            self.wants_primary = true;
            return Step::TryNow;
        }
        if guard::holds(Guard::FreshnessStamp) && sent.map_version < self.task.stamp {
            self.failover.on_view_failed(sent.view);
            return Step::RefreshMap;
        }
        if !self.task.growth_only {
            return Step::Done(ReadDone { range: 0..0, zeros: self.task.len as usize - have });
        }
        // Bytes below the size of a growth-only file were acknowledged, so some member has them:
        // every other one is asked, once more where it was asked before.
        self.denied = true;
        self.start_round();
        self.set_bad(sent.member, WHY.into());
        Step::TryNow
    }

    fn set_bad(&mut self, member: Member, why: String) {
        self.bad.insert((member.target, member.generation), why);
    }

    fn start_round(&mut self) {
        self.asked.clear();
        self.wants_primary = false;
    }

    /// Asks for a newer map, and the time after for a pause, so an unchanged map costs no spin.
    fn wait_for_map(&mut self, now: Nanos) -> Next<ReadRequest> {
        self.failover.alternate(now)
    }
}

/// The part of the wanted range that the payload holds, verified.
fn check(task: &ReadTask, reply: &ReadReply, payload: &[u8]) -> Result<Range<usize>, String> {
    if !CELL_LOG2_ALLOWED.contains(&reply.cell_log2) {
        return Err(format!("answer with cells of 2^{} bytes", reply.cell_log2));
    }
    let end = (task.offset + task.len).min(reply.chunk_len);
    if end <= task.offset {
        return Ok(0..0);
    }
    let (first, count) = cells_touched(reply.cell_log2, task.offset, end - task.offset);
    let start = first << reply.cell_log2;
    let stop = (u64::from(first + count) << reply.cell_log2).min(u64::from(reply.chunk_len));
    let covered = stop - u64::from(start);
    if reply.first_cell != first
        || payload.len() as u64 != covered
        || reply.sums.len() != count as usize
    {
        return Err("answer does not cover the cells that were asked for".into());
    }
    match first_bad_cell(task.key, first, reply.cell_log2, payload, &reply.sums) {
        Some(cell) if guard::holds(Guard::ReadSums) => {
            Err(format!("cell {cell} does not match its checksum"))
        }
        _ => Ok((task.offset - start) as usize..(end - start) as usize),
    }
}

#[cfg(test)]
mod tests;
