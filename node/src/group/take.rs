//! Taking over: what another member has beyond the primary is brought to the primary.
//!
//! Mostly a primary settles what exists. But one that was left alone, or that came back and was
//! believed, may itself lack what was acknowledged: its device lost writes that it had confirmed, and
//! nothing at its start tells. So a newer version that a member has is fetched whole and kept here
//! as a pending, instead of being dropped or set aside there, in two cases:
//! - the group cannot be written, and a member that catches up has it (`resync`);
//! - the primary was believed, and a serving member has it pending (`activate`).
//!
//! Only versions of the last epoch in which writes were acknowledged are taken. Whoever has one was a
//! member of that epoch, in whatever role, and has every version acknowledged in it, so nothing
//! acknowledged replaced this one. A version that was never acknowledged does no harm: nobody was
//! told that it failed, so it may take effect. What the mark here has passed is settled, and readers
//! may have seen the chunk without it, so that is not taken. Files that died are dropped from all
//! members again; files are cut only where the group can be written.
//!
//! What nobody can give is given up after a while, and goes the way of what the primary does not
//! want: healing does not wait for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use protocol::cluster_map::Role;
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, Fid, OpId, RequestId, TargetId, Version};
use protocol::layout::cells_touched;
use protocol::message::chunk::WriteClass;
use protocol::message::heal::{FetchReply, FetchRequest};
use protocol::status::Status;

use super::activate;
use super::member::{Cx, Member, Phase};
use super::repair::Fetch;
use super::resync;
use crate::io::Nanos;
use crate::limits::{FETCHES_PER_SHARD_MAX, REPAIR_PAUSE_MAX_MS, TAKE_PAUSE_MS, TAKE_TRIES_MAX};
use crate::shard::effect::{Alert, Effect, Installed, PeerMessage, Task, WriteTask};
use crate::shard::state::{Core, Job};
use crate::store::StoreError;

/// Versions on their way to the primary.
#[derive(Clone, Debug, Default)]
pub struct Takes {
    works: BTreeMap<(ChunkKey, Version), Take>,
}

/// One of them.
#[derive(Clone, Debug)]
struct Take {
    /// Length of the chunk at this version.
    len: u32,
    /// Members that have it.
    holders: BTreeSet<TargetId>,
    /// Those of them that may give it, next one first.
    sources: VecDeque<TargetId>,
    step: Step,
    /// Since when it is wanted.
    since: Nanos,
    /// Since when the first source is tried.
    tried: Option<Nanos>,
    /// Not before this.
    wait: Nanos,
    /// How often it did not come.
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Idle,
    Asking(RequestId, Nanos),
    Storing,
}

impl Takes {
    /// How many are wanted.
    pub fn len(&self) -> usize {
        self.works.len()
    }

    /// True when none is wanted.
    pub fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    /// True while something that a member has is wanted.
    pub fn wants_of(&self, target: TargetId) -> bool {
        self.works.values().any(|take| take.holders.contains(&target))
    }

    /// True while a chunk of one of the files is being brought here.
    pub fn is_busy_with(&self, fids: &[Fid]) -> bool {
        let mut busy = self.works.iter().filter(|(_, take)| take.step != Step::Idle);
        busy.any(|((key, _), _)| fids.contains(&key.fid))
    }
}

/// True for a version that a member has, and the primary would have if it had been acknowledged and
/// the primary had lost nothing.
pub fn may_take<P>(member: &Member<P>, version: Version) -> bool {
    let doubtful = member.believed || !member.record.writable();
    let last = version.epoch == member.record.last_writable_epoch;
    guard::holds(Guard::TakenOver) && doubtful && last && version > member.through
}

/// Notes a version that a member has.
pub fn note<P>(
    member: &mut Member<P>,
    now: Nanos,
    target: TargetId,
    name: (ChunkKey, Version),
    len: u32,
) {
    let take = member.takes.works.entry(name).or_insert_with(|| Take::new(now, len));
    if take.holders.insert(target) {
        take.sources.push_back(target);
    }
}

