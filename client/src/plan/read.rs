//! Reading bytes of one chunk from whichever replica can serve them.
//!
//! Invariant: bytes leave here only after every cell they touch matched its checksum, and "not
//! there" is believed only from the primary, under a map at least as new as the file's stamp, and
//! for a growth-only file only when every other replica said so too.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use protocol::checksum::bad_cells;
use protocol::cluster_map::{ClusterMap, GroupRecord, Member, Role, TargetState};
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, Generation, GroupId, Handle, MapVersion, TargetId, Version};
use protocol::layout::cells_touched;
use protocol::limits::{CELL_LOG2_ALLOWED, RECHECK_CELLS_MAX};
use protocol::message::chunk::{ReadReply, ReadRequest};
use protocol::message::heal::ReportCorruptRequest;
use protocol::status::{Class, Status};
use protocol::time::Nanos;

use crate::health::Ticket;
use crate::limits::{READ_ATTEMPT_MS, UNREADABLE_ROUNDS};
use crate::plan::errand::{self, Errand};
use crate::plan::failover::{Failover, Place, View, group_of};
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
pub struct CheckedRead(Result<Range<usize>, Fault>);

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    text: String,
    /// Cells that do not match their checksums, of that version; none when the answer itself makes
    /// no sense.
    damage: Option<(Version, Vec<u32>)>,
}

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
    /// A second way for a read that was counted when it was first sent.
    second: bool,
    sent: Option<Sent>,
    errands: Vec<Errand>,
}

