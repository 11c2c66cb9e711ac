//! A version from its assignment until every member has it, or until every trace of it is gone.
//!
//! The members receive it while the local write runs. It is committed when it is durable on all of
//! them; it fails only when this store or a member's cannot take it, and then it is dropped
//! everywhere before the client hears of it, so a failed write never appears later. Growth in flight
//! on top of a version that fails goes with it, the newest first.
//!
//! A member that holds a version holds what it builds on. So a version that is everywhere takes
//! the ones before it along, and a member that cannot take one version is sent the whole chunk at
//! the newest one, after every other member has that: nothing it vouches for can fail any more but
//! for itself.
//!
//! A change of existing bytes is not committed while a member that left may still answer reads
//! under its lease. It is driven to every member meanwhile; only the commit waits, so no reader
//! sees the new bytes before another could be shown the old ones for the last time.

use std::collections::BTreeSet;
use std::rc::Rc;

use protocol::checksum::CellSum;
use protocol::cluster_map::Role;
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, TargetId, Version};
use protocol::message::chunk::{
    ReplicateMode, ReplicateRequest, WriteClass, WriteReply, WriteRequest,
};
use protocol::status::Status;

use super::calls::{self, CallKind};
use super::member::{Cx, Member, Phase};
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
    /// Length of the chunk at this version.
    pub chunk_len: u32,
    /// Where the local copy stands.
    pub local: Local,
    /// Members that do not have it.
    pub waiting: BTreeSet<TargetId>,
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
    chunk_len: u32,
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
        chunk_len,
        local: Local::Storing,
        waiting: others.iter().copied().collect(),
        free: u64::MAX,
        failed: None,
        undo: None,
    };
    let key = write.request.key;
    member.writes.chunks.entry(key).or_default().in_flight.push_back(version);
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
    let base = member.writes.in_flight.get(&version).map_or(Version::ZERO, |write| write.base);
    let base_waits = member.writes.in_flight.get(&base).is_some_and(|base| !base.is_durable());
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
        // What it builds on was refused just before; it fails with that or is tried again after it.
        Err(StoreError::BaseMismatch { .. }) if base_waits => write.local = Local::Retry(retry_at),
        // A transfer that failed without fencing the target concerns this write alone: were the
        // whole target silenced here, nobody would learn of it, for its health says that it works.
        Err(error @ StoreError::Fenced) => {
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
    let Some(write) = member.writes.in_flight.get(&version) else { return true };
    let base = member.writes.in_flight.get(&write.base);
    let base_waits = base.is_some_and(|base| base.waiting.contains(&target));
    let doomed = base.is_some_and(|base| base.failed.is_some()) || write.failed.is_some();
    match answer {
        Answer::Replicate(reply) => {
            note_free(member, cx.now, target, reply.free);
            if let Some(write) = member.writes.in_flight.get_mut(&version) {
                write.free = write.free.min(reply.free);
                write.waiting.remove(&target);
            }
        }
        Answer::Refused(status @ Status::NoSpace) => {
            if let Some(write) = member.writes.in_flight.get_mut(&version) {
                write.failed = write.failed.or(Some(*status));
                write.waiting.remove(&target);
            }
        }
        // What it builds on is not there either: it goes with that, or comes after it.
        Answer::Refused(Status::Conflict) if doomed => {
            if let Some(write) = member.writes.in_flight.get_mut(&version) {
                write.waiting.remove(&target);
            }
        }
        Answer::Refused(Status::Conflict) if base_waits => return false,
        Answer::Refused(Status::Conflict) if role == Some(Role::Syncing) => {
            if guard::holds(Guard::WholeChunk) {
                needs_whole(member, cx, target, version);
            } else if let Some(write) = member.writes.in_flight.get_mut(&version) {
                write.waiting.remove(&target);
            }
        }
        Answer::Refused(Status::Corrupt) => needs_whole(member, cx, target, version),
        Answer::Refused(Status::Conflict | Status::Fenced | Status::DeviceError) => {
            calls::accuse(member, target);
            return false;
        }
        _ => return false,
    }
    advance(member, cx, version);
    true
}

/// Notes what a member said of its free space.
fn note_free<P>(member: &mut Member<P>, now: Nanos, target: TargetId, free: u64) {
    if let Some(contact) = member.contacts.get_mut(&target) {
        contact.free = Some((free, now));
    }
}

/// Notes that a member gets the whole chunk instead of the versions in flight.
fn needs_whole<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>, target: TargetId, version: Version) {
    let Some(write) = member.writes.in_flight.get(&version) else { return };
    let Some(chunk) = member.writes.chunks.get_mut(&write.request.key) else { return };
    chunk.wholes.insert(target, None);
    // What it would answer now may rest on a version that can still fail.
    let versions: BTreeSet<Version> = chunk.in_flight.iter().copied().collect();
    calls::drop_writes(cx.core, member.group, target, &versions);
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
            again.push(*version);
        }
    }
    for version in again {
        // In the order of the chain: what a version builds on goes to the store before it.
        let base = member.writes.in_flight.get(&version).map(|write| write.base);
        let base = base.and_then(|base| member.writes.in_flight.get(&base));
        if base.is_some_and(|base| matches!(base.local, Local::Retry(_))) {
            continue;
        }
        if let Some(write) = member.writes.in_flight.get_mut(&version) {
            write.local = Local::Storing;
        }
        store_local(member, cx, version);
    }
    release(member, cx);
}

