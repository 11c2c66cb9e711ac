//! Reading bytes of one chunk from whichever replica can serve them.
//!
//! Invariant: bytes leave here only after every cell they touch matched its checksum, and "not
//! there" is believed only from the primary, under a map at least as new as the file's stamp, and
//! for a growth-only file only when every other replica said so too.
//!
//! A replica is asked for the whole range. Only when none can give that, because each has other
//! damaged cells, the range is put together from what is good on each: `salvage`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use protocol::cluster_map::{ClusterMap, GroupRecord, Member, Role, TargetState};
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, Generation, GroupId, Handle, MapVersion, TargetId, Version};
use protocol::limits::RECHECK_CELLS_MAX;
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

mod check;
mod salvage;

pub use check::CheckedRead;

use check::Kept;
use salvage::Salvage;

/// Why a member is left that lacks the bytes.
const NOT_THERE: &str = "the bytes are not there";

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

/// Where the wanted bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadDone {
    /// Their place in the payload that arrived last, or in `patched`.
    pub range: Range<usize>,
    /// Bytes put together from several answers, where no replica had all of them.
    pub patched: Option<Vec<u8>>,
    /// Zeros that follow them: a hole of a file that is not growth-only.
    pub zeros: usize,
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
    /// What is done when no member has good bytes for all of the range.
    salvage: Salvage,
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
    /// What was asked for, inside the chunk.
    range: Range<u32>,
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
            salvage: Salvage::default(),
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
            if now >= sent.hedge_at {
                // Without it, what is usual would become shorter with every hedge.
                conditions.hedges.on_answer(sent.member.target, now.since(sent.at));
            }
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
        if let Some(member) = self.unfinished(group)
            && let Some(range) = self.salvage.take_next()
        {
            return self.send(now, map, group, member, range, conditions);
        }
        let all_bad = self.all_bad(group);
        if (all_bad.is_some() || self.open_members(group).is_empty()) && self.salvage.deepen() {
            self.bad.clear();
            self.denied = false;
            self.start_round();
        } else if let Some(detail) = all_bad {
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
            Some(member) => {
                let name = (member.target, member.generation);
                let range = self.salvage.begin(name, &self.wanted());
                self.send(now, map, group, member, range, conditions)
            }
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
    /// One pass of xxh3-64 over the payload. No copy, unless the range is put together from several
    /// answers: then one of the good bytes.
    pub fn check(&self, reply: &ReadReply, payload: &[u8]) -> CheckedRead {
        let wanted = self.sent.as_ref().map_or(self.wanted(), |sent| sent.range.clone());
        let found = check::check(self.task.key, &wanted, reply, payload);
        let whole = found.as_ref().is_ok_and(|have| have.len() == self.task.len as usize);
        let kept = match self.salvage.is_on() && !whole {
            true => check::keep(&wanted, &found, reply, payload),
            false => None,
        };
        CheckedRead { found, kept }
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
            self.salvage.leave();
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
        range: Range<u32>,
        conditions: &mut Conditions,
    ) -> Next<ReadRequest> {
        if !self.asked.contains(&member.target) {
            self.asked.push(member.target);
        }
        let Some(place) = self.failover.place(map, &member) else {
            self.failover.note(format!("target {} has no address in the map", member.target));
            self.salvage.leave();
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
        let (offset, len) = (range.start, range.end - range.start);
        self.sent = Some(Sent {
            member,
            range,
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
                offset,
                len,
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

    /// The member that has more to be asked for, while it serves.
    fn unfinished(&self, group: &GroupRecord) -> Option<Member> {
        let (target, generation) = self.salvage.unfinished()?;
        group.member(target).filter(|member| member.generation == generation).copied()
    }

    /// When no member is left that could have good bytes: what each serving one said.
    fn all_bad(&self, group: &GroupRecord) -> Option<String> {
        if !self.open_members(group).is_empty() {
            return None;
        }
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
        if self.salvage.is_on() {
            if self.is_part_refused(refusal.status) {
                return self.on_part_refused(sent, refusal);
            }
            self.salvage.leave();
        }
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
                self.salvage.forget();
                self.start_round();
                Step::TryNow
            }
            (_, Some(Class::Refresh)) => {
                self.failover.on_view_failed(sent.view);
                Step::RefreshMap
            }
            (status, Some(Class::Elsewhere)) => {
                if status == Status::Corrupt {
                    self.salvage.note_damage();
                }
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
        let CheckedRead { found, kept } = checked;
        if let Err(fault) = &found {
            self.failover.note(format!("{} ({})", fault.text, sent.place()));
            if let Some((version, cells)) = &fault.damage {
                self.salvage.note_damage();
                if guard::holds(Guard::DamageReported)
                    && conditions.recently.reports.admit((sent.member.target, self.task.key), now)
                {
                    self.errands.push(self.report(now, &sent, *version, cells));
                }
            }
        }
        match found {
            Ok(have) if have.len() == self.task.len as usize => {
                Step::Done(ReadDone { range: have, patched: None, zeros: 0 })
            }
            found if self.salvage.is_on() => {
                self.on_part(sent, found.err().map(|fault| fault.text), kept)
            }
            Ok(have) => match self.on_missing(sent, have.len()) {
                Step::Done(done) => Step::Done(ReadDone { range: have, ..done }),
                step => step,
            },
            Err(fault) => {
                self.set_bad(sent.member, fault.text);
                Step::TryNow
            }
        }
    }

    /// Tells a member which cells it sent were bad; it looks for itself before it believes that.
    fn report(&self, now: Nanos, sent: &Sent, version: Version, cells: &[u32]) -> Errand {
        let (group, key) = (self.task.group, self.task.key);
        let cells = cells.iter().copied().take(RECHECK_CELLS_MAX).collect();
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
        if guard::holds(Guard::HoleFromPrimary) && sent.member.role != Role::Primary {
            if self.denied {
                self.set_bad(sent.member, NOT_THERE.into());
            }
            self.wants_primary = true;
            return Step::TryNow;
        }
        if guard::holds(Guard::FreshnessStamp) && sent.map_version < self.task.stamp {
            self.failover.on_view_failed(sent.view);
            return Step::RefreshMap;
        }
        if !self.task.growth_only {
            if sent.range != self.wanted() {
                self.salvage.on_end(sent.range.start);
                return self.on_part_ended(sent.member);
            }
            let zeros = self.task.len as usize - have;
            return Step::Done(ReadDone { range: 0..0, patched: None, zeros });
        }
        // Bytes below the size of a growth-only file were acknowledged, so some member has them:
        // every other one is asked, once more where it was asked before.
        self.denied = true;
        self.start_round();
        self.set_bad(sent.member, NOT_THERE.into());
        Step::TryNow
    }

    /// Takes in what is good in an answer to a part of the range; `wrong` is what is not.
    fn on_part(&mut self, sent: Sent, wrong: Option<String>, kept: Option<Kept>) -> Step<ReadDone> {
        let Some(kept) = kept else {
            self.salvage.leave();
            self.set_bad(sent.member, wrong.unwrap_or_default());
            return Step::TryNow;
        };
        let short = kept.chunk_len < sent.range.end;
        let leads = sent.member.role == Role::Primary || !guard::holds(Guard::HoleFromPrimary);
        let ends = short && leads && !self.task.growth_only;
        if ends && guard::holds(Guard::FreshnessStamp) && sent.map_version < self.task.stamp {
            self.salvage.leave();
            self.failover.on_view_failed(sent.view);
            return Step::RefreshMap;
        }
        self.salvage.keep(kept, self.task.growth_only, ends);
        self.wants_primary |= short && !leads && !self.task.growth_only;
        if let Some(why) = wrong.or_else(|| (short && !ends).then(|| NOT_THERE.into())) {
            self.salvage.note(why);
        }
        self.on_part_ended(sent.member)
    }

    /// True for a refusal of a part of the range that says what the member lacks.
    fn is_part_refused(&self, status: Status) -> bool {
        match status {
            Status::Corrupt => true,
            // What only grew is somewhere: nobody is believed who lacks it.
            Status::ChunkShort | Status::ChunkNotFound => self.task.growth_only,
            _ => false,
        }
    }

    fn on_part_refused(&mut self, sent: Sent, refusal: Refusal) -> Step<ReadDone> {
        if refusal.status == Status::ChunkNotFound {
            self.salvage.leave();
            self.set_bad(sent.member, refusal.text);
            return Step::TryNow;
        }
        self.salvage.note(refusal.text);
        self.salvage.on_refused(&sent.range);
        self.on_part_ended(sent.member)
    }

    /// Ends the read when nothing is missing any more; else goes on with this member or the next.
    fn on_part_ended(&mut self, member: Member) -> Step<ReadDone> {
        if let Some(bytes) = self.salvage.take_whole(&self.wanted()) {
            let (range, zeros) = (0..bytes.len(), self.task.len as usize - bytes.len());
            return Step::Done(ReadDone { range, patched: Some(bytes), zeros });
        }
        if let Some(why) = self.salvage.verdict() {
            self.set_bad(member, why);
        }
        Step::TryNow
    }

    /// The range of the operation, inside the chunk.
    fn wanted(&self) -> Range<u32> {
        self.task.offset..self.task.offset + self.task.len
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

#[cfg(test)]
mod tests;
