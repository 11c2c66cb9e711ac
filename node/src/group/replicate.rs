//! A version from its assignment until every member has it, or until every trace of it is gone.
//!
//! The members receive it while the local write runs. It is committed when it is durable on all of
//! them; it fails only when this store or a member's cannot take it, and then it is dropped
//! everywhere before the client hears of it, so a failed write never appears later.

use std::collections::BTreeSet;
use std::rc::Rc;

use protocol::checksum::CellSum;
use protocol::cluster_map::Role;
use protocol::guard::{self, Guard};
use protocol::ids::{TargetId, Version};
use protocol::message::chunk::{ReplicateMode, ReplicateRequest, WriteReply, WriteRequest};
use protocol::status::Status;

use super::calls::{self, CallKind};
use super::member::{Cx, Member};
use super::write::{self, Queued};
use crate::io::Nanos;
use crate::shard::effect::{Effect, ReplyBody, Task, WriteTask};
use crate::shard::event::{Answer, Asked};
use crate::shard::state::Job;
use crate::store::{Durable, StoreError};

/// A version that is not on every member yet.
#[derive(Clone, Debug)]
pub struct InFlight<P> {
    /// The version.
    pub version: Version,
    /// What it builds on.
    pub base: Version,
    /// The client's write.
    pub request: WriteRequest,
    /// Its checksums, shared with the store.
    pub sums: Rc<[CellSum]>,
    /// Its bytes; `None` for this primary's own cuts.
    pub payload: Option<P>,
    /// Who waits for the outcome.
    pub waiters: Vec<Asked>,
    /// Where the local copy stands.
    pub local: Local,
    /// Members that do not have it.
    pub waiting: BTreeSet<TargetId>,
    /// Those of them that need the whole chunk, once it is durable here.
    pub wholes: BTreeSet<TargetId>,
    /// Least free space that a member reported.
    pub free: u64,
    /// Why it cannot be committed.
    pub failed: Option<Status>,
    /// After a failure: who still has to drop it, this target included.
    pub undo: Option<BTreeSet<TargetId>>,
}

/// Where the primary's own copy of a version stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// In the store.
    Storing,
    /// The store had no room in its journal; it is asked again then.
    Retry(Nanos),
    /// On the device.
    Durable(Durable),
    /// The store did not take it.
    Failed,
}

/// Assigns the next version to a write and sends it on its way.
pub fn start<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    queued: Queued<P>,
    base: Version,
) {
    let own = member.record.member(cx.core.me()).map(|own| own.generation);
    assert_eq!(own, Some(cx.core.config.generation), "versions are assigned by one incarnation");
    member.writes.counter += 1;
    let version = Version { epoch: member.epoch(), counter: member.writes.counter };
    assert!(version > base, "versions of a chunk ascend");
    let others: Vec<TargetId> =
        member.others(cx.core.me()).iter().map(|entry| entry.target).collect();
    let write = InFlight {
        version,
        base,
        sums: Rc::from(queued.request.sums.as_slice()),
        request: queued.request,
        payload: queued.payload,
        waiters: queued.asked.into_iter().collect(),
        local: Local::Storing,
        waiting: others.iter().copied().collect(),
        wholes: BTreeSet::new(),
        free: u64::MAX,
        failed: None,
        undo: None,
    };
    let key = write.request.key;
    member.writes.chunks.entry(key).or_default().in_flight = Some(version);
    member.writes.in_flight.insert(version, write);
    member.writes.announced = member.mark_for_members();
    for target in others {
        calls::start(member, cx, target, CallKind::Replicate(version));
    }
    store_local(member, cx, version);
}

/// Notes how the local copy of a version ended.
pub fn on_local<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    version: Version,
    result: &Result<Option<Durable>, StoreError>,
) {
    let retry_at = cx.now.after(cx.core.config.timeouts.retry);
    let Some(write) = member.writes.in_flight.get_mut(&version) else { return };
    match result {
        Ok(Some(durable)) => {
            write.local = Local::Durable(*durable);
            write.free = write.free.min(durable.free);
        }
        Ok(None) => {
            write.local = Local::Failed;
            write.failed = write.failed.or(Some(Status::Internal));
        }
        Err(StoreError::Busy) => write.local = Local::Retry(retry_at),
        Err(error @ (StoreError::Fenced | StoreError::Disk(_))) => {
            // This target is out. The next primary settles the version; the client asks it.
            cx.core.fenced = true;
            for waiter in std::mem::take(&mut write.waiters) {
                cx.reply(waiter.reply, waiter.epoch, Err(error.status().into()));
            }
            return;
        }
        Err(error) => {
            write.local = Local::Failed;
            write.failed = write.failed.or(Some(error.status()));
        }
    }
    advance(member, cx, version);
}