/// Asks for what is wanted: of each chunk the newest version first, which has what is below.
pub fn advance<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if member.takes.is_empty() || cx.core.fenced {
        return;
    }
    drop_needless(member, cx);
    if member.takes.is_empty() {
        activate::advance(member, cx);
        return;
    }
    let mut turns: BTreeMap<ChunkKey, (Version, bool)> = BTreeMap::new();
    for ((key, version), take) in &member.takes.works {
        let busy = turns.get(key).is_some_and(|(_, busy)| *busy) || take.step != Step::Idle;
        turns.insert(*key, (*version, busy));
    }
    for (key, (version, _)) in turns.into_iter().filter(|(_, (_, busy))| !busy) {
        if cx.core.upkeep.fetches.len() >= FETCHES_PER_SHARD_MAX {
            return;
        }
        ask(member, cx, (key, version));
    }
}

/// Lets time pass.
pub fn tick<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if member.takes.is_empty() || cx.core.fenced {
        return;
    }
    let waits = cx.core.config.timeouts;
    let activating = member.phase == Phase::Activating;
    let mut over = Vec::new();
    for (name, take) in &mut member.takes.works {
        if let Step::Asking(request, since) = take.step
            && cx.now.since(since) >= waits.replicate
        {
            cx.core.upkeep.fetches.remove(&request);
            take.fail(cx.now);
        }
        let late = activating && cx.now.since(take.since) >= waits.replicate;
        if take.step == Step::Idle && (late || take.is_over()) {
            over.push(*name);
        }
    }
    for name in over {
        give_up(member, cx, name);
    }
    advance(member, cx);
}

/// Takes in what a member sent.
pub fn on_fetched<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    fetch: &Fetch,
    reply: &FetchReply,
    payload: P,
) {
    let name = (fetch.key, fetch.version);
    let Some(take) = member.takes.works.get_mut(&name) else { return };
    if !is_whole(reply, fetch.version) {
        take.fail(cx.now);
        return;
    }
    take.step = Step::Storing;
    let task = WriteTask {
        group: member.group,
        key: fetch.key,
        version: fetch.version,
        base: Version::ZERO,
        op: reply.ops.last().copied().unwrap_or_else(OpId::default),
        class: WriteClass::Growth,
        offset: 0,
        len: reply.chunk_len,
        expect_len: reply.chunk_len,
        trunc_gen: reply.trunc_gen,
        cell_log2: reply.cell_log2,
        chunk_log2: reply.chunk_log2,
        sums: Rc::from(reply.sums.as_slice()),
        payload: Some(payload),
    };
    let (ops, mutated) = (reply.ops.clone(), reply.mutated);
    let installed = Installed { ops, mutated, committed: false, checked: false };
    let job = Job::Take(member.group, fetch.key, fetch.version);
    cx.store(&mut member.storing, job, Task::Install(task, installed));
}

/// A member did not give it.
pub fn on_refused<P>(member: &mut Member<P>, now: Nanos, fetch: &Fetch, status: Status) {
    let Some(take) = member.takes.works.get_mut(&(fetch.key, fetch.version)) else { return };
    take.fail(now);
    if status == Status::ChunkNotFound {
        take.sources.retain(|target| *target != fetch.target);
    }
}

/// A request did not leave: it is tried again while its member may still be connected to.
pub fn on_unsent<P>(member: &mut Member<P>, core: &Core, now: Nanos, fetch: &Fetch) {
    let waits = &core.config.timeouts;
    let Some(take) = member.takes.works.get_mut(&(fetch.key, fetch.version)) else { return };
    if take.tried.is_none_or(|since| now.since(since) >= waits.silence) {
        take.fail(now);
    } else {
        take.step = Step::Idle;
        take.wait = now.after(waits.retry);
    }
}