/// Commits what only waited for the leases of members that left, or for the own lease.
pub fn release<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if member.writes.mark_held && member.record.mutations && member.phase == Phase::Ready {
        member.writes.mark_held = false;
        raise_mark(member, cx);
        for key in member.writes.chunks.keys().copied().collect::<Vec<ChunkKey>>() {
            write::pump(member, cx, key);
        }
    }
    for version in std::mem::take(&mut member.writes.held) {
        advance(member, cx, version);
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
        chunk_len: write.chunk_len,
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
    let Some(write) = member.writes.in_flight.get(&version) else { return };
    let key = write.request.key;
    if let Some(status) = write.failed {
        let chain = member.writes.chunks.get(&key).map(|chunk| chunk.in_flight.clone());
        let after: Vec<Version> =
            chain.into_iter().flatten().filter(|other| *other >= version).collect();
        for other in &after {
            if let Some(write) = member.writes.in_flight.get_mut(other) {
                write.failed = write.failed.or(Some(status));
            }
        }
        if let Some(newest) = after.last() {
            undo(member, cx, *newest);
        }
        return;
    }
    send_wholes(member, cx, key);
    let Some(write) = member.writes.in_flight.get(&version) else { return };
    let everywhere = write.waiting.is_empty() || !guard::holds(Guard::WaitForAll);
    if !write.is_durable() || !everywhere {
        return;
    }
    if !may_commit(member, cx, write) {
        member.writes.held.insert(version);
        return;
    }
    commit_through(member, cx, key, version);
}

/// Sends the whole chunk to the members that need it, once all others have its newest version.
fn send_wholes<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, key: ChunkKey) {
    let Some(chunk) = member.writes.chunks.get(&key).filter(|chunk| !chunk.wholes.is_empty())
    else {
        return;
    };
    let Some(newest) = chunk.in_flight.back().copied() else { return };
    let Some(write) = member.writes.in_flight.get(&newest) else { return };
    let others_have_it = write.waiting.iter().all(|target| chunk.wholes.contains_key(target));
    if !write.is_durable() || !others_have_it || write.failed.is_some() {
        return;
    }
    let sent = |(_, sent): &(&TargetId, &Option<Version>)| **sent != Some(newest);
    let due: Vec<TargetId> = chunk.wholes.iter().filter(sent).map(|(target, _)| *target).collect();
    for target in due {
        if let Some(chunk) = member.writes.chunks.get_mut(&key) {
            chunk.wholes.insert(target, Some(newest));
        }
        calls::start(member, cx, target, CallKind::Whole(newest, key));
    }
}

/// False while committing the version could show two readers different bytes.
fn may_commit<P>(member: &Member<P>, cx: &Cx<'_, P>, write: &InFlight<P>) -> bool {
    let changes = write.request.class != WriteClass::Growth;
    if changes && guard::holds(Guard::MutationsGate) && !member.record.mutations {
        return false;
    }
    // Alone, nobody else can refuse in the name of a newer epoch: the lease says there is none.
    let alone = member.record.members.len() == 1;
    !(alone && guard::holds(Guard::LeaseCheck) && cx.core.lease <= cx.now)
}

/// Commits the versions of a chunk in flight up to one that is on every member.
fn commit_through<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    key: ChunkKey,
    newest: Version,
) {
    let chain = member.writes.chunks.get(&key).map(|chunk| chunk.in_flight.clone());
    for version in chain.into_iter().flatten().filter(|version| *version <= newest) {
        let Some(write) = end(member, cx, version) else { continue };
        for target in &write.waiting {
            // Not asked again: the member holds what was built on it.
            calls::drop_writes(cx.core, member.group, *target, &BTreeSet::from([version]));
        }
        member.writes.done.insert(version);
        let done = WriteReply { version, chunk_len: write.chunk_len, free: write.free };
        for waiter in write.waiters {
            cx.reply(waiter.reply, waiter.epoch, Ok(ReplyBody::Write(done.clone())));
        }
    }
    raise_mark(member, cx);
    write::pump(member, cx, key);
}

/// Drops a failed version everywhere, then answers; waits until nobody is about to store it.
fn undo<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, version: Version) {
    let me = cx.core.me();
    let others: Vec<TargetId> = member.others(me).iter().map(|entry| entry.target).collect();
    let Some(write) = member.writes.in_flight.get_mut(&version) else { return };
    if let Some(chunk) = member.writes.chunks.get(&write.request.key) {
        // It refused, so it has nothing to drop, unless this version went to it as the whole chunk.
        let wholes = &chunk.wholes;
        write.waiting.retain(|target| wholes.get(target).is_none_or(|it| *it == Some(version)));
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
    let key = write.request.key;
    raise_mark(member, cx);
    let status = match write.failed.unwrap_or(Status::Internal) {
        Status::Corrupt => Status::Busy, // The old bytes here are being repaired.
        status => status,
    };
    for waiter in write.waiters {
        cx.reply(waiter.reply, waiter.epoch, Err(status.into()));
    }
    if let Some(before) = member.writes.chunks.get(&key).and_then(|chunk| chunk.in_flight.back()) {
        advance(member, cx, *before);
    }
    write::pump(member, cx, key);
}

fn end<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>, version: Version) -> Option<InFlight<P>> {
    let write = member.writes.in_flight.remove(&version)?;
    cx.core.budget.clients.give(write.request.len);
    if let Some(chunk) = member.writes.chunks.get_mut(&write.request.key) {
        chunk.in_flight.retain(|other| *other != version);
        if chunk.in_flight.is_empty() {
            chunk.wholes.clear();
        }
    }
    Some(write)
}

/// Everything below the oldest version in flight is committed, unless an older epoch left something
/// that may not be yet.
fn raise_mark<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if member.writes.mark_held {
        return;
    }
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

impl<P> InFlight<P> {
    fn is_durable(&self) -> bool {
        matches!(self.local, Local::Durable(_))
    }
}