/// Notes a member's answer to a version; true when the call has ended.
pub fn on_answer<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    version: Version,
    answer: &Answer,
) -> bool {
    let role = member.role_of(target);
    let Some(write) = member.writes.in_flight.get_mut(&version) else { return true };
    match answer {
        Answer::Replicate(reply) => {
            write.free = write.free.min(reply.free);
            write.waiting.remove(&target);
        }
        Answer::Refused(Status::NoSpace) => {
            write.failed = write.failed.or(Some(Status::NoSpace));
            write.waiting.remove(&target);
        }
        Answer::Refused(Status::Conflict) if role == Some(Role::Syncing) => {
            if guard::holds(Guard::WholeChunk) {
                write.wholes.insert(target);
            } else {
                write.waiting.remove(&target);
            }
        }
        Answer::Refused(Status::Corrupt) => {
            write.wholes.insert(target);
        }
        Answer::Refused(Status::Conflict | Status::Fenced | Status::DeviceError) => {
            calls::accuse(member, target);
            return false;
        }
        _ => return false,
    }
    advance(member, cx, version);
    true
}

/// Notes that a member, or the local store, has dropped a version that failed.
pub fn on_undone<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    version: Version,
) {
    if let Some(write) = member.writes.in_flight.get_mut(&version)
        && let Some(undo) = &mut write.undo
    {
        undo.remove(&target);
        advance(member, cx, version);
    }
}

/// Notes how the local store's drop of a failed version ended; a refused one is tried again.
pub fn on_local_undone<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    version: Version,
    durable: bool,
) {
    if durable {
        on_undone(member, cx, cx.core.me(), version);
    } else if let Some(write) = member.writes.in_flight.get_mut(&version) {
        write.local = Local::Retry(cx.now.after(cx.core.config.timeouts.resend));
    }
}

/// Answers waiters whose deadline passed and asks the store again where it was busy.
pub fn tick<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    let mut again = Vec::new();
    for (version, write) in &mut member.writes.in_flight {
        let late = |asked: &Asked| asked.deadline.is_some_and(|deadline| deadline <= cx.now);
        for asked in write.waiters.iter().filter(|asked| late(asked)) {
            let (to, epoch) = (asked.reply, asked.epoch);
            cx.out.push(Effect::Reply { to, epoch, answer: Err(Status::Unknown.into()) });
        }
        write.waiters.retain(|asked| !late(asked));
        if matches!(write.local, Local::Retry(at) if at <= cx.now) {
            write.local = Local::Storing;
            again.push(*version);
        }
    }
    for version in again {
        store_local(member, cx, version);
    }
}

/// The message that brings a version to a member.
pub fn message<P>(member: &Member<P>, me: TargetId, write: &InFlight<P>) -> ReplicateRequest {
    let request = &write.request;
    ReplicateRequest {
        group: member.group,
        primary: me,
        key: request.key,
        mode: ReplicateMode::Write,
        version: write.version,
        base: write.base,
        op: request.op,
        class: request.class,
        offset: request.offset,
        len: request.len,
        chunk_len: request.offset + request.len,
        expect_len: request.expect_len,
        trunc_gen: request.trunc_gen,
        cell_log2: request.cell_log2,
        chunk_log2: request.chunk_log2,
        sums: request.sums.clone(),
        aux: Vec::new(),
        ops: Vec::new(),
        mutated: false,
        committed_through: member.mark_for_members(),
    }
}