#[derive(Clone, Debug)]
struct Sent {
    member: Member,
    view: View,
    map_version: MapVersion,
    place: Place,
    ticket: Ticket,
    at: Nanos,
    /// When the read is worth asking of another replica as well.
    hedge_at: Nanos,
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
            second: false,
            sent: None,
            errands: Vec::new(),
        }
    }

    /// Begins with another replica than `target`, which is being asked already.
    #[must_use]
    pub fn avoiding(mut self, target: TargetId) -> ReadOp {
        self.asked.push(target);
        self.second = true;
        self
    }

    /// What is to be done on the side since this was last called.
    pub fn take_errands(&mut self) -> Vec<Errand> {
        std::mem::take(&mut self.errands)
    }

    /// The target that is being asked, and when another one should be asked as well.
    pub fn waits_for(&self) -> Option<(TargetId, Nanos)> {
        self.sent.as_ref().map(|sent| (sent.member.target, sent.hedge_at))
    }

    /// Notes that nobody waits for the attempt under way any more.
    pub fn abandon(&mut self, now: Nanos, conditions: &mut Conditions) {
        if let Some(sent) = self.sent.take() {
            conditions.health.on_left(sent.ticket, now);
        }
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
        self.errands.extend(self.failover.doubt(now, map, group, &mut conditions.recently));
        match self.choose(map, group, now, conditions) {
            Some(member) => self.send(now, map, group, member, conditions),
            None => {
                self.start_round();
                self.wait_for_map(now)
            }
        }
    }

    /// True while the answer of the attempt under way is worth waiting for.
    ///
    /// A target that fell silent meanwhile is left for another replica at once.
    pub fn stands(&mut self, now: Nanos, map: &ClusterMap, conditions: &mut Conditions) -> bool {
        let (Some(sent), Some(group)) = (&self.sent, group_of(map, self.task.group)) else {
            return true;
        };
        self.errands.extend(self.failover.doubt(now, map, group, &mut conditions.recently));
        let health = &mut conditions.health;
        if !health.avoided(sent.member.target, now) {
            return true;
        }
        let open = self.open_members(group);
        !open.iter().any(|one| !health.avoided(one.target, now))
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
        if let Outcome::Link(failure) = outcome {
            return self.on_link(now, sent, failure, conditions);
        }
        conditions.health.on_ended(sent.ticket);
        conditions.health.on_heard(sent.member.target, now);
        conditions.hedges.on_answer(sent.member.target, now.since(sent.at));
        self.failover.on_answered(sent.member.target);
        match outcome {
            Outcome::Answered(checked) => self.on_reply(now, sent, checked, conditions),
            Outcome::Refused(refusal) => self.on_refused(now, sent, refusal, conditions),
            Outcome::Link(_) => Step::TryNow,
        }
    }

    fn send(
        &mut self,
        now: Nanos,
        map: &ClusterMap,
        group: &GroupRecord,
        member: Member,
        conditions: &mut Conditions,
    ) -> Next<ReadRequest> {
        self.asked.push(member.target);
        let Some(place) = self.failover.place(map, &member) else {
            self.failover.note(format!("target {} has no address in the map", member.target));
            return Next::WaitUntil(self.failover.pause(now));
        };
        if self.failover.on_sent() == 0 {
            conditions.budget.on_request(now);
            if !self.second {
                conditions.hedges.on_read();
            }
        }
        if std::mem::take(&mut self.wants_primary) && member.role == Role::Primary {
            self.failover.on_primary_asked(member.target, now);
        }
        let Place { node, address } = place;
        self.sent = Some(Sent {
            member,
            view: View::of(group),
            map_version: map.version,
            place,
            ticket: conditions.health.on_sent(member.target, now),
            at: now,
            hedge_at: now.after(conditions.hedges.after(member.target)),
        });
        let attempt_ms = READ_ATTEMPT_MS << self.timeouts.min(4);
        Next::Send(Attempt {
            target: member.target,
            node,
            address,
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

    /// The member to ask; whether an avoided one is back is found out on the side.
    fn choose(
        &mut self,
        map: &ClusterMap,
        group: &GroupRecord,
        now: Nanos,
        conditions: &mut Conditions,
    ) -> Option<Member> {
        let health = &mut conditions.health;
        let mut open = self.open_members(group);
        open.sort_by_key(|member| (member.role == Role::Syncing, is_slow(map, member.target)));
        if self.wants_primary
            && let Some(primary) = open.iter().find(|member| member.role == Role::Primary)
        {
            return Some(*primary);
        }
        for member in &open {
            if !health.avoided(member.target, now) {
                return Some(*member);
            }
            if open.len() > 1 && health.take_probe(member.target, now) {
                self.errands.extend(errand::probe(map, group, member, now));
            }
        }
        open.first().copied()
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
        conditions.health.on_ended(sent.ticket);
        conditions.health.on_failed(sent.member.target, now);
        self.failover.on_link(&sent.place(), failure);
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
        self.failover.on_refused(&sent.place(), sent.member.target, &refusal);
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

    fn on_reply(
        &mut self,
        now: Nanos,
        sent: Sent,
        checked: CheckedRead,
        conditions: &mut Conditions,
    ) -> Step<ReadDone> {
        match checked.0 {
            Ok(have) if have.len() == self.task.len as usize => {
                Step::Done(ReadDone { range: have, zeros: 0 })
            }
            Ok(have) => match self.on_missing(sent, have.len()) {
                Step::Done(done) => Step::Done(ReadDone { range: have, zeros: done.zeros }),
                step => step,
            },
            Err(fault) => {
                self.failover.note(format!("{} ({})", fault.text, sent.place()));
                if let Some((version, cells)) = fault.damage
                    && guard::holds(Guard::DamageReported)
                    && conditions.recently.reports.admit((sent.member.target, self.task.key), now)
                {
                    self.errands.push(self.report(now, &sent, version, cells));
                }
                self.set_bad(sent.member, fault.text);
                Step::TryNow
            }
        }
    }

    /// Tells a member which cells it sent were bad; it looks for itself before it believes that.
    fn report(&self, now: Nanos, sent: &Sent, version: Version, cells: Vec<u32>) -> Errand {
        let (group, key) = (self.task.group, self.task.key);
        Errand::Report(Attempt {
            target: sent.member.target,
            node: sent.place.node,
            address: sent.place.address,
            epoch: sent.view.epoch(),
            give_up_at: now.after(Duration::from_millis(READ_ATTEMPT_MS)),
            request: ReportCorruptRequest { group, key, version, cells },
        })
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

impl Sent {
    fn place(&self) -> String {
        format!("target {} at {}", self.member.target, self.place.address)
    }
}

/// True for a target that the map says is much slower than its peers.
fn is_slow(map: &ClusterMap, target: TargetId) -> bool {
    let record = map.targets.get(&target);
    record.is_some_and(|record| record.state == TargetState::Slow)
}

/// The part of the wanted range that the payload holds, verified.
fn check(task: &ReadTask, reply: &ReadReply, payload: &[u8]) -> Result<Range<usize>, Fault> {
    let senseless = |text: String| Fault { text, damage: None };
    if !CELL_LOG2_ALLOWED.contains(&reply.cell_log2) {
        return Err(senseless(format!("answer with cells of 2^{} bytes", reply.cell_log2)));
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
        return Err(senseless("answer does not cover the cells that were asked for".into()));
    }
    let bad = bad_cells(task.key, first, reply.cell_log2, payload, &reply.sums);
    let cells: Vec<u32> = bad.take(RECHECK_CELLS_MAX).collect();
    match cells.first() {
        Some(cell) if guard::holds(Guard::ReadSums) => Err(Fault {
            text: format!("cell {cell} does not match its checksum"),
            damage: Some((reply.version, cells)),
        }),
        _ => Ok((task.offset - start) as usize..(end - start) as usize),
    }
}

#[cfg(test)]
mod tests;