/// Notes how storing it ended.
pub fn on_stored<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    name: (ChunkKey, Version),
    result: Result<(), &StoreError>,
) {
    let Some(take) = member.takes.works.get_mut(&name) else { return }; // Of an epoch before.
    if result.is_err() {
        take.fail(cx.now);
        return;
    }
    let Some(take) = member.takes.works.remove(&name) else { return };
    cx.core.upkeep.counts.taken_over += 1;
    let (group, (key, version)) = (member.group, name);
    cx.out.push(Effect::Alert(Alert::TakenOver { group, key, version }));
    let others = member.others(cx.core.me());
    let lack = others.iter().filter(|entry| !take.holders.contains(&entry.target));
    for entry in lack {
        match entry.role {
            Role::Syncing => resync::wants(member, entry.target, (key, take.len)),
            _ if member.phase == Phase::Activating => {
                member.activation.rolls.push_back((entry.target, key));
            }
            _ => {} // The next activation of an epoch that can be written brings it there.
        }
    }
    ended(member, cx);
}

/// Ends what nobody gave: those who have it are made equal to the primary.
fn give_up<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, name: (ChunkKey, Version)) {
    let Some(take) = member.takes.works.remove(&name) else { return };
    let here = cx.index.info(member.group, name.0).map(|info| info.chunk_len);
    for target in take.holders {
        match (member.role_of(target), here) {
            (Some(Role::Syncing), Some(len)) => resync::wants(member, target, (name.0, len)),
            (Some(Role::Syncing), None) => resync::refuses(member, target, name.0),
            _ if member.phase == Phase::Activating => {
                activate::discard(member, cx, target, vec![name]);
            }
            _ => {}
        }
    }
    ended(member, cx);
}

/// Forgets what is here meanwhile, and chunks of files that died.
fn drop_needless<P>(member: &mut Member<P>, cx: &Cx<'_, P>) {
    let (group, dead) = (member.group, &member.dead);
    let mut behind = Vec::new();
    member.takes.works.retain(|(key, version), take| {
        let own = cx.index.info(group, *key).filter(|own| own.version >= *version);
        let died = dead.iter().any(|dead| dead.fids.contains(&key.fid));
        if take.step != Step::Idle || (own.is_none() && !died) {
            return true;
        }
        if let Some(own) = own.filter(|own| own.version > *version) {
            behind.extend(take.holders.iter().map(|target| (*target, *key, own.chunk_len)));
        }
        false
    });
    for (target, key, len) in behind {
        resync::wants(member, target, (key, len));
    }
}

fn ended<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    advance(member, cx);
    activate::advance(member, cx);
}

fn ask<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>, (key, version): (ChunkKey, Version)) {
    let Some(take) = member.takes.works.get_mut(&(key, version)) else { return };
    let Some(&target) = take.sources.front().filter(|_| cx.now >= take.wait) else { return };
    let (group, epoch, me) = (member.group, member.record.epoch, cx.core.me());
    let request = cx.core.new_request();
    take.step = Step::Asking(request, cx.now);
    take.tried.get_or_insert(cx.now);
    cx.core.upkeep.fetches.insert(request, (group, Fetch { target, key, version, takes: true }));
    let fetch = FetchRequest { group, member: me, key, version, first_cell: 0, cells: 0 };
    let message = PeerMessage::Fetch(fetch);
    cx.out.push(Effect::Send { target, request, epoch, message, payload: None });
}

/// True when all of the chunk at this version was sent.
fn is_whole(reply: &FetchReply, version: Version) -> bool {
    let (_, cells) = cells_touched(reply.cell_log2, 0, reply.chunk_len);
    reply.version == version && reply.first_cell == 0 && reply.sums.len() == cells as usize
}

impl Take {
    fn new(now: Nanos, len: u32) -> Take {
        Take {
            len,
            holders: BTreeSet::new(),
            sources: VecDeque::new(),
            step: Step::Idle,
            since: now,
            tried: None,
            wait: now,
            failures: 0,
        }
    }

    /// The next source is asked after a pause, each time a longer one.
    fn fail(&mut self, now: Nanos) {
        let pause = (TAKE_PAUSE_MS << self.failures.min(16)).min(REPAIR_PAUSE_MAX_MS);
        self.step = Step::Idle;
        self.tried = None;
        self.failures += 1;
        self.wait = now.after(Duration::from_millis(pause));
        if !self.sources.is_empty() {
            self.sources.rotate_left(1);
        }
    }

    fn is_over(&self) -> bool {
        self.sources.is_empty() || self.failures >= TAKE_TRIES_MAX
    }
}