fn store_local<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, version: Version) {
    let Some(write) = member.writes.in_flight.get(&version) else { return };
    let request = &write.request;
    if write.undo.is_some() {
        let task = Task::Discard(member.group, vec![(request.key, version)]);
        cx.store(&mut member.storing, Job::LocalDiscard(member.group, version), task);
        return;
    }
    let task = WriteTask {
        group: member.group,
        key: request.key,
        version,
        base: write.base,
        op: request.op,
        class: request.class,
        offset: request.offset,
        len: request.len,
        expect_len: request.expect_len,
        trunc_gen: request.trunc_gen,
        cell_log2: request.cell_log2,
        chunk_log2: request.chunk_log2,
        sums: Rc::clone(&write.sums),
        payload: write.payload.clone(),
    };
    cx.store(&mut member.storing, Job::Local(member.group, version), Task::Write(task));
}

/// Moves a version on: whole chunks to who needs them, then commit or undo.
fn advance<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, version: Version) {
    let Some(write) = member.writes.in_flight.get_mut(&version) else { return };
    if write.failed.is_some() {
        undo(member, cx, version);
        return;
    }
    if !matches!(write.local, Local::Durable(_)) {
        return;
    }
    let key = write.request.key;
    for target in std::mem::take(&mut write.wholes) {
        calls::start(member, cx, target, CallKind::Whole(version, key));
    }
    let waiting = &member.writes.in_flight[&version].waiting;
    let everywhere = waiting.is_empty() || !guard::holds(Guard::WaitForAll);
    if everywhere {
        commit(member, cx, version);
    }
}

fn commit<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, version: Version) {
    let Some(write) = end(member, cx, version) else { return };
    member.writes.done.insert(version);
    raise_mark(member, cx);
    let chunk_len = write.request.offset + write.request.len;
    let done = WriteReply { version, chunk_len, free: write.free };
    for waiter in write.waiters {
        cx.reply(waiter.reply, waiter.epoch, Ok(ReplyBody::Write(done.clone())));
    }
    write::pump(member, cx, write.request.key);
}

/// Drops a failed version everywhere, then answers; waits until nobody is about to store it.
fn undo<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, version: Version) {
    let me = cx.core.me();
    let others: Vec<TargetId> = member.others(me).iter().map(|entry| entry.target).collect();
    let Some(write) = member.writes.in_flight.get_mut(&version) else { return };
    for target in std::mem::take(&mut write.wholes) {
        write.waiting.remove(&target); // It refused, so it has nothing to drop.
    }
    if write.undo.is_none() && matches!(write.local, Local::Retry(_)) {
        write.local = Local::Failed; // The store never took it.
    }
    if write.undo.is_none() && (write.local == Local::Storing || !write.waiting.is_empty()) {
        return;
    }
    let items = vec![(write.request.key, version)];
    match &write.undo {
        None => {
            let mut undo: BTreeSet<TargetId> = others.iter().copied().collect();
            let here = matches!(write.local, Local::Durable(_));
            if here {
                undo.insert(me);
            }
            let nobody = undo.is_empty();
            write.undo = Some(undo);
            for target in others {
                calls::start(member, cx, target, CallKind::Discard(items.clone(), Some(version)));
            }
            if here {
                let task = Task::Discard(member.group, items);
                cx.store(&mut member.storing, Job::LocalDiscard(member.group, version), task);
            } else if nobody {
                fail(member, cx, version);
            }
        }
        Some(undo) if undo.is_empty() => fail(member, cx, version),
        Some(_) => {}
    }
}

fn fail<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, version: Version) {
    let Some(write) = end(member, cx, version) else { return };
    raise_mark(member, cx);
    let status = write.failed.unwrap_or(Status::Internal);
    for waiter in write.waiters {
        cx.reply(waiter.reply, waiter.epoch, Err(status.into()));
    }
    write::pump(member, cx, write.request.key);
}

fn end<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>, version: Version) -> Option<InFlight<P>> {
    let write = member.writes.in_flight.remove(&version)?;
    cx.core.budget.clients.give(write.request.len);
    if let Some(chunk) = member.writes.chunks.get_mut(&write.request.key) {
        chunk.in_flight = None;
    }
    Some(write)
}

/// Everything below the oldest version in flight is committed.
fn raise_mark<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    let epoch = member.epoch();
    let counter = match member.writes.in_flight.keys().next() {
        Some(oldest) => oldest.counter - 1,
        None => member.writes.counter,
    };
    let through = Version { epoch, counter };
    if through > member.through {
        member.through = through;
        member.writes.done.retain(|version| *version > through);
        cx.out.push(Effect::CommitThrough { group: member.group, through });
    }
}
